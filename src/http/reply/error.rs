//! The error table: every refusal's status, type, code and headers, in one place.
//!
//! The body is OpenAI's, with all four keys, and `detail` beside it for clients of the Python
//! original.

mod limits;

use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header::{ALLOW, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use actix_web::{HttpResponse, ResponseError};
use serde_json::{Value, json};
use stt_actors::SttError;
use stt_actors::ports::{DecodeError, EngineExit, FallbackError};

use crate::http::reply::escalation_headers;
use crate::http::reply::schema::{ErrorBody, ErrorObject};
use crate::libretranslate::TranslationError;
use crate::metrics::ErrorType;

/// Tells the OpenAI clients not to send a request again that will fail again.
const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");
/// OpenAI's clients ignore longer ones.
const LONGEST_RETRY_SECONDS: u64 = 120;
/// When a disk may have room again.
const STORAGE_RETRY: Duration = Duration::from_secs(30);

/// OpenAI's kinds of error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The client's to mend.
    InvalidRequest,
    /// Too many requests.
    RateLimit,
    /// What a client may have is used up.
    InsufficientQuota,
    /// Ours.
    Server,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid_request_error",
            Self::RateLimit => "rate_limit_error",
            Self::InsufficientQuota => "insufficient_quota",
            Self::Server => "server_error",
        }
    }
}

/// A refusal.
#[derive(Clone, Debug)]
pub struct ApiError {
    status: StatusCode,
    kind: Kind,
    code: &'static str,
    param: Option<&'static str>,
    message: String,
    retry_after: Option<Duration>,
    /// Methods that the path takes.
    allowed: Option<&'static str>,
    /// It fails again if it is sent again.
    deterministic: bool,
    counted_as: ErrorType,
    fallback: Option<Box<FailedFallback>>,
}

/// The larger model gave nothing either.
#[derive(Clone, Debug)]
struct FailedFallback {
    error: FallbackError,
    /// What there is of a reply all the same.
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
            message: message.into(),
            retry_after: None,
            allowed: None,
            deterministic: false,
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
        self.param = Some(param);
        self
    }

    fn with_retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    fn deterministic(mut self) -> Self {
        self.deterministic = true;
        self
    }

    fn counted_as(mut self, kind: ErrorType) -> Self {
        self.counted_as = kind;
        self
    }

    /// No file in the form, where it has this name.
    pub fn missing_file(name: &'static str) -> Self {
        let message = format!("the request has no part named `{name}` with the audio");
        Self::client(StatusCode::BAD_REQUEST, "missing_file", message).with_param(name)
    }

    /// A language that whisper does not know, or cannot translate to.
    pub fn unsupported_language(param: &'static str, message: impl Into<String>) -> Self {
        Self::client(StatusCode::BAD_REQUEST, "unsupported_language", message).with_param(param)
    }

    /// A field with a value out of its range.
    pub fn invalid_value(param: &'static str, message: impl Into<String>) -> Self {
        Self::client(StatusCode::UNPROCESSABLE_ENTITY, "invalid_value", message).with_param(param)
    }

    /// The body is no multipart form.
    pub fn malformed_body(message: impl Into<String>) -> Self {
        Self::client(StatusCode::BAD_REQUEST, "malformed_body", message)
    }

    /// The body is of a type that this path does not take.
    pub fn unsupported_media_type() -> Self {
        let message = "the body must be multipart/form-data with the audio as `file`, or application/json with it as `input_audio`";
        Self::client(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported_media_type",
            message,
        )
    }

    /// More bytes than are taken. Sizes in bytes.
    pub fn upload_too_large(size: u64, limit: u64) -> Self {
        let message = format!(
            "the upload has {size} bytes or more, and this server takes {limit} (MAX_UPLOAD_MB)"
        );
        Self::client(StatusCode::PAYLOAD_TOO_LARGE, "upload_too_large", message)
    }

    /// The client stopped sending.
    pub fn upload_timeout(silent: Duration) -> Self {
        let message = format!(
            "the upload stopped: nothing came for {} s",
            silent.as_secs()
        );
        Self::client(StatusCode::REQUEST_TIMEOUT, "upload_timeout", message)
    }

    /// The client trickles.
    pub fn upload_too_slow(window: Duration) -> Self {
        let message = format!(
            "the upload is too slow: hardly anything came for {} s",
            window.as_secs()
        );
        Self::client(StatusCode::REQUEST_TIMEOUT, "upload_timeout", message)
    }

    /// No room for the upload.
    pub fn insufficient_storage() -> Self {
        let message = "there is no room for the upload now";
        Self::server(
            StatusCode::INSUFFICIENT_STORAGE,
            "insufficient_storage",
            message,
        )
        .with_retry_after(STORAGE_RETRY)
        .counted_as(ErrorType::Overloaded)
    }

    /// No key, or a wrong one.
    pub fn invalid_api_key() -> Self {
        let message = "a valid key is needed: `Authorization: Bearer KEY`";
        Self::client(StatusCode::UNAUTHORIZED, "invalid_api_key", message)
            .counted_as(ErrorType::Auth)
    }

    /// A path that is not there.
    pub fn not_found(path: &str) -> Self {
        let message = format!("there is no {path} here");
        Self::client(StatusCode::NOT_FOUND, "not_found", message)
    }

    /// A model that is not served.
    pub fn model_not_found(id: &str) -> Self {
        let message = format!("the model {id:?} is not served here");
        Self::client(StatusCode::NOT_FOUND, "model_not_found", message)
    }

    /// A browser asks for what pages of its origin may not do.
    pub fn cors_refused(message: impl Into<String>) -> Self {
        Self::client(StatusCode::BAD_REQUEST, "cors_refused", message)
    }

    /// A path with another method than the allowed ones.
    pub fn method_not_allowed(allowed: &'static str) -> Self {
        let message = format!("this path takes {allowed} only");
        let refusal = Self::client(
            StatusCode::METHOD_NOT_ALLOWED,
            "method_not_allowed",
            message,
        );
        Self {
            allowed: Some(allowed),
            ..refusal
        }
    }

    /// The served model knows English only.
    pub fn translation_unsupported(model: &str) -> Self {
        let message = format!("the model {model} cannot translate: it knows English only");
        Self::client(StatusCode::BAD_REQUEST, "translation_unsupported", message)
    }

    /// The larger model gave nothing where it should have.
    pub fn fallback_failed(error: &FallbackError) -> Self {
        let message = format!("the fallback failed: {error}");
        let refusal = Self::server(StatusCode::BAD_GATEWAY, error.kind(), message)
            .counted_as(ErrorType::Fallback)
            .after_fallback(error.clone());
        match error {
            // It says the same of the same again.
            FallbackError::Refused {
                status: 400..=407 | 409..=428 | 430..=499,
                ..
            } => refusal.deterministic(),
            _ => refusal,
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

    /// The same, with the reply that there would be without the larger model.
    pub fn with_primary(
        error: &FallbackError,
        reply: Value,
        headers: Vec<(HeaderName, HeaderValue)>,
    ) -> Self {
        let mut refusal = Self::fallback_failed(error);
        if let Some(failed) = &mut refusal.fallback {
            failed.primary = Some(reply);
            failed.headers = headers;
        }
        refusal
    }

    /// As a primary answers: if the fallback failed as well, that is what went wrong.
    #[must_use]
    pub fn bad_gateway_if_fallback_failed(self, total: Duration) -> Self {
        let Some(failed) = &self.fallback else {
            return self;
        };
        let mut refusal = Self {
            message: format!("{}; the fallback failed: {}", self.message, failed.error),
            ..Self::fallback_failed(&failed.error)
        };
        refusal.deterministic |= self.deterministic;
        if let Some(failed) = &mut refusal.fallback {
            failed.headers = escalation_headers::headers_of_nothing(total);
        }
        refusal
    }

    /// Anything unforeseen; the details go to the log.
    pub fn internal() -> Self {
        let message = "an unforeseen error happened; the server's log has the details";
        Self::server(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", message)
    }

    /// What the client reads.
    pub fn body(&self) -> Value {
        let failed = self.fallback.as_ref();
        let primary = failed.and_then(|failed| failed.primary.as_ref());
        json!(ErrorBody {
            error: ErrorObject {
                message: self.message.clone(),
                kind: self.kind.as_str(),
                param: self.param,
                code: Some(self.code),
            },
            detail: self.message.clone(),
            primary: primary.cloned(),
        })
    }

    /// What any audio request may be refused for, whatever is in it, for the OpenAPI document.
    pub fn of_any_audio_request() -> Vec<Self> {
        let none = Duration::ZERO;
        let mut all = vec![
            Self::missing_file("file"),
            Self::malformed_body(""),
            Self::unsupported_language("language", ""),
            Self::upload_timeout(none),
            Self::upload_too_large(0, 0),
            Self::unsupported_media_type(),
            Self::invalid_value("", ""),
            Self::internal(),
            Self::insufficient_storage(),
            Self::rate_limited(none),
            Self::insufficient_quota(none, none),
        ];
        let by_the_tree = [
            SttError::Decode(DecodeError::NoAudioStream),
            SttError::Decode(DecodeError::TooLong { limit_seconds: 0 }),
            SttError::NotReady {
                reason: String::new(),
                retry_after: none,
            },
            SttError::Overloaded { retry_after: none },
            SttError::Draining { retry_after: none },
            SttError::Poison {
                last: EngineExit::TimedOut,
            },
            SttError::Timeout,
        ];
        all.extend(by_the_tree.map(Self::from));
        all
    }

    /// What a request may fail for besides where a larger model stands by.
    pub fn of_any_fallback() -> Vec<Self> {
        let none = String::new;
        let refused = |status| FallbackError::Refused {
            status,
            message: none(),
        };
        let errors = [
            FallbackError::Unreachable(none()),
            FallbackError::TimedOut { seconds: 0 },
            refused(429),
            refused(500),
            FallbackError::BadAnswer(none()),
            FallbackError::Overloaded,
            FallbackError::Model(none()),
        ];
        errors.iter().map(Self::fallback_failed).collect()
    }

    /// Whether the answer has `Retry-After`.
    pub fn tells_when_to_retry(&self) -> bool {
        self.retry_after.is_some()
    }

    /// As in the body.
    pub fn code(&self) -> &'static str {
        self.code
    }

    /// The label under which it is counted.
    pub fn error_type(&self) -> ErrorType {
        self.counted_as
    }
}

impl From<DecodeError> for ApiError {
    fn from(error: DecodeError) -> Self {
        let message = error.to_string();
        match error {
            DecodeError::Empty(_)
            | DecodeError::Undecodable(_)
            | DecodeError::NoAudioStream
            | DecodeError::Stalled { .. } => {
                Self::client(StatusCode::BAD_REQUEST, "audio_decode_error", message)
                    .with_param("file")
                    .counted_as(ErrorType::Decode)
            }
            DecodeError::TooLong { .. } => {
                Self::client(StatusCode::BAD_REQUEST, "audio_too_long", message)
                    .with_param("file")
                    .counted_as(ErrorType::Decode)
            }
            DecodeError::Unavailable(_) => {
                Self::server(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", message)
            }
        }
    }
}

impl From<TranslationError> for ApiError {
    fn from(error: TranslationError) -> Self {
        let message = format!("LibreTranslate failed: {error}");
        let refusal = Self::server(StatusCode::BAD_GATEWAY, "translation_backend", message)
            .counted_as(ErrorType::Libretranslate);
        if error.is_deterministic() {
            refusal.deterministic()
        } else {
            refusal
        }
    }
}

impl From<SttError> for ApiError {
    fn from(error: SttError) -> Self {
        let message = error.to_string();
        let unavailable = StatusCode::SERVICE_UNAVAILABLE;
        let internal = StatusCode::INTERNAL_SERVER_ERROR;
        match error {
            SttError::Decode(error) => error.into(),
            SttError::NotReady { retry_after, .. } => Self::server(unavailable, "loading", message)
                .with_retry_after(retry_after)
                .counted_as(ErrorType::Model),
            SttError::Overloaded { retry_after } => {
                Self::server(unavailable, "overloaded", message)
                    .with_retry_after(retry_after)
                    .counted_as(ErrorType::Overloaded)
            }
            SttError::Draining { retry_after } => Self::server(unavailable, "draining", message)
                .with_retry_after(retry_after)
                .counted_as(ErrorType::Overloaded),
            SttError::Poison { .. } => Self::server(internal, "poison_audio", message)
                .deterministic()
                .counted_as(ErrorType::Poison),
            SttError::Timeout => Self::server(StatusCode::GATEWAY_TIMEOUT, "timeout", message)
                .deterministic()
                .counted_as(ErrorType::Timeout),
            SttError::Engine(_) => Self::server(internal, "internal_error", message)
                .deterministic()
                .counted_as(ErrorType::Model),
            SttError::WorkerLost { .. } => {
                Self::server(internal, "internal_error", message).counted_as(ErrorType::Model)
            }
            SttError::Fallback { primary, fallback } => {
                Self::from(*primary).after_fallback(fallback)
            }
            SttError::Internal(_) => Self::server(internal, "internal_error", message),
        }
    }
}

impl ResponseError for ApiError {
    fn status_code(&self) -> StatusCode {
        self.status
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = HttpResponse::build(self.status);
        if let Some(after) = self.retry_after {
            let seconds = (after.as_secs_f64().ceil() as u64).clamp(1, LONGEST_RETRY_SECONDS);
            response.insert_header((RETRY_AFTER, seconds));
        }
        if let Some(allowed) = self.allowed {
            response.insert_header((ALLOW, allowed));
        }
        if self.deterministic {
            response.insert_header((SHOULD_RETRY, "false"));
        }
        if let Some(failed) = &self.fallback {
            escalation_headers::insert(&mut response, failed.headers.iter().cloned());
            escalation_headers::insert(
                &mut response,
                escalation_headers::fallback_error(Some(&failed.error)),
            );
        }
        if self.status == StatusCode::UNAUTHORIZED {
            let challenge = HeaderValue::from_static("Bearer");
            response.insert_header((WWW_AUTHENTICATE, challenge));
        }
        let mut response = response.json(self.body());
        // For the log line.
        response.extensions_mut().insert(self.clone());
        response
    }
}
