//! Logging to standard error and to files, as text, JSON or logfmt, filtered by `RUST_LOG` or `DEBUG`. The board keeps
//! the last warnings.

mod file;
mod logfmt;
#[cfg(feature = "otel")]
mod otel;

use std::io::IsTerminal;

use stt_actors::domain::trace::SPANS;
use stt_actors::{TRANSCRIPTS, Trace, TraceContext};
use tracing::level_filters::LevelFilter;
use tracing::{Metadata, Span};
use tracing_appender::non_blocking::WorkerGuard;
use tracing_subscriber::filter::{FilterExt, filter_fn};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, registry};

use crate::board::warnings::WarningLayer;
use crate::settings::{LogFormat, Role, Settings};
use logfmt::Logfmt;

type BoxedLayer = Box<dyn Layer<Registry> + Send + Sync>;

/// Which command logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Logger {
    /// The server, whose log also goes to `LOG_DIR`.
    Server,
    /// A command that ends by itself.
    Command,
}

impl Logger {
    /// The filter without `RUST_LOG` and `DEBUG`.
    fn default_filter(self) -> &'static str {
        match self {
            Self::Server => "info",
            Self::Command => "warn",
        }
    }
}

/// The running log. Dropping it writes what is left.
#[must_use]
pub struct Log {
    // The traces first: they may still log.
    #[cfg(feature = "otel")]
    _traces: Option<otel::Traces>,
    _files: Option<WorkerGuard>,
}

/// Starts logging. `filter` is the value of `RUST_LOG`. If it is empty, the filter is the debug level with `DEBUG`,
/// else the default of the command.
pub fn start(settings: &Settings, filter: &str, logger: Logger) -> Log {
    let default = logger.default_filter();
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
    let has_transcripts = settings.log_transcripts;
    let may_be_logged = filter_fn(move |metadata| may_be_logged(metadata, has_transcripts))
        .with_max_level_hint(LevelFilter::TRACE);
    let ansi = std::io::stderr().is_terminal();
    let mut layers = vec![lines(settings.log_format, ansi, std::io::stderr)];
    let folder = (settings.log_dir.as_deref()).filter(|_| logger == Logger::Server);
    let files = folder.map(|folder| {
        let (writer, guard) = file::start(folder, file_name(settings.role));
        layers.push(lines(settings.log_format, false, writer));
        guard
    });
    layers.push(WarningLayer.boxed());
    let log = layers.with_filter(filter.and(may_be_logged));
    #[cfg_attr(
        not(feature = "otel"),
        expect(unused_mut, reason = "traces are one more")
    )]
    let mut layers: Vec<BoxedLayer> = vec![log.boxed()];
    #[cfg(feature = "otel")]
    let traces = match logger {
        Logger::Server => otel::start(),
        Logger::Command => Ok(None),
    };
    #[cfg(feature = "otel")]
    let (traces, no_traces) = match traces {
        Ok(Some((traces, layer))) => {
            layers.push(layer);
            (Some(traces), None)
        }
        Ok(None) => (None, None),
        Err(reason) => (None, Some(reason)),
    };
    let started = registry().with(layers).try_init();
    if let Some(error) = problem {
        tracing::warn!(%error, "RUST_LOG is invalid; using the default filter");
    }
    if let Err(error) = started {
        tracing::debug!(%error, "logging was started before");
    }
    #[cfg(feature = "otel")]
    if let Some(reason) = no_traces {
        tracing::warn!(reason, "traces are off: a variable OTEL_… is invalid");
    }
    Log {
        #[cfg(feature = "otel")]
        _traces: traces,
        _files: files,
    }
}

/// Makes a request's span continue the trace of its client.
#[cfg_attr(
    not(feature = "otel"),
    expect(unused_variables, reason = "there are no traces")
)]
pub fn continue_trace(span: &Span, context: Option<&TraceContext>) {
    #[cfg(feature = "otel")]
    if let Some(context) = context {
        otel::continue_trace(span, context);
    }
}

/// The headers with which another server continues a trace: within the span, if it is exported; else what the client
/// sent.
pub fn headers(trace: &Trace) -> Vec<(String, String)> {
    #[cfg(feature = "otel")]
    {
        let own = otel::headers(&trace.span);
        if !own.is_empty() {
            return own;
        }
    }
    let Some(context) = &trace.context else {
        return Vec::new();
    };
    let parent = Some(("traceparent".to_owned(), context.parent.to_string()));
    let state = (context.state.as_ref()).map(|state| ("tracestate".to_owned(), state.to_string()));
    parent.into_iter().chain(state).collect()
}

/// Whether something may be logged, whatever `RUST_LOG` says. Text of speech and the spans of traces have targets of
/// their own.
fn may_be_logged(metadata: &Metadata, has_transcripts: bool) -> bool {
    match metadata.target() {
        TRANSCRIPTS => has_transcripts,
        target => target != SPANS,
    }
}

/// The file of the log. Two nodes of one machine may have the same folder.
fn file_name(role: Role) -> &'static str {
    match role {
        Role::Hotcold => "uttera-stt.log",
        Role::Primary => "uttera-stt-primary.log",
        Role::Fallback => "uttera-stt-fallback.log",
    }
}

fn lines<W>(format: LogFormat, ansi: bool, writer: W) -> BoxedLayer
where
    W: for<'writer> MakeWriter<'writer> + Send + Sync + 'static,
{
    let lines = fmt::layer().with_ansi(ansi).with_writer(writer);
    match format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
        LogFormat::Logfmt => lines.event_format(Logfmt).boxed(),
    }
}
