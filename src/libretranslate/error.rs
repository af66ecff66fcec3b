//! Why there is no translation.

use std::time::Duration;

use reqwest::StatusCode;
use thiserror::Error;

/// How much of what a server says is passed on, in characters.
const LONGEST_REASON: usize = 200;

/// Why LibreTranslate gave no translation. The texts go to clients: neither its address nor its key
/// is in them.
#[derive(Debug, Error)]
pub enum TranslationError {
    /// No connection, or one that broke.
    #[error("it cannot be reached: {0}")]
    Unreachable(String),
    /// The time limit is over.
    #[error("it was not done within {} s", .0.as_secs_f64())]
    TooSlow(Duration),
    /// It leads elsewhere, where neither text nor key was meant to go.
    #[error("it answers with a redirect ({0}), which is not followed")]
    Redirect(StatusCode),
    /// It says no: a language that it does not have, a wrong key, too much at once.
    #[error("it answered {status}: {reason}")]
    Refused {
        /// Of its answer.
        status: StatusCode,
        /// In its own words, shortened.
        reason: String,
    },
    /// It says something else than its documentation promises.
    #[error("its answer makes no sense: {0}")]
    Malformed(&'static str),
}

impl TranslationError {
    /// What a client library says about a call that failed.
    pub(super) fn broken(error: reqwest::Error) -> Self {
        // The address may hold a password.
        let error = error.without_url();
        let mut cause: &dyn std::error::Error = &error;
        while let Some(source) = cause.source() {
            cause = source;
        }
        Self::Unreachable(cause.to_string())
    }

    /// A refusal, in the server's own words but for the key.
    pub(super) fn refused(status: StatusCode, said: &str, key: Option<&str>) -> Self {
        let said = match key {
            Some(key) => said.replace(key, "***"),
            None => said.to_owned(),
        };
        let words: Vec<&str> = said.split_whitespace().collect();
        let reason: String = words.join(" ").chars().take(LONGEST_REASON).collect();
        let reason = if reason.is_empty() {
            "no reason given".to_owned()
        } else {
            reason
        };
        Self::Refused { status, reason }
    }

    /// Whether the same call would fail again, so that nobody needs to try.
    pub fn is_deterministic(&self) -> bool {
        match self {
            // The same text would take as long again, and the speech would be transcribed again for it.
            Self::Redirect(_) | Self::TooSlow(_) => true,
            Self::Refused { status, .. } => {
                let passing = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS];
                status.is_client_error() && !passing.contains(status)
            }
            Self::Unreachable(_) | Self::Malformed(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_says_is_short_on_one_line_and_without_the_key() {
        let said = format!("the key\n hunter2 is wrong {}", "x".repeat(1000));
        let error = TranslationError::refused(StatusCode::FORBIDDEN, &said, Some("hunter2"));
        let text = error.to_string();
        assert!(
            text.starts_with("it answered 403 Forbidden: the key *** is wrong x"),
            "{text}"
        );
        assert!(text.len() < 300 && error.is_deterministic());
        let silent = TranslationError::refused(StatusCode::BAD_GATEWAY, " ", None);
        assert!(silent.to_string().ends_with("no reason given"));
        assert!(!silent.is_deterministic());
    }
}
