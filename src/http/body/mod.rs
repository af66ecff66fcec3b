//! Reading a request's body: a multipart form, or JSON with the audio in base64. Parts may come in any
//! order; their number and size are limited. [`form`] checks their values.

pub mod form;
mod json;
pub mod language;
mod multipart;
pub mod prompt;
pub mod upload;
mod upload_rate;

use std::borrow::Cow;
use std::io::ErrorKind;
use std::time::Duration;

use actix_web::HttpRequest;
use actix_web::error::PayloadError;
use actix_web::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use actix_web::web::{Bytes, Payload};
use futures::{Stream, StreamExt, TryStreamExt};

use crate::http::reply::error::ApiError;
use crate::http::request_log::{ArrivalTime, ReceivedBytes};
use crate::metrics::stages::record_upload;
use upload::{StoredUpload, UploadStore};
use upload_rate::UploadRate;

/// An upload fails when the client sends nothing for this long.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// An upload fails when it takes longer than this.
const UPLOAD_TIMEOUT: Duration = Duration::from_secs(3600);
/// The fields that at least one route uses.
const FIELDS: &[&str] = &[
    "callback_url",
    "chunking_strategy",
    "encode",
    "hallucination_guard",
    "include",
    "language",
    "languages",
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
/// The most fields in a request; lists have one for each value.
pub const MAX_FIELDS: usize = 64;
/// The longest text field.
pub const MAX_FIELD_BYTES: usize = 64 * 1024;
/// The most bytes that a body may have besides the audio: part headers and text fields.
pub const OVERHEAD_BYTES: u64 = 1024 * 1024;

/// How a route expects the audio.
#[derive(Clone, Copy, Debug)]
pub struct BodyFormat {
    /// Possible names of the form part with the audio.
    pub file_names: &'static [&'static str],
    /// The audio consists of samples without a header: 16 kHz, mono, signed 16 bit.
    pub raw_samples: bool,
    /// Whether the body may be JSON instead of a form.
    pub json: bool,
    /// The most parts with audio.
    pub max_files: usize,
}

/// OpenAI's form, or the same fields as JSON.
pub const OPENAI_BODY: BodyFormat = BodyFormat {
    file_names: &["file"],
    raw_samples: false,
    json: true,
    max_files: 1,
};

/// OpenAI's form only.
pub const OPENAI_FORM: BodyFormat = BodyFormat {
    json: false,
    ..OPENAI_BODY
};

/// The parts of a body.
#[derive(Debug)]
pub struct Parts {
    /// The audio.
    pub file: Option<StoredUpload>,
    /// Further audio, if the route takes more than one file.
    pub further_files: Vec<StoredUpload>,
    /// The names of the files, as the client sent them.
    pub file_names: Vec<Option<String>>,
    /// The name of the audio's part, for error messages.
    pub file_param: &'static str,
    /// Names and values of the fields in the order of arrival. A list has one entry for each value.
    pub fields: Vec<(String, String)>,
}

impl Default for Parts {
    fn default() -> Self {
        Self {
            file: None,
            further_files: Vec::new(),
            file_names: Vec::new(),
            file_param: OPENAI_BODY.file_names[0],
            fields: Vec::new(),
        }
    }
}

impl Parts {
    /// Adds a field. Unknown fields are ignored.
    ///
    /// # Errors
    /// The value is too long, or there are too many fields.
    pub fn add(&mut self, name: String, value: String) -> Result<(), ApiError> {
        if !is_known(&name) {
            return Ok(());
        }
        if self.fields.len() == MAX_FIELDS {
            return Err(ApiError::malformed_body("the request has too many fields"));
        }
        if value.len() > MAX_FIELD_BYTES {
            return Err(field_too_long(&name));
        }
        self.fields.push((name, value));
        Ok(())
    }

    /// A field's value: the last one if the field is repeated, `None` if it is [absent](is_absent).
    pub fn field(&self, name: &str) -> Option<&str> {
        let has_name = |(other, _): &&(String, String)| base_name(other) == name;
        let found = self.fields.iter().rev().find(has_name);
        let value = found.map(|(_, value)| value.as_str());
        value.filter(|value| !is_absent(value))
    }

    /// All values of a list field. Clients write a list as several fields, whose names may end in `[]` or in
    /// an index, as one field with commas, or as one field with a JSON array.
    pub fn values(&self, name: &str) -> impl Iterator<Item = String> {
        let of_name = move |(other, _): &&(String, String)| base_name(other) == name;
        let values = self.fields.iter().filter(of_name);
        let values = values.flat_map(|(_, value)| elements(value));
        values.filter(|value| !is_absent(value))
    }
}

/// A field's name without the `[]` or `[0]` that some clients add to the names of lists.
pub fn base_name(name: &str) -> &str {
    let index = name
        .strip_suffix(']')
        .and_then(|rest| rest.rsplit_once('['));
    match index {
        Some((base, index)) if index.bytes().all(|byte| byte.is_ascii_digit()) => base,
        Some(_) | None => name,
    }
}

/// Whether a value says that the client has none: it is empty, or what a program makes of a missing value when
/// it converts it to text.
fn is_absent(value: &str) -> bool {
    let value = value.trim();
    ["", "null", "undefined", "none"]
        .iter()
        .any(|absent| value.eq_ignore_ascii_case(absent))
}

/// The elements of a list that is written as one text.
fn elements(value: &str) -> Vec<String> {
    let text = |element: &serde_json::Value| match element {
        serde_json::Value::String(text) => text.trim().to_owned(),
        other => other.to_string(),
    };
    match serde_json::from_str(value) {
        Ok(serde_json::Value::Array(elements)) => elements.iter().map(text).collect(),
        Ok(element @ serde_json::Value::String(_)) => vec![text(&element)],
        Ok(_) | Err(_) => value
            .split(',')
            .map(|element| element.trim().to_owned())
            .collect(),
    }
}

/// Whether any route uses a field.
pub fn is_known(name: &str) -> bool {
    FIELDS.contains(&base_name(name))
}

/// The error for a field longer than [`MAX_FIELD_BYTES`].
pub fn field_too_long(name: &str) -> ApiError {
    let message = format!("the field {name:?} is longer than {MAX_FIELD_BYTES} bytes");
    ApiError::malformed_body(message)
}

/// Reads a whole body. Errors that the headers show are reported before the body is read.
pub async fn read(
    request: &HttpRequest,
    body: Payload,
    uploads: &UploadStore,
    format: BodyFormat,
) -> Result<Parts, ApiError> {
    reject_compressed(request)?;
    let kind = content_type(request, format)?;
    let largest = kind.max_bytes(uploads.largest());
    check_length(request, largest, uploads.largest())?;
    let received = ReceivedBytes::of(request);
    let body = bounded(body, largest).inspect_ok(move |bytes| received.add(bytes.len()));
    let reading = async {
        match kind {
            ContentType::Multipart => {
                multipart::read(request.headers(), body, uploads, format).await
            }
            ContentType::Json => json::read(body, uploads, largest).await,
        }
    };
    let parts = tokio::time::timeout(UPLOAD_TIMEOUT, reading)
        .await
        .map_err(|_elapsed| ApiError::upload_too_long(UPLOAD_TIMEOUT))??;
    record_upload(ArrivalTime::since(request));
    Ok(parts)
}

/// The content type of a body.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ContentType {
    Multipart,
    Json,
}

impl ContentType {
    /// The most bytes in a body whose audio has at most `file` bytes.
    fn max_bytes(self, file: u64) -> u64 {
        let encoded = match self {
            Self::Multipart => file,
            // Base64 has four characters for three bytes, and may have line breaks.
            Self::Json => file.div_ceil(3) * 4 + file / 32,
        };
        encoded + OVERHEAD_BYTES
    }
}

fn content_type(request: &HttpRequest, format: BodyFormat) -> Result<ContentType, ApiError> {
    let value = request.headers().get(CONTENT_TYPE);
    let value = value.and_then(|value| value.to_str().ok());
    let kind = value.unwrap_or_default().split(';').next();
    match kind
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase()
        .as_str()
    {
        "multipart/form-data" => Ok(ContentType::Multipart),
        "application/json" if format.json => Ok(ContentType::Json),
        _ => Err(ApiError::unsupported_media_type()),
    }
}

/// Rejects a compressed body: decompressing it would take an unknown amount of time and space.
fn reject_compressed(request: &HttpRequest) -> Result<(), ApiError> {
    let encodings = request.headers().get_all(CONTENT_ENCODING);
    let mut encodings = encodings.map(|value| String::from_utf8_lossy(value.as_bytes()));
    let is_compression = |encoding: &Cow<str>| {
        let encoding = encoding.trim();
        !encoding.is_empty() && !encoding.eq_ignore_ascii_case("identity")
    };
    match encodings.find(is_compression) {
        Some(encoding) => Err(ApiError::compressed_body(encoding.trim())),
        None => Ok(()),
    }
}

/// The length of a body in bytes, if the client says so.
pub fn length(request: &HttpRequest) -> Option<u64> {
    let length = request.headers().get(CONTENT_LENGTH)?;
    length.to_str().ok()?.parse().ok()
}

fn check_length(request: &HttpRequest, largest: u64, file: u64) -> Result<(), ApiError> {
    match length(request) {
        Some(length) if length > largest => Err(ApiError::upload_too_large(length, file)),
        Some(_) | None => Ok(()),
    }
}

/// Ends a body with an error if it arrives too slowly or has more than `largest` bytes. The Content-Length
/// header may be absent or wrong.
pub fn bounded(
    body: impl Stream<Item = Result<Bytes, PayloadError>>,
    largest: u64,
) -> impl Stream<Item = Result<Bytes, PayloadError>> {
    let mut left = largest;
    let mut rate = UploadRate::new();
    body.map(move |bytes| {
        let bytes = bytes?;
        if !rate.is_sufficient_after(bytes.len()) {
            return Err(PayloadError::Io(ErrorKind::TimedOut.into()));
        }
        left = (left.checked_sub(bytes.len() as u64)).ok_or(PayloadError::Overflow)?;
        Ok(bytes)
    })
}

/// Awaits the client's next bytes.
///
/// # Errors
/// None arrive within [`STALL_TIMEOUT`].
pub async fn before_stall<T>(next: impl Future<Output = T>) -> Result<T, ApiError> {
    tokio::time::timeout(STALL_TIMEOUT, next)
        .await
        .map_err(|_elapsed| ApiError::upload_timeout(STALL_TIMEOUT))
}

/// The error for a body that cannot be read. `largest`: the upload limit, in bytes.
pub fn read_error(error: &PayloadError, largest: u64) -> ApiError {
    match error {
        PayloadError::Overflow => ApiError::upload_too_large(largest + OVERHEAD_BYTES, largest),
        PayloadError::Io(error) if error.kind() == ErrorKind::TimedOut => {
            ApiError::upload_too_slow(upload_rate::WINDOW)
        }
        _ => ApiError::malformed_body(format!("reading the body failed: {error}")),
    }
}

#[cfg(test)]
mod tests;
