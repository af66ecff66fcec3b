//! The trace of a request with audio (cargo feature `otel`), and the trace context that its client sent.

use std::sync::Arc;

use actix_web::dev::ServiceRequest;
use actix_web::http::header::HeaderMap;
use actix_web::{HttpMessage, HttpRequest};
use stt_actors::domain::trace::SPANS;
use stt_actors::{Trace, TraceContext};
use tracing::field::Empty;
use tracing::{Span, info_span};

use crate::http::request_log::WorkSummary;
use crate::metrics::takes_audio;
use crate::telemetry;

/// The longest header of a trace context that is passed on. W3C asks for at least 512 characters of `tracestate`.
const MAX_HEADER_BYTES: usize = 512;

/// The trace of a request.
pub fn of(request: &HttpRequest) -> Trace {
    let known = request.extensions().get::<Trace>().cloned();
    known.unwrap_or_default()
}

/// Begins the span of a request and keeps it for [`of`].
pub fn begin(request: &ServiceRequest, id: &str) -> Span {
    let pattern = request.match_pattern();
    let pattern = pattern.filter(|pattern| takes_audio(pattern));
    let span = pattern.map_or_else(Span::none, |pattern| {
        let method = request.method().as_str();
        info_span!(
            target: SPANS,
            parent: None,
            "request",
            otel.name = format!("{method} {pattern}"),
            otel.kind = "server",
            otel.status_code = Empty,
            http.request.method = method,
            http.route = pattern,
            http.response.status_code = Empty,
            request_id = id,
            error.type = Empty,
            language = Empty,
            model = Empty,
        )
    });
    let context = context(request.headers());
    telemetry::continue_trace(&span, context.as_ref());
    let trace = Trace {
        span: span.clone(),
        context,
    };
    request.extensions_mut().insert(trace);
    span
}

/// Adds the outcome to the span.
pub fn end(span: &Span, status: u16, work: Option<&WorkSummary>, error: Option<&str>) {
    span.record("http.response.status_code", status);
    if let Some(code) = error {
        span.record("error.type", code);
    }
    if status >= 500 {
        span.record("otel.status_code", "ERROR");
    }
    if let Some(work) = work {
        span.record("language", work.language.as_str());
        span.record("model", work.model.as_str());
    }
}

/// The context in the headers.
fn context(headers: &HeaderMap) -> Option<TraceContext> {
    let header = |name| {
        let value = headers.get(name)?.to_str().ok()?.trim();
        (1..=MAX_HEADER_BYTES)
            .contains(&value.len())
            .then(|| Arc::from(value))
    };
    Some(TraceContext {
        parent: header("traceparent").filter(is_parent)?,
        state: header("tracestate"),
    })
}

/// Whether it is a version, a trace, a span and flags, in hexadecimal digits.
fn is_parent(value: &Arc<str>) -> bool {
    let parts: Vec<&str> = value.split('-').collect();
    let is_hex = |part: &&str| part.bytes().all(|byte| byte.is_ascii_hexdigit());
    let lengths: Vec<usize> = parts.iter().map(|part| part.len()).collect();
    lengths.starts_with(&[2, 32, 16, 2]) && parts.iter().take(4).all(is_hex)
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::{HeaderName, HeaderValue};

    use super::*;

    fn of_headers(parent: &str, state: &str) -> Option<TraceContext> {
        let pairs = [("traceparent", parent), ("tracestate", state)];
        let headers = pairs.map(|(name, value)| {
            let value = HeaderValue::from_bytes(value.as_bytes()).expect("a value");
            (HeaderName::from_static(name), value)
        });
        context(&HeaderMap::from_iter(headers))
    }

    #[test]
    fn only_a_valid_context_is_passed_on() {
        let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let found = of_headers(parent, "a=1,b=2").expect("valid");
        assert_eq!(&*found.parent, parent);
        assert_eq!(found.state.as_deref(), Some("a=1,b=2"));
        let found = of_headers(parent, &"x".repeat(513)).expect("valid");
        assert_eq!(found.state, None);
        for bad in ["", "00-1-2-01", "secret", &parent.replace('f', "g")] {
            assert_eq!(of_headers(bad, ""), None, "{bad}");
        }
    }
}
