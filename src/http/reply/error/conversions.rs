//! Errors of the actor tree and of LibreTranslate as API errors. The matches are exhaustive: a new
//! error does not compile without a status.

use std::time::Duration;

use actix_web::http::StatusCode;
use stt_actors::domain::error::DecodeError;
use stt_actors::{LiveError, SttError, TranslationError};

use super::ApiError;
use crate::metrics::ErrorType;

/// Retry-After when a live session cannot be opened.
const LIVE_RETRY: Duration = Duration::from_secs(10);

impl From<LiveError> for ApiError {
    fn from(error: LiveError) -> Self {
        let message = error.to_string();
        let unavailable = StatusCode::SERVICE_UNAVAILABLE;
        match error {
            LiveError::TooMany { .. } => Self::server(unavailable, "overloaded", message)
                .with_retry_after(LIVE_RETRY)
                .before_work()
                .counted_as(ErrorType::Overloaded),
            LiveError::Draining => Self::server(unavailable, "draining", message)
                .with_retry_after(LIVE_RETRY)
                .before_work()
                .counted_as(ErrorType::Overloaded),
            LiveError::Format(_) => Self::invalid_session("invalid_value", message, None),
            LiveError::Lost => {
                Self::server(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", message)
            }
        }
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
        let for_log = format!("LibreTranslate failed: {}", error.for_log());
        let api_error = Self::server(StatusCode::BAD_GATEWAY, "translation_backend", message)
            .with_reason_for_log(for_log)
            .counted_as(ErrorType::Libretranslate);
        if error.is_deterministic() {
            api_error.deterministic()
        } else {
            api_error
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
