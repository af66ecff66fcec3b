//! Who may use it, and how much.

use super::{Variable, later, row, secret};
use crate::settings::read::{any_count, number, origins};

pub const ROWS: &[Variable] = &[
    row(
        "CORS_ALLOW_ORIGINS",
        "",
        "Origins whose pages may use the server, by comma, or *; empty: none.",
        origins,
    ),
    secret(row(
        "API_KEYS",
        "",
        "Bearer keys, by comma; empty: open.",
        |s, v| {
            s.api_keys = v
                .split(',')
                .map(|key| key.trim().to_owned())
                .filter(|key| !key.is_empty())
                .collect();
            if s.api_keys.is_empty() {
                return Err("at least one key is expected".to_owned());
            }
            Ok(())
        },
    )),
    secret(later(
        "API_KEYS_FILE",
        "",
        "A file with `name key` a line.",
        // Ignoring it would leave the server open where its owner thinks it is closed.
        |_, _| Err("this version takes keys from API_KEYS only".to_owned()),
    )),
    later(
        "RATE_LIMIT_RPS",
        "",
        "Requests per second and client.",
        |_, v| number(v, 0.0, 1_000_000.0, "a number from 0").map(drop),
    ),
    later(
        "RATE_LIMIT_BURST",
        "",
        "Requests at once and client.",
        any_count,
    ),
];
