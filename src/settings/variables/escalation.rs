//! When a larger node is asked.

use super::{Variable, later, row, secret};
use crate::settings::read::{any, any_count, any_probability, any_url, flag};

pub const ROWS: &[Variable] = &[
    later("CT2_SMALL_PATH", "", "Another name of WHISPER_MODEL.", any),
    later("CT2_MEDIUM_PATH", "", "Another name of WHISPER_MODEL.", any),
    later(
        "CONF_LOGPROB_THRESHOLD",
        "0.55",
        "Confidence below which a request escalates.",
        any_probability,
    ),
    later(
        "CONF_LANGPROB_THRESHOLD",
        "0.70",
        "The same for a detected language.",
        any_probability,
    ),
    later(
        "MIN_WORDS_FOR_CONF",
        "3",
        "Fewer words escalate.",
        any_count,
    ),
    later("FALLBACK_URL", "", "The larger node.", any_url),
    secret(later("FALLBACK_API_KEY", "", "Its key.", any)),
    row(
        "METRICS_KEYED",
        "0",
        "Whether /metrics needs a key.",
        |s, v| {
            s.metrics_keyed = flag(v)?;
            Ok(())
        },
    ),
    later("SERVER_COMMIT", "", "Shown by /v1/metrics.", any),
];
