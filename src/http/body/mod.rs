//! A request's body as it came, before its fields are checked: a multipart form, or JSON with the audio
//! in base64. Read as it comes, in any order, within bounds.

pub mod form;
mod json;
pub mod language;
mod multipart;
mod prompt;
pub mod upload;
mod upload_rate;

use std::io::ErrorKind;
use std::time::Duration;

use actix_multipart::MultipartError;
use actix_web::HttpRequest;
use actix_web::error::PayloadError;
use actix_web::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use actix_web::web::{Bytes, Payload};
use futures::{Stream, StreamExt};

use crate::http::reply::error::ApiError;
use upload::{Received, UploadStore};
use upload_rate::Pace;

/// A client that sends nothing for so long is gone.
const STALL: Duration = Duration::from_secs(30);
/// A client that trickles holds a connection and a file no longer than this.
const LONGEST_UPLOAD: Duration = Duration::from_secs(3600);
/// The fields that mean something on one path or another.
const FIELDS: &[&str] = &[
    "chunking_strategy",
    "encode",
    "hallucination_guard",
    "include",
    "language",
    "model",
    "multilingual",
    "output",
    "prompt",
    "response_format",
    "stream",
    "task",
    "temperature",
    "timestamp_granularities",
    "to_language",
    "translate",
    "vad_filter",
    "word_timestamps",
];
/// Each of them may come more than once, within reason.
pub const MOST_FIELDS: usize = 64;
/// A text field is a prompt at most.
pub const LARGEST_FIELD: usize = 64 * 1024;
/// What the form's own lines and text fields may add to the file.
const OVERHEAD: u64 = 1024 * 1024;

/// How the audio is sent.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Names of the part with it.
    pub names: &'static [&'static str],
    /// It is samples without a header: 16 kHz, mono, signed 16 bit.
    pub raw: bool,
    /// The body may be JSON as well.
    pub json: bool,
}

/// As OpenAI has it.
pub const FILE: Wanted = Wanted {
    names: &["file", "file[]"],
    raw: false,
    json: true,
};

/// The same in a form and nothing else.
pub const FILE_OF_A_FORM: Wanted = Wanted {
    json: false,
    ..FILE
};

/// A body's parts.
#[derive(Debug, Default)]
pub struct Parts {
    /// The audio.
    pub file: Option<Received>,
    /// Its name, where that is not `file`.
    pub file_name: Option<&'static str>,
    /// The fields, in the order in which they came; arrays with a name for each value.
    pub fields: Vec<(String, String)>,
}

impl Parts {
    /// Adds a field's value, if the field means something here.
    pub fn add(&mut self, name: String, value: String) -> Result<(), ApiError> {
        if !is_known(&name) {
            return Ok(());
        }
        if self.fields.len() == MOST_FIELDS {
            return Err(ApiError::malformed_body("the request has too many fields"));
        }
        if value.len() > LARGEST_FIELD {
            return Err(too_long(&name));
        }
        self.fields.push((name, value));
        Ok(())
    }

    /// A field's value. Of one that comes twice, the last counts; an empty one is as good as none.
    pub fn field(&self, name: &str) -> Option<&str> {
        let is_it = |(other, _): &&(String, String)| other.trim_end_matches("[]") == name;
        let found = self.fields.iter().rev().find(is_it);
        let value = found.map(|(_, value)| value.as_str());
        value.filter(|value| !value.trim().is_empty())
    }

    /// All values of a field that may have many, with `[]` after its name or without.
    pub fn values(&self, name: &str) -> impl Iterator<Item = &str> {
        let of_name = move |(other, _): &&(String, String)| other.trim_end_matches("[]") == name;
        let values = self.fields.iter().filter(of_name);
        let values = values.map(|(_, value)| value.trim());
        values.filter(|value| !value.is_empty())
    }
}

/// Whether a field means something here.
pub fn is_known(name: &str) -> bool {
    FIELDS.contains(&name.trim_end_matches("[]"))
}

/// A field that nobody would fill so.
pub fn too_long(name: &str) -> ApiError {
    let message = format!("the field {name:?} is longer than {LARGEST_FIELD} bytes");
    ApiError::malformed_body(message)
}

/// Reads a whole body. What can be refused from the headers alone is refused before it is read.
pub async fn read(
    request: &HttpRequest,
    body: Payload,
    uploads: &UploadStore,
    wanted: Wanted,
) -> Result<Parts, ApiError> {
    let kind = content_type(request, wanted)?;
    let largest = kind.largest(uploads.largest());
    check_length(request, largest, uploads.largest())?;
    let body = bounded(body, largest);
    let reading = async {
        match kind {
            Kind::Multipart => multipart::read(request.headers(), body, uploads, wanted).await,
            Kind::Json => json::read(body, uploads, largest).await,
        }
    };
    tokio::time::timeout(LONGEST_UPLOAD, reading)
        .await
        .map_err(|_elapsed| ApiError::upload_timeout(LONGEST_UPLOAD))?
}

/// What a body may be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Multipart,
    Json,
}

impl Kind {
    /// The bytes that a body with the largest file may have.
    fn largest(self, file: u64) -> u64 {
        let encoded = match self {
            Self::Multipart => file,
            // Four letters for three bytes, and line breaks.
            Self::Json => file.div_ceil(3) * 4 + file / 32,
        };
        encoded + OVERHEAD
    }
}

fn content_type(request: &HttpRequest, wanted: Wanted) -> Result<Kind, ApiError> {
    let value = request.headers().get(CONTENT_TYPE);
    let value = value.and_then(|value| value.to_str().ok());
    let kind = value.unwrap_or_default().split(';').next();
    match kind
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase()
        .as_str()
    {
        "multipart/form-data" => Ok(Kind::Multipart),
        "application/json" if wanted.json => Ok(Kind::Json),
        _ => Err(ApiError::unsupported_media_type()),
    }
}

fn check_length(request: &HttpRequest, largest: u64, file: u64) -> Result<(), ApiError> {
    let length = request.headers().get(CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
    match length {
        Some(length) if length > largest => Err(ApiError::upload_too_large(length, file)),
        Some(_) | None => Ok(()),
    }
}

/// The body, ending with an error when it comes too slowly, and with an overflow beyond so many bytes.
/// The headers' own word on its length proves nothing, and there may be none.
pub fn bounded(
    body: impl Stream<Item = Result<Bytes, PayloadError>>,
    largest: u64,
) -> impl Stream<Item = Result<Bytes, PayloadError>> {
    let mut left = largest;
    let mut pace = Pace::begin();
    body.map(move |bytes| {
        let bytes = bytes?;
        if !pace.keeps(bytes.len()) {
            return Err(PayloadError::Io(ErrorKind::TimedOut.into()));
        }
        left = (left.checked_sub(bytes.len() as u64)).ok_or(PayloadError::Overflow)?;
        Ok(bytes)
    })
}

/// The next of a client's bytes, unless they stop coming.
pub async fn in_time<T>(next: impl Future<Output = T>) -> Result<T, ApiError> {
    tokio::time::timeout(STALL, next)
        .await
        .map_err(|_elapsed| ApiError::upload_timeout(STALL))
}

/// Why a body of at most so large a file could not be read.
pub fn unreadable(error: &PayloadError, largest: u64) -> ApiError {
    match error {
        PayloadError::Overflow => ApiError::upload_too_large(largest + OVERHEAD, largest),
        PayloadError::Io(error) if error.kind() == ErrorKind::TimedOut => {
            ApiError::upload_too_slow(upload_rate::WINDOW)
        }
        _ => ApiError::malformed_body(format!("the body cannot be read: {error}")),
    }
}

/// The same for a form.
pub fn unreadable_form(error: &MultipartError, largest: u64) -> ApiError {
    match error {
        MultipartError::Payload(error @ (PayloadError::Overflow | PayloadError::Io(_))) => {
            unreadable(error, largest)
        }
        _ => ApiError::malformed_body(format!("the multipart form cannot be read: {error}")),
    }
}

#[cfg(test)]
mod tests;
