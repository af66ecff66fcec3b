//! An error from the server: the message in the body, the advice on retries in the headers.

use std::time::{Duration, SystemTime};

use reqwest::header::{HeaderMap, RETRY_AFTER};
use serde_json::Value;
use thiserror::Error;

use crate::headers::ServerHeaders;
use crate::transcript::Transcript;

/// Maximum length, in characters, of the part of an unknown error body that becomes the message.
const LONGEST_REASON: usize = 200;

/// An error that the server returned.
#[derive(Clone, Debug, Error)]
#[error("{status}{}: {message}", .code.as_ref().map(|code| format!(" {code}")).unwrap_or_default())]
#[non_exhaustive]
pub struct StatusError {
    /// HTTP status of the reply, even if the error came within a stream.
    pub status: u16,
    /// `error.type`: `invalid_request_error`, `rate_limit_error`, `server_error`.
    pub kind: Option<String>,
    /// `error.code`: `invalid_api_key`, `overloaded`, ….
    pub code: Option<String>,
    /// `error.param`: the invalid field.
    pub param: Option<String>,
    /// `error.message`, or the beginning of the body if it has no message.
    pub message: String,
    /// `Retry-After`, as seconds or as a date.
    pub retry_after: Option<Duration>,
    /// `x-should-retry`.
    pub should_retry: Option<bool>,
    /// The request's id in the server's log.
    pub request_id: Option<String>,
    /// The reply's headers, including `X-Error-Type` and `X-Fallback-Error`.
    pub headers: ServerHeaders,
    /// The server's own text, if it was not certain of it and its fallback failed.
    pub primary: Option<Box<Transcript>>,
}

impl StatusError {
    /// Parses a reply with an error status.
    pub(crate) fn of(status: u16, headers: ServerHeaders, advice: Advice, body: &[u8]) -> Self {
        let parsed: Value = serde_json::from_slice(body).unwrap_or_default();
        let error = &parsed["error"];
        let text = |name: &str| error[name].as_str().map(str::to_owned);
        let plain = || parsed["error"].as_str().or(parsed["detail"].as_str());
        let message = text("message")
            .or_else(|| plain().map(str::to_owned))
            .or_else(|| headers.error_message.clone())
            .unwrap_or_else(|| beginning(body));
        Self {
            status,
            kind: text("type").or_else(|| headers.error_type.clone()),
            code: text("code"),
            param: text("param"),
            message,
            retry_after: advice.retry_after,
            should_retry: advice.should_retry,
            request_id: headers.request_id.clone(),
            headers,
            primary: primary_of(&parsed),
        }
    }

    /// Whether the same call may succeed when it is repeated. `x-should-retry` overrides the status.
    pub fn is_retryable(&self) -> bool {
        self.should_retry
            .unwrap_or(matches!(self.status, 408 | 409 | 425 | 429 | 500..))
    }

    /// Whether the server works, but is busy.
    pub fn is_busy(&self) -> bool {
        self.status == 429 || (self.status == 503 && self.retry_after.is_some())
    }
}

fn primary_of(body: &Value) -> Option<Box<Transcript>> {
    let primary = body.get("primary").or(body["error"].get("primary"))?;
    // A malformed transcript must not hide the error.
    let transcript: Transcript = serde_json::from_value(primary.clone()).ok()?;
    Some(Box::new(transcript))
}

/// What the headers of an error say about retries.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Advice {
    retry_after: Option<Duration>,
    should_retry: Option<bool>,
}

impl Advice {
    pub fn of(headers: &HeaderMap, now: SystemTime) -> Self {
        let text = |name: &str| headers.get(name)?.to_str().ok().map(str::trim);
        let milliseconds = text("retry-after-ms").and_then(|value| value.parse().ok());
        let retry_after = milliseconds
            .map(Duration::from_millis)
            .or_else(|| parse_retry_after(text(RETRY_AFTER.as_str())?, now));
        Self {
            retry_after,
            should_retry: text("x-should-retry").and_then(|value| value.parse().ok()),
        }
    }
}

/// Parses a number of seconds, or a date, which may be in the past.
fn parse_retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    if let Ok(seconds) = value.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let until = httpdate::parse_http_date(value).ok()?;
    Some(until.duration_since(now).unwrap_or_default())
}

/// The beginning of a body, on one line.
pub(crate) fn beginning(body: &[u8]) -> String {
    let shown = &body[..body.len().min(4 * LONGEST_REASON)];
    let text = String::from_utf8_lossy(shown);
    let words: Vec<&str> = text.split_whitespace().collect();
    let text: String = words.join(" ").chars().take(LONGEST_REASON).collect();
    if text.is_empty() {
        return "no reason given".to_owned();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn advice(pairs: &[(&'static str, &str)]) -> Advice {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.insert(*name, value.parse().expect("a header"));
        }
        // 1994-11-06 08:49:37.
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        Advice::of(&headers, now)
    }

    #[test]
    fn retry_after_is_seconds_or_a_date_and_nonsense_is_none() {
        let cases = [
            ("7", Some(7)),
            ("0", Some(0)),
            ("Sun, 06 Nov 1994 08:50:07 GMT", Some(30)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
            ("-1", None),
            ("NaN", None),
            ("1e300", None),
            ("soon", None),
        ];
        for (value, seconds) in cases {
            let got = advice(&[("retry-after", value)]).retry_after;
            assert_eq!(got, seconds.map(Duration::from_secs), "{value}");
        }
        let finer = advice(&[("retry-after", "7"), ("retry-after-ms", "250")]);
        assert_eq!(finer.retry_after, Some(Duration::from_millis(250)));
    }

    fn told(status: u16, should_retry: Option<bool>, body: &str) -> StatusError {
        let advice = Advice {
            retry_after: None,
            should_retry,
        };
        StatusError::of(status, ServerHeaders::default(), advice, body.as_bytes())
    }

    #[test]
    fn the_servers_word_on_another_try_counts_before_the_status() {
        for status in [408, 409, 425, 429, 500, 502, 503, 504, 507] {
            assert!(told(status, None, "").is_retryable(), "{status}");
            assert!(!told(status, Some(false), "").is_retryable(), "{status}");
        }
        for status in [300, 400, 401, 403, 404, 413, 415, 422] {
            assert!(!told(status, None, "").is_retryable(), "{status}");
            assert!(told(status, Some(true), "").is_retryable(), "{status}");
        }
    }

    #[test]
    fn an_error_is_told_in_the_servers_words_whatever_its_shape() {
        let ours = told(
            422,
            None,
            r#"{"error":{"message":"no","type":"invalid_request_error","param":"p","code":"c"},"detail":"no"}"#,
        );
        assert_eq!(ours.to_string(), "422 c: no");
        assert_eq!(ours.kind.as_deref(), Some("invalid_request_error"));
        assert_eq!(ours.param.as_deref(), Some("p"));
        assert_eq!(told(500, None, r#"{"detail":"why"}"#).message, "why");
        assert_eq!(told(500, None, r#"{"error":"why"}"#).message, "why");
        assert_eq!(
            told(502, None, "<h1>\n Bad  gateway").message,
            "<h1> Bad gateway"
        );
        assert_eq!(told(502, None, " ").message, "no reason given");
        assert_eq!(told(502, None, &"x".repeat(9999)).message.len(), 200);
    }

    #[test]
    fn the_text_that_the_server_was_not_sure_of_is_kept() {
        let body = r#"{"error":{"message":"m","type":"t","param":null,"code":null},
            "primary":{"text":"Maybe.","confidence":0.3,"segments":null}}"#;
        let primary = told(502, None, body).primary.expect("is kept");
        assert_eq!(
            (primary.text.as_str(), primary.confidence),
            ("Maybe.", Some(0.3))
        );
        let nonsense = told(502, None, r#"{"error":{"message":"m"},"primary":7}"#);
        assert_eq!((nonsense.message.as_str(), nonsense.primary), ("m", None));
    }
}
