//! Limits on the queue, uploads and audio, and the result cache.

use super::{Variable, row};
use crate::settings::read::{MEGABYTE, number, positive_seconds, seconds};

pub const ROWS: &[Variable] = &[
    row(
        "ROUTING_DRAIN_CAP_SECONDS",
        "120",
        "Seconds of queued work that count as load 1.0.",
        |s, v| {
            s.routing_drain_cap = positive_seconds(v)?;
            Ok(())
        },
    ),
    row(
        "DRAIN_DELAY_SECONDS",
        "",
        "Seconds in which a node that stops still takes requests, while routers learn of it; empty: 3 with REDIS_URL or \
         AGENT_CHECK_PORT, else 0.",
        |s, v| {
            s.drain_delay = Some(seconds(v)?);
            Ok(())
        },
    ),
    row(
        "DRAIN_GRACE_SECONDS",
        "30",
        "Seconds that running requests and their uploads may take after that before they are cancelled.",
        |s, v| {
            s.drain_grace = seconds(v)?;
            Ok(())
        },
    ),
    row(
        "MAX_QUEUE_SECONDS",
        "600",
        "Requests with a longer estimated wait, in seconds, get 503.",
        |s, v| {
            s.max_queue = positive_seconds(v)?;
            Ok(())
        },
    ),
    row(
        "RESULT_CACHE_SECONDS",
        "0",
        "How long a transcript is cached for an identical upload; 0: not at all.",
        |s, v| {
            s.result_cache = seconds(v)?;
            Ok(())
        },
    ),
    row(
        "MAX_UPLOAD_MB",
        "512",
        "Maximum upload size, in MB.",
        |s, v| {
            let megabytes: f64 = number(v, 0.001, 1_000_000.0, "a number of MB from 0.001")?;
            s.max_upload_bytes = (megabytes * MEGABYTE as f64) as u64;
            Ok(())
        },
    ),
    row(
        "MAX_AUDIO_SECONDS",
        "14400",
        "Maximum length of the audio, in seconds.",
        |s, v| {
            s.max_audio = positive_seconds(v)?;
            Ok(())
        },
    ),
];
