//! Splits a multipart body into its parts (RFC 2046) while it arrives.
//!
//! The libraries for this reject a whole form because of a file name that they cannot read.

use actix_web::error::PayloadError;
use actix_web::web::{Bytes, BytesMut};
use futures::{Stream, StreamExt};
use memchr::memmem;

use super::part_head::PartHead;
use crate::http::body::{before_stall, read_error};
use crate::http::reply::error::ApiError;

/// The most bytes of a part's head that are looked at; more are skipped.
const MAX_HEAD_BYTES: usize = 64 * 1024;
/// The most whitespace after a boundary.
const MAX_PADDING: usize = 1024;

/// A multipart body, read part by part.
pub struct PartReader<S> {
    body: S,
    /// Bytes that arrived and are not used yet.
    buffer: BytesMut,
    /// The line that separates the parts, with the line break before it, which belongs to it.
    delimiter: memmem::Finder<'static>,
    place: Place,
    /// The upload limit in bytes, for messages.
    largest: u64,
}

/// Where in the body the reader is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Before the first part.
    Preamble,
    /// At the head of a part.
    Head,
    /// In the content of a part.
    Content,
    /// After the last part.
    End,
}

/// What the buffer begins with.
enum Beginning {
    /// This many bytes of a part's content.
    Content(usize),
    /// A delimiter of this length.
    Delimiter { length: usize, is_last: bool },
    /// A delimiter whose line ends in a line feed only.
    LineFeed,
    /// More bytes must arrive first.
    Unknown,
}

impl<S> PartReader<S>
where
    S: Stream<Item = Result<Bytes, PayloadError>> + Unpin,
{
    /// Reads `body` with this boundary.
    pub fn new(body: S, boundary: &[u8], largest: u64) -> Self {
        let delimiter = [b"\r\n--", boundary].concat();
        Self {
            body,
            // The first delimiter has no line break before it.
            buffer: BytesMut::from("\r\n"),
            delimiter: memmem::Finder::new(&delimiter).into_owned(),
            place: Place::Preamble,
            largest,
        }
    }

    /// Skips the rest of the current part and reads the head of the next one.
    ///
    /// # Errors
    /// The body breaks off or is not a form.
    pub async fn next_part(&mut self) -> Result<Option<PartHead>, ApiError> {
        while self.next_bytes().await?.is_some() {}
        if self.place == Place::End {
            return Ok(None);
        }
        let head = self.read_head().await?;
        self.place = Place::Content;
        Ok(Some(PartHead::parse(&head)))
    }

    /// The next bytes of the current part's content.
    ///
    /// # Errors
    /// The body breaks off or is not a form.
    pub async fn next_bytes(&mut self) -> Result<Option<Bytes>, ApiError> {
        while matches!(self.place, Place::Preamble | Place::Content) {
            match self.beginning() {
                Beginning::Content(length) => {
                    return Ok(Some(self.buffer.split_to(length).freeze()));
                }
                Beginning::Delimiter { length, is_last } => {
                    let _delimiter = self.buffer.split_to(length);
                    self.place = if is_last { Place::End } else { Place::Head };
                }
                Beginning::LineFeed => {
                    return Err(malformed(
                        "its lines end in a line feed (LF); they must end in CR LF",
                    ));
                }
                Beginning::Unknown => self.fill().await?,
            }
        }
        Ok(None)
    }

    fn beginning(&self) -> Beginning {
        let length = self.delimiter.needle().len();
        let Some(start) = self.delimiter.find(&self.buffer) else {
            // The last bytes may be the beginning of a delimiter.
            return match self.buffer.len().saturating_sub(length - 1) {
                0 => Beginning::Unknown,
                content => Beginning::Content(content),
            };
        };
        if start > 0 {
            return Beginning::Content(start);
        }
        let rest = &self.buffer[length..];
        let padding = rest.iter().take_while(|byte| b" \t".contains(byte)).count();
        let is_first = self.place == Place::Preamble;
        match &rest[padding..] {
            [b'\r', b'\n', ..] => Beginning::Delimiter {
                length: length + padding + 2,
                is_last: false,
            },
            [b'-', b'-', ..] => Beginning::Delimiter {
                length: length + padding + 2,
                is_last: true,
            },
            [b'\n', ..] if is_first => Beginning::LineFeed,
            [] | [b'\r' | b'-'] if padding <= MAX_PADDING => Beginning::Unknown,
            // Content that contains the boundary within a longer line.
            _ => Beginning::Content(length),
        }
    }

    /// Reads up to the empty line after the headers of a part.
    async fn read_head(&mut self) -> Result<Vec<u8>, ApiError> {
        const END: &[u8] = b"\r\n\r\n";
        let mut head = Vec::new();
        // The line break before the first header: a part without headers begins with an empty line.
        let mut unsearched = BytesMut::from("\r\n");
        loop {
            unsearched.unsplit(self.buffer.split());
            let end = memmem::find(&unsearched, END);
            // The last bytes may be the beginning of the end.
            let length = end.unwrap_or_else(|| unsearched.len().saturating_sub(END.len() - 1));
            let line_bytes = unsearched.split_to(length);
            let wanted = line_bytes
                .len()
                .min(MAX_HEAD_BYTES.saturating_sub(head.len()));
            head.extend_from_slice(&line_bytes[..wanted]);
            if end.is_some() {
                let _end = unsearched.split_to(END.len());
                self.buffer = unsearched;
                return Ok(head);
            }
            self.fill().await?;
        }
    }

    /// Waits for more bytes.
    async fn fill(&mut self) -> Result<(), ApiError> {
        match before_stall(self.body.next()).await? {
            Some(Ok(bytes)) => {
                self.buffer.extend_from_slice(&bytes);
                Ok(())
            }
            Some(Err(error)) => Err(read_error(&error, self.largest)),
            None if self.place == Place::Preamble => Err(malformed(
                "it does not contain the boundary that its Content-Type names",
            )),
            None => Err(malformed("it breaks off before its last boundary")),
        }
    }
}

fn malformed(reason: &str) -> ApiError {
    ApiError::malformed_body(format!("the multipart form is malformed: {reason}"))
}
