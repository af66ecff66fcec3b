//! Response headers about escalation: timings, the model that wrote the text, and whether the fallback was
//! used.

use std::time::Duration;

use actix_web::HttpResponseBuilder;
use actix_web::http::header::{HeaderName, HeaderValue};
use serde_json::Value;
use stt_actors::domain::error::FallbackError;
use stt_actors::domain::transcript::{Escalation, Transcript};

pub const X_REQ_ID: HeaderName = HeaderName::from_static("x-req-id");
const X_QUEUE_WAIT_MS: HeaderName = HeaderName::from_static("x-queue-wait-ms");
const X_PRIMARY_INFER_MS: HeaderName = HeaderName::from_static("x-primary-infer-ms");
const X_FALLBACK_INFER_MS: HeaderName = HeaderName::from_static("x-fallback-infer-ms");
const X_TOTAL_MS: HeaderName = HeaderName::from_static("x-total-ms");
const X_FALLBACK_USED: HeaderName = HeaderName::from_static("x-fallback-used");
const X_FINAL_MODEL: HeaderName = HeaderName::from_static("x-final-model");
const X_CONF_BELOW: HeaderName = HeaderName::from_static("x-conf-below");
const X_LANG_CHECK_APPLICABLE: HeaderName = HeaderName::from_static("x-lang-check-applicable");
pub const X_ERROR_TYPE: HeaderName = HeaderName::from_static("x-error-type");
pub const X_ERROR_MESSAGE: HeaderName = HeaderName::from_static("x-error-message");
pub const X_FALLBACK_ERROR: HeaderName = HeaderName::from_static("x-fallback-error");

/// All of these headers, for CORS and the OpenAPI document.
pub const NAMES: [HeaderName; 12] = [
    X_REQ_ID,
    X_QUEUE_WAIT_MS,
    X_PRIMARY_INFER_MS,
    X_FALLBACK_INFER_MS,
    X_TOTAL_MS,
    X_FALLBACK_USED,
    X_FINAL_MODEL,
    X_CONF_BELOW,
    X_LANG_CHECK_APPLICABLE,
    X_ERROR_TYPE,
    X_ERROR_MESSAGE,
    X_FALLBACK_ERROR,
];

/// The longest header value, in characters.
const MAX_VALUE_CHARS: usize = 300;

/// Makes a header value of any text: ASCII, one line, at most 300 characters.
pub fn ascii(text: &str) -> HeaderValue {
    let plain = |c: char| {
        if c == ' ' || c.is_ascii_graphic() {
            c
        } else {
            '?'
        }
    };
    let text: String = text.chars().take(MAX_VALUE_CHARS).map(plain).collect();
    HeaderValue::from_str(text.trim()).unwrap_or_else(|_| HeaderValue::from_static("?"))
}

/// How long the steps of a request took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::struct_field_names, reason = "as in the reply")]
pub struct ReplyTimings {
    pub queue_wait_ms: u64,
    pub primary_infer_ms: u64,
    pub fallback_infer_ms: u64,
    pub total_ms: u64,
}

impl ReplyTimings {
    /// `total`: the time since the request's head arrived.
    pub fn of(transcript: &Transcript, total: Duration) -> Self {
        let millis = |seconds: f64| (seconds * 1000.0).round() as u64;
        let timings = transcript.timings;
        Self {
            queue_wait_ms: millis(timings.queue_wait),
            primary_infer_ms: millis(timings.inference),
            fallback_infer_ms: millis(timings.fallback),
            total_ms: total.as_millis() as u64,
        }
    }
}

/// The headers of a reply with a transcript.
pub fn headers(transcript: &Transcript, timings: ReplyTimings) -> Vec<(HeaderName, HeaderValue)> {
    let none = Escalation::default();
    let escalation = transcript.escalation.as_ref().unwrap_or(&none);
    let flag = |value: bool| HeaderValue::from_static(if value { "true" } else { "false" });
    let mut headers = vec![
        (X_QUEUE_WAIT_MS, timings.queue_wait_ms.into()),
        (X_PRIMARY_INFER_MS, timings.primary_infer_ms.into()),
        (X_FALLBACK_INFER_MS, timings.fallback_infer_ms.into()),
        (X_TOTAL_MS, timings.total_ms.into()),
        (X_FALLBACK_USED, flag(escalation.used)),
        (X_FINAL_MODEL, ascii(&transcript.model)),
        (
            X_LANG_CHECK_APPLICABLE,
            flag(escalation.language_was_tested),
        ),
    ];
    if !escalation.below.is_empty() {
        headers.push((X_CONF_BELOW, ascii(&escalation.below.names().join(","))));
    }
    headers.extend(fallback_error(escalation.error.as_ref()));
    headers
}

/// Adds the same facts to the last event of a stream, where a fallback is configured.
pub fn add_to_event(event: &mut Value, transcript: &Transcript) {
    let Some(escalation) = &transcript.escalation else {
        return;
    };
    event["x_fallback_used"] = escalation.used.into();
    event["x_final_model"] = transcript.model.clone().into();
    if let Some(error) = &escalation.error {
        event["x_fallback_error"] = error.to_string().into();
    }
}

/// The headers of a request for which neither the primary nor the fallback produced a text.
pub fn headers_without_transcript(total: Duration) -> Vec<(HeaderName, HeaderValue)> {
    let no = HeaderValue::from_static("false");
    vec![
        (X_QUEUE_WAIT_MS, 0.into()),
        (X_PRIMARY_INFER_MS, 0.into()),
        (X_FALLBACK_INFER_MS, 0.into()),
        (X_TOTAL_MS, (total.as_millis() as u64).into()),
        (X_FALLBACK_USED, no.clone()),
        (X_LANG_CHECK_APPLICABLE, no),
    ]
}

/// The header that says why the fallback failed.
pub fn fallback_error(error: Option<&FallbackError>) -> Option<(HeaderName, HeaderValue)> {
    error.map(|error| (X_FALLBACK_ERROR, ascii(&error.to_string())))
}

/// Puts headers into a response.
pub fn insert(
    response: &mut HttpResponseBuilder,
    headers: impl IntoIterator<Item = (HeaderName, HeaderValue)>,
) {
    for header in headers {
        response.insert_header(header);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_text_becomes_a_header_value() {
        assert_eq!(ascii("a\r\nX-Evil: ñ "), "a??X-Evil: ?");
        assert_eq!(ascii(&"x".repeat(1000)).len(), MAX_VALUE_CHARS);
        assert_eq!(ascii(""), "");
    }
}
