//! The trace of a request: its span, and what other servers need to continue the trace.

use std::sync::Arc;

use tracing::Span;

/// The target of spans for traces. Nothing else uses it, so that log and traces are filtered independently.
pub const SPANS: &str = "stt_actors::spans";

/// Chunks of a request that have spans of their own. A recording of hours has thousands of chunks, and a trace with
/// thousands of spans is hard to read.
pub const TRACED_CHUNKS: usize = 100;

/// A request's part in a distributed trace.
#[derive(Clone, Debug)]
pub struct Trace {
    /// The span of the request, or of one of its steps; disabled unless traces are exported.
    pub span: Span,
    /// What the client sent, for the fallback.
    pub context: Option<TraceContext>,
}

impl Default for Trace {
    /// No trace.
    fn default() -> Self {
        Self {
            span: Span::none(),
            context: None,
        }
    }
}

impl Trace {
    /// The trace within one step.
    #[must_use]
    pub fn within(&self, span: Span) -> Self {
        Self {
            span,
            context: self.context.clone(),
        }
    }
}

/// The headers of W3C's trace context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// The header `traceparent`.
    pub parent: Arc<str>,
    /// The header `tracestate`.
    pub state: Option<Arc<str>>,
}
