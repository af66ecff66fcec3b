//! The reader of frames on bytes in memory, for the property tests and the fuzz target.

use bytes::BytesMut;
use tokio_util::codec::Decoder;

use super::event::Request;
use super::frame::{Frame, FrameCodec};

/// What was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Read {
    /// The types of the events.
    pub kinds: Vec<String>,
    /// Bytes of payload.
    pub payload: usize,
    /// Why nothing more could be read; `None`: the bytes ended behind an event.
    pub error: Option<String>,
}

/// Reads the bytes as a connection that delivers them in pieces of this size, and interprets all events.
///
/// For any bytes, it returns without a panic, in time and memory that are a small multiple of the input's.
pub fn read(bytes: &[u8], piece: usize) -> Read {
    let mut codec = FrameCodec::new();
    let mut received = BytesMut::new();
    let mut read = Read::default();
    for piece in bytes.chunks(piece.max(1)) {
        received.extend_from_slice(piece);
        loop {
            match codec.decode(&mut received) {
                Ok(Some(frame)) => read.add(&frame),
                Ok(None) => break,
                Err(error) => {
                    read.error = Some(error.to_string());
                    return read;
                }
            }
        }
    }
    loop {
        match codec.decode_eof(&mut received) {
            Ok(Some(frame)) => read.add(&frame),
            Ok(None) => return read,
            Err(error) => {
                read.error = Some(error.to_string());
                return read;
            }
        }
    }
}

impl Read {
    fn add(&mut self, frame: &Frame) {
        match frame {
            Frame::Event(event) => {
                let _ = Request::of(event);
                self.kinds.push(event.kind.clone());
            }
            Frame::Payload(bytes) => self.payload += bytes.len(),
        }
    }
}
