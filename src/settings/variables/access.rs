//! Access: keys, rate limits, browser origins and proxies.

use std::path::PathBuf;
use std::time::Duration;

use super::{Variable, row, secret};
use crate::settings::Secret;
use crate::settings::read::{allowed_networks, number, origins, proxies};

pub const ROWS: &[Variable] = &[
    row(
        "CORS_ALLOW_ORIGINS",
        "",
        "Comma-separated origins whose pages may use the server, or *; empty: none.",
        origins,
    ),
    secret(row(
        "API_KEYS",
        "",
        "Comma-separated bearer keys; empty: no key is required.",
        |s, v| {
            s.api_keys = v
                .split(',')
                .map(str::trim)
                .filter(|key| !key.is_empty())
                .map(Secret::from)
                .collect();
            if s.api_keys.is_empty() {
                return Err("expected at least one key".to_owned());
            }
            Ok(())
        },
    )),
    row(
        "API_KEYS_FILE",
        "",
        "File with one `name key` per line; valid in addition to API_KEYS.",
        |s, v| {
            s.api_keys_file = Some(PathBuf::from(v));
            Ok(())
        },
    ),
    row(
        "RATE_LIMIT_RPS",
        "",
        "Requests per second and client; empty or 0: no limit.",
        |s, v| {
            let what = "0, or a number of requests per second from 0.001 to 1000000";
            let rate = number(v, 0.0, 1_000_000.0, what)?;
            if rate > 0.0 && rate < 0.001 {
                return Err(format!("expected {what}"));
            }
            s.rate_limit_rps = Some(rate).filter(|rate| *rate > 0.0);
            Ok(())
        },
    ),
    row(
        "RATE_LIMIT_BURST",
        "",
        "Requests that a client may send at once; empty: ten seconds' worth of RATE_LIMIT_RPS, at least 5.",
        |s, v| {
            let most = number(v, 1, 1_000_000, "a whole number from 1 to 1000000")?;
            s.rate_limit_burst = Some(most);
            Ok(())
        },
    ),
    row(
        "MAX_AUDIO_SECONDS_PER_DAY",
        "0",
        "Seconds of audio per client and UTC day; 0: no limit.",
        |s, v| {
            let what = "a number of seconds from 0 to 1000000000";
            let seconds = number(v, 0.0, 1e9, what).map(Duration::from_secs_f64)?;
            s.max_audio_per_day = Some(seconds).filter(|seconds| !seconds.is_zero());
            Ok(())
        },
    ),
    row(
        "MAX_CONNECTIONS",
        "512",
        "Maximum number of open connections.",
        |s, v| {
            s.max_connections = number(v, 1, 100_000, "a whole number from 1 to 100000")?;
            Ok(())
        },
    ),
    row(
        "TRUSTED_PROXIES",
        "",
        "Comma-separated addresses or networks of proxies whose X-Forwarded-For header is trusted.",
        proxies,
    ),
    row(
        "ALLOWED_NETWORKS",
        "",
        "Comma-separated addresses or networks of clients that may use the server; empty: all.",
        allowed_networks,
    ),
];
