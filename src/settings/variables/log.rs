//! What is told, and where the settings are.

use super::{Variable, later, row};
use crate::settings::LogFormat;
use crate::settings::read::{any, flag};

pub const ROWS: &[Variable] = &[
    row("DEBUG", "false", "Trace routing and workers.", |s, v| {
        s.debug = flag(v)?;
        Ok(())
    }),
    // Read by the log itself.
    row("RUST_LOG", "", "The log's filter.", any),
    row("LOG_FORMAT", "text", "text or json.", |s, v| {
        s.log_format = match v {
            "text" => LogFormat::Text,
            "json" => LogFormat::Json,
            _ => return Err("text or json is expected".to_owned()),
        };
        Ok(())
    }),
    later("LOG_DIR", "", "Folder of rotating log files.", any),
    // Read before anything else.
    row("CONFIG_PATH", "", "The settings' file.", any),
];
