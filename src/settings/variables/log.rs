//! Logging, and the settings file.

use super::{Variable, row, unused};
use crate::settings::LogFormat;
use crate::settings::read::{any, flag};

pub const ROWS: &[Variable] = &[
    row(
        "DEBUG",
        "false",
        "true: log routing decisions and worker events.",
        |s, v| {
            s.debug = flag(v)?;
            Ok(())
        },
    ),
    // `telemetry` reads it.
    row(
        "RUST_LOG",
        "",
        "Log filter in the syntax of the tracing crate.",
        any,
    ),
    row("LOG_FORMAT", "text", "Log format: text or json.", |s, v| {
        s.log_format = match v {
            "text" => LogFormat::Text,
            "json" => LogFormat::Json,
            _ => return Err("expected text or json".to_owned()),
        };
        Ok(())
    }),
    unused("LOG_DIR", "", "Folder for rotating log files.", any),
    // `Sources::of_process` reads it before this table is used.
    row("CONFIG_PATH", "", "Path of the settings file.", any),
];
