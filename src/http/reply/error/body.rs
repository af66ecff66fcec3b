//! Errors of the head and the body of a request.

use std::time::Duration;

use actix_web::http::StatusCode;

use super::{ApiError, STORAGE_RETRY, shortened};
use crate::metrics::ErrorType;

impl ApiError {
    /// The body has no audio under this name.
    pub fn missing_file(name: &'static str) -> Self {
        let message = format!("the request has no audio: the part `{name}` is missing");
        Self::client(StatusCode::BAD_REQUEST, "missing_file", message).with_param(name)
    }

    /// A language that Whisper does not know or cannot translate to.
    pub fn unsupported_language(param: &'static str, message: impl Into<String>) -> Self {
        Self::client(StatusCode::BAD_REQUEST, "unsupported_language", message).with_param(param)
    }

    /// A field with an invalid value.
    pub fn invalid_value(param: &'static str, message: impl Into<String>) -> Self {
        Self::client(StatusCode::UNPROCESSABLE_ENTITY, "invalid_value", message).with_param(param)
    }

    /// The body cannot be parsed.
    pub fn malformed_body(message: impl Into<String>) -> Self {
        Self::client(StatusCode::BAD_REQUEST, "malformed_body", message)
    }

    /// The route does not accept the body's content type.
    pub fn unsupported_media_type() -> Self {
        let message = "the body must be multipart/form-data with the audio as `file`, or application/json with the audio as `input_audio`";
        Self::client(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported_media_type",
            message,
        )
    }

    /// The body is compressed.
    pub fn compressed_body(encoding: &str) -> Self {
        let message = format!(
            "the body has the Content-Encoding {}; send it uncompressed",
            shortened(encoding)
        );
        Self::client(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported_media_type",
            message,
        )
    }

    /// The head of the request is no HTTP/1.1, or is too large.
    pub fn malformed_request(reason: &str, is_too_large: bool) -> Self {
        let (status, code) = if is_too_large {
            let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
            (status, "headers_too_large")
        } else {
            (StatusCode::BAD_REQUEST, "malformed_request")
        };
        Self::client(
            status,
            code,
            format!("the request cannot be read: {reason}"),
        )
    }

    /// The upload exceeds the limit. Both sizes are in bytes.
    pub fn upload_too_large(size: u64, limit: u64) -> Self {
        let message =
            format!("the upload has at least {size} bytes; the limit is {limit} (MAX_UPLOAD_MB)");
        Self::client(StatusCode::PAYLOAD_TOO_LARGE, "upload_too_large", message)
    }

    /// The client stopped sending.
    pub fn upload_timeout(silent: Duration) -> Self {
        let seconds = silent.as_secs();
        Self::late(format!("stalled: no data arrived for {seconds} s"))
    }

    /// The upload took too long.
    pub fn upload_too_long(limit: Duration) -> Self {
        Self::late(format!("took longer than {} s", limit.as_secs()))
    }

    /// The upload is below the minimum rate.
    pub fn upload_too_slow(window: Duration) -> Self {
        let seconds = window.as_secs();
        Self::late(format!(
            "is too slow: hardly any data arrived for {seconds} s"
        ))
    }

    /// The upload did not arrive in time; `how` completes the sentence.
    fn late(how: impl std::fmt::Display) -> Self {
        let message = format!("the upload {how}");
        Self::client(StatusCode::REQUEST_TIMEOUT, "upload_timeout", message)
    }

    /// The disk, or the space for uploads, is full.
    pub fn insufficient_storage() -> Self {
        let message = "the server has no space for the upload at the moment";
        Self::server(
            StatusCode::INSUFFICIENT_STORAGE,
            "insufficient_storage",
            message,
        )
        .with_retry_after(STORAGE_RETRY)
        .counted_as(ErrorType::Overloaded)
    }
}
