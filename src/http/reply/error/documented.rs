//! The errors that the OpenAPI document lists for the routes with audio.

use std::time::Duration;

use stt_actors::SttError;
use stt_actors::domain::error::{DecodeError, EngineExit, FallbackError};

use super::ApiError;

impl ApiError {
    /// The errors of all routes with audio.
    pub fn all_of_audio_routes() -> Vec<Self> {
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
        let of_the_tree = [
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
        all.extend(of_the_tree.map(Self::from));
        all
    }

    /// The additional errors where a fallback is configured.
    pub fn all_of_fallback() -> Vec<Self> {
        let none = String::new;
        let rejected = |status| FallbackError::Refused {
            status,
            message: none(),
        };
        let errors = [
            FallbackError::Unreachable(none()),
            FallbackError::TimedOut { seconds: 0 },
            rejected(429),
            rejected(500),
            FallbackError::BadAnswer(none()),
            FallbackError::Overloaded,
            FallbackError::Model(none()),
        ];
        errors.iter().map(Self::fallback_failed).collect()
    }
}
