//! Logging to standard error, as text or JSON, filtered by `RUST_LOG` or `DEBUG`. The board keeps the last warnings.

use std::io::IsTerminal;

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt, registry};

use crate::board::warnings::WarningLayer;
use crate::settings::{LogFormat, Settings};

/// Starts logging. `filter` is the value of `RUST_LOG`. If it is empty, the filter is the debug level
/// with `DEBUG`, else `default`.
pub fn start(settings: &Settings, filter: &str, default: &str) {
    let filter = match filter {
        "" if settings.debug => "info,uttera_stt=debug,stt_actors=debug".to_owned(),
        "" => default.to_owned(),
        given => given.to_owned(),
    };
    // Their events duplicate ours, and ractor's spans would precede every line. symphonia logs every damaged
    // frame of a file.
    let filter = format!("actix_server=warn,ractor=warn,symphonia=off,{filter}");
    // An invalid filter is replaced by the default, with a warning below.
    let (filter, problem) = match EnvFilter::try_new(&filter) {
        Ok(parsed) => (parsed, None),
        Err(error) => (EnvFilter::new(default), Some(error)),
    };
    let ansi = std::io::stderr().is_terminal();
    let lines = fmt::layer().with_writer(std::io::stderr).with_ansi(ansi);
    let lines = match settings.log_format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    let log = registry().with(filter).with(lines).with(WarningLayer);
    let started = log.try_init();
    if let Some(error) = problem {
        tracing::warn!(%error, "RUST_LOG is invalid; using the default filter");
    }
    if let Err(error) = started {
        tracing::debug!(%error, "logging was started before");
    }
}
