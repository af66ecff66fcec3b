//! How much work is taken on.

use super::{Variable, row};
use crate::settings::read::{MEGABYTE, number, positive_seconds, seconds};

pub const ROWS: &[Variable] = &[
    row(
        "ROUTING_DRAIN_CAP_SECONDS",
        "120",
        "Drain time that counts as load 1.0.",
        |s, v| {
            s.routing_drain_cap = positive_seconds(v)?;
            Ok(())
        },
    ),
    row(
        "MAX_QUEUE_SECONDS",
        "600",
        "More estimated waiting is refused with 503.",
        |s, v| {
            s.max_queue = positive_seconds(v)?;
            Ok(())
        },
    ),
    row(
        "RESULT_CACHE_SECONDS",
        "0",
        "How long a transcript is kept for the same upload to come again; 0: it is not.",
        |s, v| {
            s.result_cache = seconds(v)?;
            Ok(())
        },
    ),
    row("MAX_UPLOAD_MB", "512", "Largest upload.", |s, v| {
        let megabytes: f64 = number(v, 0.001, 1_000_000.0, "a number of MB from 0.001")?;
        s.max_upload_bytes = (megabytes * MEGABYTE as f64) as u64;
        Ok(())
    }),
    row("MAX_AUDIO_SECONDS", "14400", "Longest audio.", |s, v| {
        s.max_audio = positive_seconds(v)?;
        Ok(())
    }),
];
