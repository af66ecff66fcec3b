//! Logging, and the settings file.

use super::{Variable, row};
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
    row(
        "LOG_FORMAT",
        "text",
        "Log format: text, json or logfmt.",
        |s, v| {
            s.log_format = match v {
                "text" => LogFormat::Text,
                "json" => LogFormat::Json,
                "logfmt" => LogFormat::Logfmt,
                _ => return Err("expected text, json or logfmt".to_owned()),
            };
            Ok(())
        },
    ),
    row(
        "LOG_DIR",
        "",
        "Folder for rotating log files (5 of 10 MB), in addition to standard error; empty: none.",
        |s, v| {
            s.log_dir = Some(v.into());
            Ok(())
        },
    ),
    row(
        "LOG_TRANSCRIPTS",
        "0",
        "1: the log may contain transcripts.",
        |s, v| {
            s.log_transcripts = flag(v)?;
            Ok(())
        },
    ),
    // `Sources::of_process` reads it before this table is used.
    row("CONFIG_PATH", "", "Path of the settings file.", any),
];
