//! The log: to standard error, as text or JSON, filtered by `RUST_LOG` or by `DEBUG`.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt;

use crate::settings::{LogFormat, Settings};

/// Starts logging. `filter` is `RUST_LOG`; without one, `DEBUG` decides between everything of ours
/// and `usual`.
pub fn start(settings: &Settings, filter: &str, usual: &str) {
    let filter = match filter {
        "" if settings.debug => "info,uttera_stt=debug,stt_actors=debug".to_owned(),
        "" => usual.to_owned(),
        given => given.to_owned(),
    };
    // Their own stories are told by ours, and ractor's spans would stand before every line.
    let filter = format!("actix_server=warn,ractor=warn,{filter}");
    // A filter that cannot be read falls back to the usual one; the log tells.
    let (filter, problem) = match EnvFilter::try_new(&filter) {
        Ok(parsed) => (parsed, None),
        Err(error) => (EnvFilter::new(usual), Some(error)),
    };
    let ansi = std::io::stderr().is_terminal();
    let builder = fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(ansi);
    let started = match settings.log_format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    if let Some(error) = problem {
        tracing::warn!(%error, "RUST_LOG cannot be read");
    }
    if let Err(error) = started {
        tracing::debug!(%error, "the log was started before");
    }
}
