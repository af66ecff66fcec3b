//! The multipart form of the audio paths: read as it comes, in any order of parts, within bounds.

use std::io::ErrorKind;
use std::time::Duration;

use actix_multipart::{Field, Multipart, MultipartError};
use actix_web::HttpRequest;
use actix_web::error::PayloadError;
use actix_web::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use actix_web::web::{Bytes, Payload};
use futures::{Stream, StreamExt};
use stt_actors::ports::AudioSource;
use stt_actors::transcript::Task;

use super::error::ApiError;
use super::pace::{self, Pace};
use super::upload::UploadStore;
use crate::language;
use crate::libretranslate::Target;
use crate::render::Format;

/// A client that sends nothing for so long is gone.
const STALL: Duration = Duration::from_secs(30);
/// A client that trickles holds a connection and a file no longer than this.
const LONGEST_UPLOAD: Duration = Duration::from_secs(3600);
/// The fields that mean something here.
const FIELDS: &[&str] = &[
    "hallucination_guard",
    "include",
    "language",
    "model",
    "multilingual",
    "prompt",
    "response_format",
    "stream",
    "temperature",
    "timestamp_granularities",
    "to_language",
    "vad_filter",
];
/// Each of them may come more than once, within reason.
const MOST_FIELDS: usize = 64;
/// A text field is a prompt at most.
const LARGEST_FIELD: usize = 64 * 1024;
/// What the form's own lines and text fields may add to the file.
const OVERHEAD: u64 = 1024 * 1024;

/// A form, read and checked.
#[derive(Debug)]
pub struct AudioForm {
    /// The audio.
    pub source: AudioSource,
    /// ISO 639-1; `None`: the server's default.
    pub language: Option<String>,
    /// What to translate to, where that is asked for.
    pub target: Target,
    /// What came before.
    pub prompt: Option<String>,
    /// 0 to 1.
    pub temperature: f32,
    /// Of the reply.
    pub format: Format,
    /// Leave out what is not speech.
    pub vad_filter: bool,
    /// Take out text that whisper made up.
    pub hallucination_guard: bool,
    /// More than one language is spoken.
    pub multilingual: bool,
}

/// A form's parts before they are checked.
#[derive(Debug, Default)]
struct Parts {
    file: Option<AudioSource>,
    fields: Vec<(String, String)>,
}

/// Reads and checks a whole form. What can be refused from the headers alone is refused before the
/// body is read.
pub async fn read(
    request: &HttpRequest,
    body: Payload,
    uploads: &UploadStore,
    task: Task,
) -> Result<AudioForm, ApiError> {
    check_headers(request, uploads.largest())?;
    let multipart = Multipart::new(request.headers(), bounded(body, uploads.largest()));
    let reading = read_parts(multipart, uploads);
    let parts = tokio::time::timeout(LONGEST_UPLOAD, reading)
        .await
        .map_err(|_elapsed| ApiError::upload_timeout(LONGEST_UPLOAD))??;
    check(parts, task)
}

/// The body, ending with an error when it comes too slowly, and with an overflow beyond the largest file and what a form may add to it. The
/// headers' own word on its length proves nothing, and there may be none.
fn bounded(
    body: impl Stream<Item = Result<Bytes, PayloadError>>,
    largest: u64,
) -> impl Stream<Item = Result<Bytes, PayloadError>> {
    let mut left = largest + OVERHEAD;
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

fn check_headers(request: &HttpRequest, largest: u64) -> Result<(), ApiError> {
    let header = |name| {
        request
            .headers()
            .get(name)
            .and_then(|value| value.to_str().ok())
    };
    let content_type = header(CONTENT_TYPE).unwrap_or_default();
    if !content_type
        .to_ascii_lowercase()
        .starts_with("multipart/form-data")
    {
        return Err(ApiError::unsupported_media_type());
    }
    let length = header(CONTENT_LENGTH).and_then(|length| length.parse::<u64>().ok());
    match length {
        Some(length) if length > largest + OVERHEAD => {
            Err(ApiError::upload_too_large(length, largest))
        }
        Some(_) | None => Ok(()),
    }
}

async fn read_parts(mut multipart: Multipart, uploads: &UploadStore) -> Result<Parts, ApiError> {
    let mut parts = Parts::default();
    let largest = uploads.largest();
    while let Some(field) = in_time(multipart.next()).await? {
        let mut field = field.map_err(|error| unreadable(&error, largest))?;
        let name = field.name().unwrap_or_default().to_owned();
        if name == "file" {
            if parts.file.is_some() {
                return Err(ApiError::malformed_body(
                    "the form has two parts named `file`",
                ));
            }
            parts.file = Some(read_file(&mut field, uploads).await?);
        } else if FIELDS.contains(&name.trim_end_matches("[]")) {
            if parts.fields.len() == MOST_FIELDS {
                return Err(ApiError::malformed_body("the form has too many fields"));
            }
            let value = read_text(&mut field, &name, largest).await?;
            parts.fields.push((name, value));
        } else {
            skip(&mut field, largest).await?;
        }
    }
    Ok(parts)
}

/// Unknown fields are ignored, whatever they hold.
async fn skip(field: &mut Field, largest: u64) -> Result<(), ApiError> {
    while let Some(bytes) = in_time(field.next()).await? {
        bytes.map_err(|error| unreadable(&error, largest))?;
    }
    Ok(())
}

async fn read_file(field: &mut Field, uploads: &UploadStore) -> Result<AudioSource, ApiError> {
    let mut upload = uploads.begin()?;
    while let Some(bytes) = in_time(field.next()).await? {
        upload
            .write(&bytes.map_err(|error| unreadable(&error, uploads.largest()))?)
            .await?;
    }
    upload.finish().await
}

async fn read_text(field: &mut Field, name: &str, largest: u64) -> Result<String, ApiError> {
    let mut value = Vec::new();
    while let Some(bytes) = in_time(field.next()).await? {
        let bytes = bytes.map_err(|error| unreadable(&error, largest))?;
        if value.len() + bytes.len() > LARGEST_FIELD {
            return Err(ApiError::malformed_body(format!(
                "the field {name:?} is longer than {LARGEST_FIELD} bytes"
            )));
        }
        value.extend_from_slice(&bytes);
    }
    String::from_utf8(value)
        .map_err(|_| ApiError::malformed_body(format!("the field {name:?} is not UTF-8")))
}

/// The next of a client's bytes, unless they stop coming.
async fn in_time<T>(next: impl Future<Output = T>) -> Result<T, ApiError> {
    tokio::time::timeout(STALL, next)
        .await
        .map_err(|_elapsed| ApiError::upload_timeout(STALL))
}

fn unreadable(error: &MultipartError, largest: u64) -> ApiError {
    match error {
        MultipartError::Payload(PayloadError::Overflow) => {
            return ApiError::upload_too_large(largest + OVERHEAD, largest);
        }
        MultipartError::Payload(PayloadError::Io(error)) if error.kind() == ErrorKind::TimedOut => {
            return ApiError::upload_too_slow(pace::WINDOW);
        }
        _ => {}
    }
    ApiError::malformed_body(format!("the multipart form cannot be read: {error}"))
}

fn check(parts: Parts, task: Task) -> Result<AudioForm, ApiError> {
    // Of a field that comes twice, the last value counts. An empty one is as good as none.
    let field = |name: &str| {
        let found = parts.fields.iter().rev().find(|(n, _)| n == name);
        found
            .map(|(_, value)| value.as_str())
            .filter(|value| !value.trim().is_empty())
    };
    let format = match field("response_format") {
        Some(value) => response_format(value.trim())?,
        None => Format::Json,
    };
    let temperature = match field("temperature") {
        Some(value) => temperature(value.trim())?,
        None => 0.0,
    };
    refuse_unserved(&parts.fields)?;
    let language = match field("language") {
        Some(value) => Some(parse_language("language", value)?),
        None => None,
    };
    let target = match field("to_language") {
        Some(value) if task == Task::Translate => parse_target(value)?,
        Some(_) | None => Target::default(),
    };
    let switch = |name: &'static str, default: bool| match field(name) {
        Some(value) => flag(name, value.trim()),
        None => Ok(default),
    };
    let prompt = field("prompt").map(str::to_owned);
    Ok(AudioForm {
        source: parts.file.ok_or_else(ApiError::missing_file)?,
        language,
        target,
        prompt,
        temperature,
        format,
        vad_filter: switch("vad_filter", true)?,
        hallucination_guard: switch("hallucination_guard", true)?,
        multilingual: switch("multilingual", false)?,
    })
}

fn response_format(value: &str) -> Result<Format, ApiError> {
    Format::parse(value).ok_or_else(|| {
        let message = format!(
            "response_format is {value:?}; one of json, text, srt, verbose_json, vtt is expected"
        );
        ApiError::invalid_value("response_format", message)
    })
}

fn temperature(value: &str) -> Result<f32, ApiError> {
    let parsed = value.parse::<f32>().ok();
    parsed.filter(|t| (0.0..=1.0).contains(t)).ok_or_else(|| {
        let message = format!("temperature is {value:?}; a number from 0 to 1 is expected");
        ApiError::invalid_value("temperature", message)
    })
}

fn flag(param: &'static str, value: &str) -> Result<bool, ApiError> {
    match value.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        _ => {
            let message = format!("{param} is {value:?}; true or false is expected");
            Err(ApiError::invalid_value(param, message))
        }
    }
}

fn parse_language(param: &'static str, value: &str) -> Result<String, ApiError> {
    match language::parse(value) {
        Some(language) => Ok(language.code().to_owned()),
        None => Err(ApiError::unsupported_language(
            param,
            format!(
                "the language {value:?} is not one of the 99 that whisper knows; a code such as \"en\" is expected"
            ),
        )),
    }
}

fn parse_target(value: &str) -> Result<Target, ApiError> {
    Target::parse(value).ok_or_else(|| {
        let message =
            format!("the language {value:?} is not known; a code such as \"en\" is expected");
        ApiError::unsupported_language("to_language", message)
    })
}

/// What OpenAI has and this server does not: refused, since a client would wait for it in vain.
fn refuse_unserved(fields: &[(String, String)]) -> Result<(), ApiError> {
    for (name, value) in fields {
        let value = value.trim();
        match name.trim_end_matches("[]") {
            "stream" => match value.to_ascii_lowercase().as_str() {
                "" | "false" | "0" => {}
                "true" | "1" => {
                    let message = "this server does not stream; send the request without stream";
                    return Err(ApiError::invalid_value("stream", message));
                }
                _ => {
                    let message = format!("stream is {value:?}; true or false is expected");
                    return Err(ApiError::invalid_value("stream", message));
                }
            },
            "timestamp_granularities" => match value {
                "" | "segment" => {}
                "word" => {
                    let message = "this server gives times for segments, not for words";
                    return Err(ApiError::invalid_value("timestamp_granularities", message));
                }
                _ => {
                    let message =
                        format!("timestamp_granularities is {value:?}; segment is expected");
                    return Err(ApiError::invalid_value("timestamp_granularities", message));
                }
            },
            "include" if !value.is_empty() => {
                let message = format!("include {value:?} is not served");
                return Err(ApiError::invalid_value("include", message));
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "form_tests.rs"]
mod tests;
