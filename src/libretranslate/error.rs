//! From failures of HTTP to errors of the tree's port.

use reqwest::StatusCode;
use stt_actors::TranslatorError;

/// Longest reason of the server that is passed on, in characters.
const LONGEST_REASON: usize = 200;

/// The error of a call that the HTTP client could not complete.
pub(super) fn unreachable(error: reqwest::Error) -> TranslatorError {
    // The URL may contain a password.
    let error = error.without_url();
    let mut cause: &dyn std::error::Error = &error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    TranslatorError::Unreachable(cause.to_string())
}

/// The error of a redirect.
pub(super) fn redirect(status: StatusCode) -> TranslatorError {
    TranslatorError::Redirect {
        status: status.as_u16(),
        phrase: phrase(status),
    }
}

/// The error of a rejected call: the server's own words without the key, shortened to one line.
pub(super) fn rejected(status: StatusCode, said: &str, key: Option<&str>) -> TranslatorError {
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
    TranslatorError::Rejected {
        status: status.as_u16(),
        phrase: phrase(status),
        reason,
    }
}

fn phrase(status: StatusCode) -> &'static str {
    status.canonical_reason().unwrap_or("<unknown status code>")
}

#[cfg(test)]
mod tests {
    use stt_actors::TranslationError;

    use super::*;

    #[test]
    fn a_reason_is_short_on_one_line_and_without_the_key() {
        let said = format!("the key\n hunter2 is wrong {}", "x".repeat(1000));
        let error = TranslationError::from(rejected(StatusCode::FORBIDDEN, &said, Some("hunter2")));
        let text = error.to_string();
        assert!(
            text.starts_with("it answered 403 Forbidden: the key *** is wrong x"),
            "{text}"
        );
        assert!(text.len() < 300 && error.is_deterministic());
        let silent = TranslationError::from(rejected(StatusCode::BAD_GATEWAY, " ", None));
        assert!(silent.to_string().ends_with("no reason given"));
        assert!(!silent.is_deterministic());
    }
}
