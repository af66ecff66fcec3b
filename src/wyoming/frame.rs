//! The frames of the protocol: a line of JSON, a block of JSON with the event's data, and a payload.
//!
//! The reader passes a payload on in pieces, as they arrive: a connection's memory does not grow with its payloads.

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use memchr::memchr;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use thiserror::Error;
use tokio_util::codec::{Decoder, Encoder};

/// The longest line of an event.
pub const MAX_LINE: usize = 256 * 1024;
/// The longest block of data.
pub const MAX_DATA: usize = 256 * 1024;
/// The longest payload: two minutes of audio in the usual format.
pub const MAX_PAYLOAD: usize = 4 * 1024 * 1024;
/// The version of the protocol's reference implementation that this one follows.
const VERSION: &str = "1.10.2";
/// Characters of a line that an error message quotes.
const MAX_QUOTED: usize = 40;
/// Methods of HTTP, each with the space after it.
const HTTP_METHODS: [&[u8]; 8] = [
    b"GET ",
    b"POST ",
    b"HEAD ",
    b"PUT ",
    b"OPTIONS ",
    b"DELETE ",
    b"CONNECT ",
    b"PRI ",
];
/// The first byte of TLS.
const TLS_HANDSHAKE: u8 = 0x16;

/// The data of an event.
pub type Data = Map<String, Value>;

/// The head of an event. Its payload follows in pieces.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// The type, for example `audio-chunk`.
    pub kind: String,
    /// The data, of the line and of the block.
    pub data: Data,
    /// Bytes of payload that follow.
    pub payload_length: usize,
}

impl Event {
    /// An event without a payload.
    pub fn new(kind: &str, data: Data) -> Self {
        Self {
            kind: kind.to_owned(),
            data,
            payload_length: 0,
        }
    }
}

/// What the reader returns.
#[derive(Clone, Debug, PartialEq)]
pub enum Frame {
    /// The next event.
    Event(Event),
    /// The next piece of the last event's payload.
    Payload(Bytes),
}

/// Why a connection cannot be read any further.
#[derive(Debug, Error)]
pub enum FrameError {
    /// The connection broke.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// An HTTP request.
    #[error(
        "the client sends HTTP, but this port speaks Wyoming: the client's URL should name the port of HTTP (PORT)"
    )]
    Http,
    /// A TLS handshake.
    #[error("the client begins with TLS, but this port speaks Wyoming without encryption")]
    Tls,
    /// Something else than an event.
    #[error("the client sends something else than Wyoming events: {0:?}")]
    Foreign(String),
    /// A line, a block of data or a payload exceeds its limit.
    #[error("{what} of {length} bytes or more; the limit is {limit}")]
    TooLong {
        /// What is too long.
        what: &'static str,
        /// Its length, as far as it is known.
        length: u64,
        /// The limit.
        limit: usize,
    },
    /// The line, or the block of data, is no JSON object of an event.
    #[error("{what} is invalid: {error}")]
    Invalid {
        /// The part.
        what: &'static str,
        /// What is wrong.
        error: serde_json::Error,
    },
    /// The client closed the connection within an event.
    #[error("the client closed the connection in the middle of an event")]
    Cut,
}

impl FrameError {
    /// The error without what the client sent.
    pub fn for_log(&self) -> String {
        match self {
            Self::Foreign(_) => "the client sends something else than Wyoming events".to_owned(),
            Self::Invalid { what, error } => {
                let (line, column) = (error.line(), error.column());
                format!("{what} is invalid: line {line}, column {column}")
            }
            _ => self.to_string(),
        }
    }
}

/// The line of an event.
#[derive(Debug, Deserialize)]
struct Line {
    #[serde(rename = "type")]
    kind: String,
    data: Option<Data>,
    data_length: Option<u64>,
    payload_length: Option<u64>,
}

/// The line of an event to send. Its data is in a block.
#[derive(Serialize)]
struct LineToSend<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    version: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data_length: Option<usize>,
}

/// The part of a frame that the reader expects.
#[derive(Debug)]
enum Expected {
    /// A line, of which this many bytes contain no line feed.
    Line { scanned: usize },
    /// A block of data.
    Data { length: usize, event: Event },
    /// Bytes of payload.
    Payload { left: usize },
}

/// Reads and writes frames. After an error, nothing more can be read.
#[derive(Debug)]
pub struct FrameCodec {
    expected: Expected,
}

impl FrameCodec {
    /// A codec at the beginning of a connection.
    pub fn new() -> Self {
        Self {
            expected: Expected::Line { scanned: 0 },
        }
    }

    /// Continues behind the head of an event.
    fn behind_head(&mut self, event: Event) -> Frame {
        self.expected = match event.payload_length {
            0 => Expected::Line { scanned: 0 },
            left => Expected::Payload { left },
        };
        Frame::Event(event)
    }
}

impl Decoder for FrameCodec {
    type Item = Frame;
    type Error = FrameError;

    fn decode(&mut self, received: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        loop {
            match &mut self.expected {
                Expected::Line { scanned } => {
                    check_start(received)?;
                    let Some(at) = memchr(b'\n', &received[*scanned..]) else {
                        check_length("a line", received.len() as u64, MAX_LINE)?;
                        *scanned = received.len();
                        return Ok(None);
                    };
                    let line = received.split_to(*scanned + at);
                    received.advance(1);
                    check_length("a line", line.len() as u64, MAX_LINE)?;
                    let (event, data_length) = parse_line(&line)?;
                    if data_length == 0 {
                        return Ok(Some(self.behind_head(event)));
                    }
                    let length = data_length;
                    self.expected = Expected::Data { length, event };
                }
                Expected::Data { length, event } => {
                    if received.len() < *length {
                        return Ok(None);
                    }
                    let block = received.split_to(*length);
                    let data: Data = parse("the data of an event", &block)?;
                    let mut event = std::mem::replace(event, Event::new("", Data::new()));
                    event.data.extend(data);
                    return Ok(Some(self.behind_head(event)));
                }
                Expected::Payload { left } => {
                    if received.is_empty() {
                        return Ok(None);
                    }
                    let piece = received.split_to(received.len().min(*left)).freeze();
                    *left -= piece.len();
                    if *left == 0 {
                        self.expected = Expected::Line { scanned: 0 };
                    }
                    return Ok(Some(Frame::Payload(piece)));
                }
            }
        }
    }

    fn decode_eof(&mut self, received: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        match self.decode(received)? {
            Some(frame) => Ok(Some(frame)),
            None if matches!(self.expected, Expected::Line { .. }) && received.is_empty() => {
                Ok(None)
            }
            None => Err(FrameError::Cut),
        }
    }
}

impl Encoder<Event> for FrameCodec {
    type Error = FrameError;

    fn encode(&mut self, event: Event, out: &mut BytesMut) -> Result<(), FrameError> {
        let json = |error: serde_json::Error| FrameError::Io(error.into());
        let block = if event.data.is_empty() {
            None
        } else {
            Some(serde_json::to_vec(&event.data).map_err(json)?)
        };
        let line = LineToSend {
            kind: &event.kind,
            version: VERSION,
            data_length: block.as_ref().map(Vec::len),
        };
        serde_json::to_writer(out.writer(), &line).map_err(json)?;
        out.put_u8(b'\n');
        out.extend_from_slice(&block.unwrap_or_default());
        Ok(())
    }
}

/// Rejects what cannot be a line of JSON as soon as it arrives: there may never be a line feed.
fn check_start(received: &[u8]) -> Result<(), FrameError> {
    match received.first() {
        None | Some(b'{' | b' ' | b'\t' | b'\r') => Ok(()),
        Some(&TLS_HANDSHAKE) => Err(FrameError::Tls),
        Some(_) => {
            if HTTP_METHODS
                .iter()
                .any(|method| received.starts_with(method))
            {
                return Err(FrameError::Http);
            }
            // The rest of the method may follow.
            if HTTP_METHODS
                .iter()
                .any(|method| method.starts_with(received))
            {
                return Ok(());
            }
            let text = String::from_utf8_lossy(received);
            Err(FrameError::Foreign(text.chars().take(MAX_QUOTED).collect()))
        }
    }
}

fn check_length(what: &'static str, length: u64, limit: usize) -> Result<(), FrameError> {
    if length > limit as u64 {
        return Err(FrameError::TooLong {
            what,
            length,
            limit,
        });
    }
    Ok(())
}

/// The head of an event without the data of its block, and the length of the block.
fn parse_line(line: &[u8]) -> Result<(Event, usize), FrameError> {
    let line: Line = parse("the line of an event", line)?;
    let (data, payload) = (
        line.data_length.unwrap_or(0),
        line.payload_length.unwrap_or(0),
    );
    check_length("data", data, MAX_DATA)?;
    check_length("a payload", payload, MAX_PAYLOAD)?;
    let event = Event {
        kind: line.kind,
        data: line.data.unwrap_or_default(),
        payload_length: payload as usize,
    };
    Ok((event, data as usize))
}

fn parse<'a, T: Deserialize<'a>>(what: &'static str, json: &'a [u8]) -> Result<T, FrameError> {
    serde_json::from_slice(json).map_err(|error| FrameError::Invalid { what, error })
}

#[cfg(test)]
mod tests;
