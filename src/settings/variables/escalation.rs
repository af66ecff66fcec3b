//! Two tiers: a small model that passes on what it does not trust itself with.

use stt_actors::EscalationPolicy;

use super::{Variable, row, secret};
use crate::settings::read::{base_url, flag, number, positive_seconds};
use crate::settings::{Role, Settings};

pub const ROWS: &[Variable] = &[
    row(
        "CT2_SMALL_PATH",
        "",
        "WHISPER_MODEL of a primary: a CTranslate2 folder.",
        |s, v| {
            s.ct2_small = Some(v.to_owned());
            Ok(())
        },
    ),
    row(
        "CT2_MEDIUM_PATH",
        "",
        "WHISPER_MODEL of a fallback: a CTranslate2 folder.",
        |s, v| {
            s.ct2_medium = Some(v.to_owned());
            Ok(())
        },
    ),
    row(
        "CONF_LOGPROB_THRESHOLD",
        "0.55",
        "Confidence, exp(mean log-probability of the tokens), below which a text is had again from the fallback.",
        |s, v| {
            s.escalation.min_confidence = probability(v)?;
            Ok(())
        },
    ),
    row(
        "CONF_LANGPROB_THRESHOLD",
        "0.70",
        "The same for the probability of a detected language.",
        |s, v| {
            s.escalation.min_language_probability = probability(v)?;
            Ok(())
        },
    ),
    row(
        "MIN_WORDS_FOR_CONF",
        "3",
        "The same for a text with fewer words; 0: however few there are.",
        |s, v| {
            s.escalation.min_words = number(v, 0, 100, "a whole number from 0 to 100")?;
            Ok(())
        },
    ),
    // May carry a password.
    secret(row(
        "FALLBACK_URL",
        "",
        "The node with the larger model; empty: nothing is passed on.",
        |s, v| {
            s.fallback_url = Some(base_url(v)?);
            Ok(())
        },
    )),
    secret(row("FALLBACK_API_KEY", "", "Its key.", |s, v| {
        s.fallback_api_key = Some(v.into());
        Ok(())
    })),
    row(
        "FALLBACK_MODEL",
        "",
        "A larger model on this node, where there is no other one: a cold worker has it.",
        |s, v| {
            s.fallback_model = Some(v.to_owned());
            Ok(())
        },
    ),
    row(
        "FALLBACK_TIMEOUT_S",
        "60",
        "Seconds that the fallback may take for one piece of audio, a second try included.",
        |s, v| {
            s.fallback_timeout = positive_seconds(v)?;
            Ok(())
        },
    ),
    row(
        "METRICS_KEYED",
        "0",
        "Whether /metrics needs a key.",
        |s, v| {
            s.metrics_keyed = flag(v)?;
            Ok(())
        },
    ),
    row("SERVER_COMMIT", "", "Shown by /v1/metrics.", |s, v| {
        s.server_commit = Some(v.to_owned());
        Ok(())
    }),
];

fn probability(value: &str) -> Result<f32, String> {
    number(value, 0.0, 1.0, "a number from 0 to 1")
}

/// By default.
pub const POLICY: EscalationPolicy = EscalationPolicy {
    min_confidence: 0.55,
    min_language_probability: 0.70,
    min_words: 3,
};

/// The model of a role's own variable, if it is set.
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
