//! The error table: the status, type, code and headers of every error.
//!
//! The body has OpenAI's format with all four keys, and `detail` for clients of the Python original.

mod body;
mod conversions;
mod documented;
mod jobs;
mod limits;

use std::borrow::Cow;
use std::net::IpAddr;
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header::{
    ALLOW, HeaderName, HeaderValue, RETRY_AFTER, SEC_WEBSOCKET_VERSION, UPGRADE, WWW_AUTHENTICATE,
};
use actix_web::{HttpResponse, ResponseError};
use serde_json::{Value, json};
use stt_actors::domain::error::FallbackError;

use crate::http::reply::escalation_headers;
use crate::http::reply::schema::{ErrorBody, ErrorObject};
use crate::metrics::ErrorType;

/// With the value `false`, OpenAI's clients do not retry the request.
const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");
/// Rejections with this header, whose value is `1`, were made before any work: another node may get the same request.
pub const NOT_PROCESSED: HeaderName = HeaderName::from_static("x-not-processed");
/// OpenAI's clients ignore a longer Retry-After.
const MAX_RETRY_AFTER_SECONDS: u64 = 120;
/// Retry-After when the disk is full.
const STORAGE_RETRY: Duration = Duration::from_secs(30);

/// OpenAI's error types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The request is invalid.
    InvalidRequest,
    /// Too many requests.
    RateLimit,
    /// The client's allowance is used up.
    InsufficientQuota,
    /// The server failed.
    Server,
}

impl Kind {
    /// The `type` in the body.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid_request_error",
            Self::RateLimit => "rate_limit_error",
            Self::InsufficientQuota => "insufficient_quota",
            Self::Server => "server_error",
        }
    }
}

/// A part of a request as messages show it.
fn shortened(text: &str) -> String {
    const MAX_CHARS: usize = 200;
    let mut shown: String = text.chars().take(MAX_CHARS).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown
}

/// An error response.
#[derive(Clone, Debug)]
pub struct ApiError {
    status: StatusCode,
    kind: Kind,
    code: &'static str,
    param: Option<Cow<'static, str>>,
    message: Box<str>,
    /// The message without what another server said; `None`: the message.
    for_log: Option<Box<str>>,
    retry_after: Option<Duration>,
    /// The methods of the route, for `Allow`.
    allowed: Option<&'static str>,
    /// A retry would fail again.
    deterministic: bool,
    /// Nothing of the request was processed.
    not_processed: bool,
    counted_as: ErrorType,
    fallback: Option<Box<FailedFallback>>,
}

/// The fallback failed, too.
#[derive(Clone, Debug)]
struct FailedFallback {
    error: FallbackError,
    /// The reply without the fallback.
    primary: Option<Value>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl std::fmt::Display for ApiError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl ApiError {
    fn client(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            kind: Kind::InvalidRequest,
            code,
            param: None,
            message: message.into().into(),
            for_log: None,
            retry_after: None,
            allowed: None,
            deterministic: false,
            not_processed: false,
            counted_as: ErrorType::Validation,
            fallback: None,
        }
    }

    fn server(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            kind: Kind::Server,
            counted_as: ErrorType::Internal,
            ..Self::client(status, code, message)
        }
    }

    fn with_param(mut self, param: &'static str) -> Self {
        self.param = Some(param.into());
        self
    }

    fn with_retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    /// Replaces the message in the log.
    fn with_reason_for_log(mut self, reason: String) -> Self {
        self.for_log = Some(reason.into());
        self
    }

    fn deterministic(mut self) -> Self {
        self.deterministic = true;
        self
    }

    /// Says that nothing of the request was processed, so that a router may send it to another node.
    #[must_use]
    pub fn before_work(mut self) -> Self {
        self.not_processed = true;
        self
    }

    fn counted_as(mut self, kind: ErrorType) -> Self {
        self.counted_as = kind;
        self
    }

    /// The key is missing or wrong.
    pub fn invalid_api_key() -> Self {
        let message = "a valid API key is required: `Authorization: Bearer KEY`";
        Self::client(StatusCode::UNAUTHORIZED, "invalid_api_key", message)
            .counted_as(ErrorType::Auth)
    }

    /// The path does not exist. `nearest`: the path that the client probably means.
    pub fn not_found(path: &str, nearest: Option<&str>) -> Self {
        let advice = match nearest {
            Some(nearest) => format!("the path is {nearest}"),
            None => "/docs describes all paths".to_owned(),
        };
        let message = format!("there is no {} here; {advice}", shortened(path));
        Self::client(StatusCode::NOT_FOUND, "not_found", message)
    }

    /// The model is not served.
    pub fn model_not_found(id: &str) -> Self {
        let message = format!("the model {:?} is not served here", shortened(id));
        Self::client(StatusCode::NOT_FOUND, "model_not_found", message)
    }

    /// A CORS request that is not allowed.
    pub fn cors_refused(message: impl Into<String>) -> Self {
        Self::client(StatusCode::BAD_REQUEST, "cors_refused", message)
    }

    /// A page of another origin wants a WebSocket of a server that requires no keys.
    pub fn origin_not_allowed() -> Self {
        let message =
            "pages of this origin may not use this server: set CORS_ALLOW_ORIGINS, or keys";
        Self::client(StatusCode::FORBIDDEN, "origin_not_allowed", message)
            .counted_as(ErrorType::Auth)
    }

    /// The client's address is in none of the allowed networks.
    pub fn address_not_allowed(address: IpAddr) -> Self {
        let message = format!("the address {address} may not use this server (ALLOWED_NETWORKS)");
        Self::client(StatusCode::FORBIDDEN, "address_not_allowed", message)
            .counted_as(ErrorType::Auth)
    }

    /// A request to drain the server that has no key, and does not come from a program on this machine.
    pub fn drain_not_allowed() -> Self {
        let message = "without keys (API_KEYS, API_KEYS_FILE), only a program on the server's machine may drain it, and not \
            through a proxy";
        Self::client(StatusCode::FORBIDDEN, "drain_not_allowed", message)
            .counted_as(ErrorType::Auth)
    }

    /// The client, on this machine, has presented no certificate.
    pub fn client_certificate_required() -> Self {
        let message = "this server needs a client certificate (TLS_CLIENT_CA)";
        Self::client(
            StatusCode::FORBIDDEN,
            "client_certificate_required",
            message,
        )
        .counted_as(ErrorType::Auth)
    }

    /// The path has only WebSockets.
    pub fn upgrade_required(reason: &str) -> Self {
        let message = format!("this path is a WebSocket: {reason}");
        Self::client(StatusCode::UPGRADE_REQUIRED, "upgrade_required", message)
    }

    /// The configuration of a realtime session is not valid.
    pub fn invalid_session(
        code: &'static str,
        message: impl Into<String>,
        param: Option<String>,
    ) -> Self {
        Self {
            param: param.map(Cow::Owned),
            ..Self::client(StatusCode::BAD_REQUEST, code, message)
        }
    }

    /// The route does not accept the method.
    pub fn method_not_allowed(allowed: &'static str) -> Self {
        let message = format!("this path accepts {allowed} only");
        let api_error = Self::client(
            StatusCode::METHOD_NOT_ALLOWED,
            "method_not_allowed",
            message,
        );
        Self {
            allowed: Some(allowed),
            ..api_error
        }
    }

    /// The served model knows English only.
    pub fn translation_unsupported(model: &str) -> Self {
        let message = format!(
            "the model {model} cannot translate: it knows English only, and no LibreTranslate server is configured (LIBRETRANSLATE_URL)"
        );
        Self::client(StatusCode::BAD_REQUEST, "translation_unsupported", message)
    }

    /// The fallback failed where its text was needed.
    pub fn fallback_failed(error: &FallbackError) -> Self {
        let message = format!("the fallback failed: {error}");
        let api_error = Self::server(StatusCode::BAD_GATEWAY, error.kind(), message)
            .counted_as(ErrorType::Fallback)
            .with_reason_for_log(format!("the fallback failed: {}", error.for_log()))
            .after_fallback(error.clone());
        match error {
            // The fallback would reject the same request again.
            FallbackError::Refused {
                status: 400..=407 | 409..=428 | 430..=499,
                ..
            } => api_error.deterministic(),
            _ => api_error,
        }
    }

    fn after_fallback(self, error: FallbackError) -> Self {
        let failed = FailedFallback {
            error,
            primary: None,
            headers: Vec::new(),
        };
        Self {
            fallback: Some(Box::new(failed)),
            ..self
        }
    }

    /// The fallback failed. The response contains the primary's reply.
    pub fn with_primary(
        error: &FallbackError,
        reply: Value,
        headers: Vec<(HeaderName, HeaderValue)>,
    ) -> Self {
        let mut api_error = Self::fallback_failed(error);
        if let Some(failed) = &mut api_error.fallback {
            failed.primary = Some(reply);
            failed.headers = headers;
        }
        api_error
    }

    /// This error as the route for a primary reports it: 502 if the fallback failed, too.
    #[must_use]
    pub fn bad_gateway_if_fallback_failed(self, total: Duration) -> Self {
        let Some(failed) = &self.fallback else {
            return self;
        };
        let (own, fallback) = (self.reason_for_log(), failed.error.for_log());
        let mut api_error = Self {
            message: format!("{}; the fallback failed: {}", self.message, failed.error).into(),
            for_log: Some(format!("{own}; the fallback failed: {fallback}").into()),
            ..Self::fallback_failed(&failed.error)
        };
        api_error.deterministic |= self.deterministic;
        if let Some(failed) = &mut api_error.fallback {
            failed.headers = escalation_headers::headers_without_transcript(total);
        }
        api_error
    }

    /// An unexpected error; the log has the details.
    pub fn internal() -> Self {
        let message = "an unexpected error occurred; the server's log has the details";
        Self::server(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", message)
    }

    /// The response body.
    pub fn body(&self) -> Value {
        let failed = self.fallback.as_ref();
        let primary = failed.and_then(|failed| failed.primary.as_ref());
        json!(ErrorBody {
            error: ErrorObject {
                message: self.message.to_string(),
                kind: self.kind.as_str(),
                param: self.param.as_deref().map(str::to_owned),
                code: Some(self.code),
            },
            detail: self.message.to_string(),
            primary: primary.cloned(),
        })
    }

    /// The message for the log. What another server said may contain the text of speech, and is left out.
    pub fn reason_for_log(&self) -> &str {
        self.for_log.as_deref().unwrap_or(&self.message)
    }

    /// Whether the response has `Retry-After`.
    pub fn has_retry_after(&self) -> bool {
        self.retry_after.is_some()
    }

    /// The type of the error.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The `code` in the body.
    pub fn code(&self) -> &'static str {
        self.code
    }

    /// The label under which metrics count it.
    pub fn error_type(&self) -> ErrorType {
        self.counted_as
    }
}

impl ResponseError for ApiError {
    fn status_code(&self) -> StatusCode {
        self.status
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = HttpResponse::build(self.status);
        if let Some(after) = self.retry_after {
            let seconds = (after.as_secs_f64().ceil() as u64).clamp(1, MAX_RETRY_AFTER_SECONDS);
            response.insert_header((RETRY_AFTER, seconds));
        }
        if let Some(allowed) = self.allowed {
            response.insert_header((ALLOW, allowed));
        }
        if self.deterministic {
            response.insert_header((SHOULD_RETRY, "false"));
        }
        if self.not_processed {
            response.insert_header((NOT_PROCESSED, "1"));
        }
        if let Some(failed) = &self.fallback {
            escalation_headers::insert(&mut response, failed.headers.iter().cloned());
            escalation_headers::insert(
                &mut response,
                escalation_headers::fallback_error(Some(&failed.error)),
            );
        }
        if self.status == StatusCode::UPGRADE_REQUIRED {
            response.insert_header((UPGRADE, "websocket"));
            response.insert_header((SEC_WEBSOCKET_VERSION, "13"));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            let challenge = HeaderValue::from_static("Bearer");
            response.insert_header((WWW_AUTHENTICATE, challenge));
        }
        let mut response = response.json(self.body());
        // The request log reads it from here.
        response.extensions_mut().insert(self.clone());
        response
    }
}
