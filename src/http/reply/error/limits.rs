//! Errors for requests that exceed a limit.

use std::time::Duration;

use actix_web::http::StatusCode;

use super::{ApiError, Kind};
use crate::board::NotWatchable;
use crate::metrics::ErrorType;

/// Retry-After when too many connections are open.
const CONNECTION_RETRY: Duration = Duration::from_secs(2);
/// Retry-After when too many ephemeral keys are valid.
const SECRETS_RETRY: Duration = Duration::from_secs(60);
/// Retry-After when enough viewers watch the status.
const VIEWERS_RETRY: Duration = Duration::from_secs(10);

impl ApiError {
    /// One client sent too many requests.
    pub fn rate_limited(wait: Duration) -> Self {
        let wait_shown = readable(wait);
        let message = format!("too many requests (RATE_LIMIT_RPS); retry in {wait_shown}");
        Self::too_many("rate_limit_exceeded", message, wait)
    }

    /// One address sent too many wrong keys.
    pub fn too_many_wrong_keys(wait: Duration) -> Self {
        let message = "too many wrong keys came from this address";
        Self::too_many("rate_limit_exceeded", message, wait)
    }

    /// The client has used up its daily audio.
    pub fn insufficient_quota(allowance: Duration, wait: Duration) -> Self {
        let (seconds, wait_shown) = (allowance.as_secs_f64(), readable(wait));
        let message = format!(
            "the daily limit of {seconds} s of audio (MAX_AUDIO_SECONDS_PER_DAY) is used up; it resets at midnight UTC, in {wait_shown}"
        );
        Self {
            kind: Kind::InsufficientQuota,
            ..Self::too_many("insufficient_quota", message, wait)
        }
        .deterministic()
    }

    pub(super) fn too_many(code: &'static str, message: impl Into<String>, wait: Duration) -> Self {
        Self {
            kind: Kind::RateLimit,
            ..Self::client(StatusCode::TOO_MANY_REQUESTS, code, message)
        }
        .with_retry_after(wait)
        .counted_as(ErrorType::RateLimit)
    }

    /// Too many ephemeral keys are valid.
    pub fn too_many_client_secrets() -> Self {
        let message = "too many ephemeral keys are valid";
        Self::server(StatusCode::SERVICE_UNAVAILABLE, "overloaded", message)
            .with_retry_after(SECRETS_RETRY)
            .before_work()
            .counted_as(ErrorType::Overloaded)
    }

    /// Enough viewers watch the status, or the server stops.
    pub fn not_watchable(reason: NotWatchable) -> Self {
        let message = format!("the status cannot be watched: {reason}");
        Self::server(StatusCode::SERVICE_UNAVAILABLE, "overloaded", message)
            .with_retry_after(VIEWERS_RETRY)
            .counted_as(ErrorType::Overloaded)
    }

    /// The connection limit is reached.
    pub fn too_many_connections() -> Self {
        let message = "too many connections are open (MAX_CONNECTIONS)";
        Self::server(StatusCode::SERVICE_UNAVAILABLE, "overloaded", message)
            .with_retry_after(CONNECTION_RETRY)
            .before_work()
            .counted_as(ErrorType::Overloaded)
    }
}

/// A duration as text, rounded up.
fn readable(wait: Duration) -> String {
    let seconds = wait.as_secs_f64().ceil() as u64;
    match seconds {
        ..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds.div_ceil(60)),
        7200.. => {
            let minutes = seconds.div_ceil(60);
            format!("{} h {} min", minutes / 60, minutes % 60)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_readable_and_rounded_up() {
        let texts = [0.2, 119.5, 120.5, 7199.0, 7201.0, 7260.0, 10_799.0]
            .map(|seconds| readable(Duration::from_secs_f64(seconds)));
        assert_eq!(
            texts,
            [
                "1 s",
                "2 min",
                "3 min",
                "120 min",
                "2 h 1 min",
                "2 h 1 min",
                "3 h 0 min"
            ]
        );
    }
}
