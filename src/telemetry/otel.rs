//! Traces in OpenTelemetry's protocol over HTTP, configured by the standard variables `OTEL_…` of the environment.
//!
//! A thread of its own sends them. A collector that is away costs spans and one warning.

use std::env;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator};
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::SpanExporter as OtlpExporter;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanExporter};
use stt_actors::TraceContext;
use stt_actors::domain::trace::SPANS;
use tracing::{Span, info, warn};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::filter_fn;

use super::BoxedLayer;

/// How long the end of the server waits for the last spans.
const LAST_SPANS: Duration = Duration::from_secs(2);
const NAME: &str = "uttera-stt";
/// Either of these names the collector.
const ENDPOINTS: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
];

/// The export. Dropping it sends the last spans, for a limited time.
pub struct Traces(SdkTracerProvider);

impl Drop for Traces {
    fn drop(&mut self) {
        // A collector that is away has been reported.
        let _ = self.0.shutdown_with_timeout(LAST_SPANS);
    }
}

/// Starts the export; `None` if the environment names no collector.
///
/// # Errors
/// The variables are invalid.
pub fn start() -> Result<Option<(Traces, BoxedLayer)>, String> {
    let is = |name: &str, value: &str| {
        env::var(name).is_ok_and(|given| given.eq_ignore_ascii_case(value))
    };
    let has = |name: &str| env::var(name).is_ok_and(|value| !value.is_empty());
    let is_off = is("OTEL_SDK_DISABLED", "true") || is("OTEL_TRACES_EXPORTER", "none");
    if is_off || !ENDPOINTS.iter().any(|name| has(name)) {
        return Ok(None);
    }
    // The exporter's client needs one, even for plain HTTP. It may be installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let exporter = OtlpExporter::builder().with_http().build();
    let exporter = Reporting {
        exporter: exporter.map_err(|error| error.to_string())?,
        is_failing: AtomicBool::new(false),
    };
    let mut resource = Resource::builder();
    if !has("OTEL_SERVICE_NAME") {
        resource = resource.with_service_name(NAME);
    }
    let provider = SdkTracerProvider::builder()
        .with_resource(resource.build())
        .with_batch_exporter(exporter)
        .build();
    let layer = tracing_opentelemetry::layer()
        .with_tracer(provider.tracer(NAME))
        .with_location(false)
        .with_threads(false)
        .with_tracked_inactivity(false)
        .with_filter(filter_fn(|metadata| metadata.target() == SPANS));
    Ok(Some((Traces(provider), layer.boxed())))
}

/// Makes a span continue its client's trace.
pub fn continue_trace(span: &Span, context: &TraceContext) {
    let context = TraceContextPropagator::new().extract(&Headers::of(context));
    // Fails for a disabled span only.
    let _ = span.set_parent(context);
}

/// The headers with which another server continues a span's trace; none if the span is not exported.
pub fn headers(span: &Span) -> Vec<(String, String)> {
    let mut headers = Headers::default();
    TraceContextPropagator::new().inject_context(&span.context(), &mut headers);
    headers.0.retain(|(_, value)| !value.is_empty());
    headers.0
}

#[derive(Default)]
struct Headers(Vec<(String, String)>);

impl Headers {
    fn of(context: &TraceContext) -> Self {
        let parent = Some(("traceparent".to_owned(), context.parent.to_string()));
        let state = context.state.as_ref();
        let state = state.map(|state| ("tracestate".to_owned(), state.to_string()));
        Self(parent.into_iter().chain(state).collect())
    }
}

impl Injector for Headers {
    fn set(&mut self, key: &str, value: String) {
        self.0.push((key.to_owned(), value));
    }
}

impl Extractor for Headers {
    fn get(&self, key: &str) -> Option<&str> {
        let found = self.0.iter().find(|(name, _)| name == key);
        found.map(|(_, value)| value.as_str())
    }

    fn keys(&self) -> Vec<&str> {
        self.0.iter().map(|(name, _)| name.as_str()).collect()
    }
}

/// Logs when spans cannot be sent, and when they can again.
struct Reporting {
    exporter: OtlpExporter,
    is_failing: AtomicBool,
}

impl fmt::Debug for Reporting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reporting")
    }
}

impl SpanExporter for Reporting {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let result = self.exporter.export(batch).await;
        let was_failing = self.is_failing.swap(result.is_err(), Ordering::Relaxed);
        match &result {
            Err(error) if !was_failing => {
                warn!(%error, "traces cannot be sent (OTEL_EXPORTER_OTLP_ENDPOINT)");
            }
            Ok(()) if was_failing => info!("traces are sent again"),
            Ok(()) | Err(_) => {}
        }
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}
