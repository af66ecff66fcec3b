//! Escalation: thresholds, and the fallback that doubtful texts go to.

use std::path::PathBuf;

use stt_actors::EscalationPolicy;

use super::{Variable, row, secret};
use crate::settings::read::{base_url, flag, number, positive_seconds};
use crate::settings::{Role, Settings};

pub const ROWS: &[Variable] = &[
    row(
        "CT2_SMALL_PATH",
        "",
        "Model of a primary: a CTranslate2 folder, in place of WHISPER_MODEL.",
        |s, v| {
            s.ct2_small = Some(v.to_owned());
            Ok(())
        },
    ),
    row(
        "CT2_MEDIUM_PATH",
        "",
        "Model of a fallback: a CTranslate2 folder, in place of WHISPER_MODEL.",
        |s, v| {
            s.ct2_medium = Some(v.to_owned());
            Ok(())
        },
    ),
    row(
        "CONF_LOGPROB_THRESHOLD",
        "0.55",
        "Texts with a lower confidence, exp(mean log-probability of the tokens), go to the fallback.",
        |s, v| {
            s.escalation.min_confidence = probability(v)?;
            Ok(())
        },
    ),
    row(
        "CONF_LANGPROB_THRESHOLD",
        "0.70",
        "Texts whose detected language has a lower probability go to the fallback.",
        |s, v| {
            s.escalation.min_language_probability = probability(v)?;
            Ok(())
        },
    ),
    row(
        "MIN_WORDS_FOR_CONF",
        "3",
        "Requests with fewer words go to the fallback; 0: no minimum.",
        |s, v| {
            s.escalation.min_words = number(v, 0, 100, "a whole number from 0 to 100")?;
            Ok(())
        },
    ),
    // The URL may contain a password.
    secret(row(
        "FALLBACK_URL",
        "",
        "Base address of the fallback node; empty: no fallback node.",
        |s, v| {
            s.fallback_url = Some(base_url(v)?);
            Ok(())
        },
    )),
    secret(row(
        "FALLBACK_API_KEY",
        "",
        "Bearer key that the fallback node requires.",
        |s, v| {
            s.fallback_api_key = Some(v.into());
            Ok(())
        },
    )),
    row(
        "FALLBACK_CA",
        "",
        "File with the only certificate authorities (PEM) whose certificates are accepted of the fallback node; empty: those of the system.",
        |s, v| {
            s.fallback_tls.ca = Some(PathBuf::from(v));
            Ok(())
        },
    ),
    row(
        "FALLBACK_CERT",
        "",
        "File with the certificate and its chain (PEM) that this node presents to the fallback node.",
        |s, v| {
            s.fallback_tls.certificate = Some(PathBuf::from(v));
            Ok(())
        },
    ),
    row(
        "FALLBACK_KEY",
        "",
        "File with the private key of FALLBACK_CERT (PEM).",
        |s, v| {
            s.fallback_tls.key = Some(PathBuf::from(v));
            Ok(())
        },
    ),
    row(
        "FALLBACK_MODEL",
        "",
        "Fallback model on this node, run by a cold worker, for use without a fallback node.",
        |s, v| {
            s.fallback_model = Some(v.to_owned());
            Ok(())
        },
    ),
    row(
        "FALLBACK_TIMEOUT_S",
        "60",
        "Time limit, in seconds, of the fallback for one chunk, including the retry.",
        |s, v| {
            s.fallback_timeout = positive_seconds(v)?;
            Ok(())
        },
    ),
    row(
        "METRICS_KEYED",
        "0",
        "1: /metrics requires a key.",
        |s, v| {
            s.metrics_keyed = flag(v)?;
            Ok(())
        },
    ),
    row(
        "SERVER_COMMIT",
        "",
        "Commit name shown by /v1/metrics.",
        |s, v| {
            s.server_commit = Some(v.to_owned());
            Ok(())
        },
    ),
];

fn probability(value: &str) -> Result<f32, String> {
    number(value, 0.0, 1.0, "a number from 0 to 1")
}

/// The default thresholds.
pub const POLICY: EscalationPolicy = EscalationPolicy {
    min_confidence: 0.55,
    min_language_probability: 0.70,
    min_words: 3,
};

/// The model set by the variable of this role, else by that of the other role, and the variable's
/// name.
pub fn ct2_path(settings: &Settings) -> Option<(&'static str, &str)> {
    let small = settings
        .ct2_small
        .as_deref()
        .map(|path| ("CT2_SMALL_PATH", path));
    let medium = settings
        .ct2_medium
        .as_deref()
        .map(|path| ("CT2_MEDIUM_PATH", path));
    match settings.role {
        Role::Fallback => medium.or(small),
        Role::Primary | Role::Hotcold => small.or(medium),
    }
}
