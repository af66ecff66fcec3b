//! What a reply tells of the two tiers: times, the model in the end, and what became of the escalation,
//! as headers.

use std::time::Duration;

use actix_web::HttpResponseBuilder;
use actix_web::http::header::{HeaderName, HeaderValue};
use serde_json::Value;
use stt_actors::ports::FallbackError;
use stt_actors::transcript::{Escalation, Transcript};

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

/// All of them that may be of use to a page in a browser.
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

/// The longest text of a header.
const LONGEST: usize = 300;

/// A text as a header can hold it: ASCII, on one line, not endless.
pub fn ascii(text: &str) -> HeaderValue {
    let plain = |c: char| {
        if c == ' ' || c.is_ascii_graphic() {
            c
        } else {
            '?'
        }
    };
    let text: String = text.chars().take(LONGEST).map(plain).collect();
    HeaderValue::from_str(text.trim()).unwrap_or_else(|_| HeaderValue::from_static("?"))
}

/// Where a request's time went, in whole milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Millis {
    pub queue_wait: u64,
    pub primary_infer: u64,
    pub fallback_infer: u64,
    pub total: u64,
}

impl Millis {
    /// `total`: from the request's head until now.
    pub fn of(transcript: &Transcript, total: Duration) -> Self {
        let millis = |seconds: f64| (seconds * 1000.0).round() as u64;
        let timings = transcript.timings;
        Self {
            queue_wait: millis(timings.queue_wait),
            primary_infer: millis(timings.inference),
            fallback_infer: millis(timings.fallback),
            total: total.as_millis() as u64,
        }
    }
}

/// The headers of a transcript's reply, whether it is fine or not.
pub fn headers(transcript: &Transcript, millis: Millis) -> Vec<(HeaderName, HeaderValue)> {
    let none = Escalation::default();
    let escalation = transcript.escalation.as_ref().unwrap_or(&none);
    let flag = |value: bool| HeaderValue::from_static(if value { "true" } else { "false" });
    let mut headers = vec![
        (X_QUEUE_WAIT_MS, millis.queue_wait.into()),
        (X_PRIMARY_INFER_MS, millis.primary_infer.into()),
        (X_FALLBACK_INFER_MS, millis.fallback_infer.into()),
        (X_TOTAL_MS, millis.total.into()),
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

/// What the last event of a stream tells in place of headers, where a larger model stands by.
pub fn tell(event: &mut Value, transcript: &Transcript) {
    let Some(escalation) = &transcript.escalation else {
        return;
    };
    event["x_fallback_used"] = escalation.used.into();
    event["x_final_model"] = transcript.model.clone().into();
    if let Some(error) = &escalation.error {
        event["x_fallback_error"] = error.to_string().into();
    }
}

/// The headers of a request for which nobody has a text.
pub fn headers_of_nothing(total: Duration) -> Vec<(HeaderName, HeaderValue)> {
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

/// The header that says why the fallback gave nothing.
pub fn fallback_error(error: Option<&FallbackError>) -> Option<(HeaderName, HeaderValue)> {
    error.map(|error| (X_FALLBACK_ERROR, ascii(&error.to_string())))
}

/// Puts headers into a reply.
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
    fn any_text_becomes_a_header() {
        assert_eq!(ascii("a\r\nX-Evil: ñ "), "a??X-Evil: ?");
        assert_eq!(ascii(&"x".repeat(1000)).len(), LONGEST);
        assert_eq!(ascii(""), "");
    }
}
