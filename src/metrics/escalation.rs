//! The series of a primary and a fallback (`stt_…`), and the same numbers for `/v1/metrics`.
//!
//! The numbers are static, like the recorder.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;

use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use serde::Serialize;
use serde_json::{Map, Value, json};
use stt_actors::Snapshot;
use stt_actors::domain::transcript::Transcript;
use stt_actors::ports::MemoryKind;
use utoipa::ToSchema;

use super::{Endpoint, ErrorType};
use uttera_stt_client::percentile;

const REQUESTS: &str = "stt_requests_total";
const EXCEPTIONS: &str = "stt_requests_exceptions_total";
const FALLBACK: &str = "stt_fallback_total";
const QUEUE_DEPTH: &str = "stt_queue_depth";
const IN_FLIGHT: &str = "stt_in_flight";
const GPU_UTILIZATION: &str = "stt_gpu_utilization_pct";
const GPU_MEM_USED: &str = "stt_gpu_mem_used_mb";
const GPU_MEM_TOTAL: &str = "stt_gpu_mem_total_mb";

/// Buckets of all histograms here, in seconds.
pub(super) const BUCKETS: &[f64] = &[
    0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0,
];

/// Bytes in a MB, as `nvidia-smi` counts them.
const MB: f64 = (1_u64 << 20) as f64;

/// Number of latest latencies that percentiles are computed from.
const WINDOW: usize = 1024;

/// A stage of a request whose duration is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Total,
    PrimaryInfer,
    FallbackInfer,
    QueueWait,
}

impl Stage {
    const ALL: [Self; 4] = [
        Self::Total,
        Self::PrimaryInfer,
        Self::FallbackInfer,
        Self::QueueWait,
    ];

    const fn series(self) -> &'static str {
        match self {
            Self::Total => "stt_request_total_seconds",
            Self::PrimaryInfer => "stt_primary_infer_seconds",
            Self::FallbackInfer => "stt_fallback_infer_seconds",
            Self::QueueWait => "stt_queue_wait_seconds",
        }
    }

    const fn help(self) -> &'static str {
        match self {
            Self::Total => {
                "Time from the head of an audio request to the end of its response, in seconds, of requests that were answered or failed after work began."
            }
            Self::PrimaryInfer => "Inference time of this node for a request, in seconds.",
            Self::FallbackInfer => {
                "Waiting time for the fallback during a request that was escalated, in seconds."
            }
            Self::QueueWait => "Waiting time of a request for a lane, in seconds.",
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Total => "request_total",
            Self::PrimaryInfer => "primary_infer",
            Self::FallbackInfer => "fallback_infer",
            Self::QueueWait => "queue_wait",
        }
    }
}

/// Names of the histograms.
pub(super) fn histograms() -> impl Iterator<Item = &'static str> {
    Stage::ALL.into_iter().map(Stage::series)
}

#[derive(Default)]
struct Tally {
    requests: [AtomicU64; Endpoint::ALL.len()],
    exceptions: [[AtomicU64; ErrorType::ALL.len()]; Endpoint::ALL.len()],
    latencies: [Mutex<Latencies>; Stage::ALL.len()],
}

static TALLY: LazyLock<Tally> = LazyLock::new(Tally::default);

/// The latest latencies, in seconds, and the total count.
#[derive(Default)]
struct Latencies {
    last: VecDeque<f64>,
    count: u64,
}

fn record(stage: Stage, seconds: f64) {
    histogram!(stage.series()).record(seconds);
    let latencies = &TALLY.latencies[stage as usize];
    let mut latencies = latencies.lock().unwrap_or_else(PoisonError::into_inner);
    if latencies.last.len() == WINDOW {
        latencies.last.pop_front();
    }
    latencies.last.push_back(seconds);
    latencies.count += 1;
}

/// Records the end of a request with any outcome. `pattern`: the route's pattern, if a route matched. `took`: `None` if
/// it was refused, so that refusals do not hide slow requests.
pub fn record_request(
    pattern: Option<&str>,
    method: &str,
    error: Option<ErrorType>,
    took: Option<Duration>,
) {
    let mut endpoints = Endpoint::ALL.into_iter();
    let Some(endpoint) = endpoints.find(|endpoint| Some(endpoint.path()) == pattern) else {
        return;
    };
    if method != "POST" {
        return;
    }
    let (index, path) = (endpoint as usize, endpoint.path());
    TALLY.requests[index].fetch_add(1, Ordering::Relaxed);
    counter!(REQUESTS, "endpoint" => path).increment(1);
    if let Some(error) = error {
        TALLY.exceptions[index][error as usize].fetch_add(1, Ordering::Relaxed);
        counter!(EXCEPTIONS, "endpoint" => path, "type" => error.as_str()).increment(1);
    }
    if let Some(took) = took {
        record(Stage::Total, took.as_secs_f64());
    }
}

/// Records the timings of a transcript.
pub(super) fn record_transcript(transcript: &Transcript) {
    let timings = transcript.timings;
    record(Stage::PrimaryInfer, timings.inference);
    record(Stage::QueueWait, timings.queue_wait);
    if timings.fallback > 0.0 {
        record(Stage::FallbackInfer, timings.fallback);
    }
}

/// Sets the series that are read from the tree's snapshot.
pub(super) fn export(snapshot: &Snapshot) {
    let fallbacks = snapshot.fallbacks;
    for (result, count) in [
        ("used", fallbacks.used),
        ("skipped", fallbacks.skipped),
        ("failed", fallbacks.failed),
    ] {
        counter!(FALLBACK, "result" => result).absolute(count);
    }
    gauge!(QUEUE_DEPTH).set(snapshot.queue_depth as f64);
    gauge!(IN_FLIGHT).set(snapshot.requests as f64);
    let gpu = Gpu::of(snapshot);
    let or_nan = |number: Option<f64>| number.unwrap_or(f64::NAN);
    gauge!(GPU_UTILIZATION).set(or_nan(gpu.utilization_pct));
    gauge!(GPU_MEM_USED).set(or_nan(gpu.mem_used_mb));
    gauge!(GPU_MEM_TOTAL).set(or_nan(gpu.mem_total_mb));
}

pub(super) fn describe() {
    describe_counter!(REQUESTS, "Audio requests, by path.");
    describe_counter!(
        EXCEPTIONS,
        "Audio requests that were rejected or failed, by path and type of error."
    );
    describe_counter!(
        FALLBACK,
        "Requests on a node with a fallback: the fallback was used, not needed (skipped), or failed."
    );
    for stage in Stage::ALL {
        describe_histogram!(stage.series(), stage.help());
    }
    describe_gauge!(QUEUE_DEPTH, "Chunks that wait for a lane.");
    describe_gauge!(IN_FLIGHT, "Admitted audio requests that are not finished.");
    describe_gauge!(
        GPU_UTILIZATION,
        "Utilization of the GPU, in percent; NaN without a GPU and while unknown."
    );
    describe_gauge!(
        GPU_MEM_USED,
        "Used GPU memory, in MB of 2^20 bytes; NaN without a GPU and while unknown."
    );
    describe_gauge!(
        GPU_MEM_TOTAL,
        "Total GPU memory, in MB of 2^20 bytes; NaN without a GPU and while unknown."
    );
}

/// Creates every series.
pub(super) fn register() {
    for endpoint in Endpoint::ALL {
        let _ = counter!(REQUESTS, "endpoint" => endpoint.path());
        for error in ErrorType::ALL {
            let _ = counter!(EXCEPTIONS, "endpoint" => endpoint.path(), "type" => error.as_str());
        }
    }
    for stage in Stage::ALL {
        let _ = histogram!(stage.series());
    }
}

/// Body of `/v1/metrics`.
#[derive(Debug, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// The deployed commit as stated by the operator (SERVER_COMMIT).
    #[schema(required)]
    pub server_commit: Option<String>,
    /// Version of the server.
    pub version: &'static str,
    /// `hotcold`, `primary` or `fallback`.
    pub role: String,
    /// The served model.
    pub model: String,
    /// Counts since the start, named like the series.
    #[schema(value_type = Object)]
    pub counters: Value,
    /// Counts and percentiles in milliseconds over the latest requests, by stage.
    #[schema(value_type = Object)]
    pub latency_ms: Value,
    /// Waiting and running work.
    pub queue: Queue,
    /// The GPU; all null without one.
    pub gpu: Gpu,
}

/// Waiting and running work.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Queue {
    /// Chunks that wait for a lane.
    pub depth: usize,
    /// Admitted audio requests that are not finished.
    pub in_flight: usize,
    /// Remaining audio of all requests, in seconds.
    pub audio_seconds: f64,
    /// Estimated time until the ready lanes have done all work, in seconds.
    pub drain_estimate_seconds: f64,
}

/// The GPU used for inference.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Gpu {
    /// Utilization in percent.
    #[schema(required)]
    pub utilization_pct: Option<f64>,
    /// Used memory, in MB of 2^20 bytes.
    #[schema(required)]
    pub mem_used_mb: Option<f64>,
    /// Total memory, in MB of 2^20 bytes.
    #[schema(required)]
    pub mem_total_mb: Option<f64>,
}

impl Gpu {
    fn of(snapshot: &Snapshot) -> Self {
        let memory = Some(snapshot.memory).filter(|memory| memory.kind == MemoryKind::Vram);
        let total = memory.and_then(|memory| memory.total_bytes);
        let free = memory.and_then(|memory| memory.free_bytes);
        let used = total
            .zip(free)
            .map(|(total, free)| total.saturating_sub(free));
        let mb = |bytes: u64| bytes as f64 / MB;
        Self {
            utilization_pct: memory
                .and_then(|memory| memory.utilization_percent)
                .map(f64::from),
            mem_used_mb: used.map(mb),
            mem_total_mb: total.map(mb),
        }
    }
}

/// The current report.
pub fn report(
    snapshot: &Snapshot,
    role: String,
    model: String,
    server_commit: Option<String>,
) -> Report {
    Report {
        server_commit,
        version: env!("CARGO_PKG_VERSION"),
        role,
        model,
        counters: counters(snapshot),
        latency_ms: latencies(),
        queue: Queue {
            depth: snapshot.queue_depth,
            in_flight: snapshot.requests,
            audio_seconds: snapshot.remaining.audio_seconds(),
            drain_estimate_seconds: snapshot.drain_estimate().as_secs_f64(),
        },
        gpu: Gpu::of(snapshot),
    }
}

fn counters(snapshot: &Snapshot) -> Value {
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let (mut requests, mut exceptions) = (Map::new(), Map::new());
    for endpoint in Endpoint::ALL {
        let (index, path) = (endpoint as usize, endpoint.path());
        requests.insert(path.to_owned(), count(&TALLY.requests[index]).into());
        let of_types = ErrorType::ALL.into_iter().map(|error| {
            let count = count(&TALLY.exceptions[index][error as usize]);
            (error.as_str().to_owned(), Value::from(count))
        });
        let nonzero = of_types.filter(|(_, count)| *count != 0);
        exceptions.insert(path.to_owned(), nonzero.collect::<Map<_, _>>().into());
    }
    let fallbacks = snapshot.fallbacks;
    json!({
        "requests_total": requests,
        "requests_exceptions_total": exceptions,
        "fallback_total": {
            "used": fallbacks.used,
            "skipped": fallbacks.skipped,
            "failed": fallbacks.failed,
        },
    })
}

fn latencies() -> Value {
    let stages = Stage::ALL.into_iter().map(|stage| {
        let latencies = &TALLY.latencies[stage as usize];
        let latencies = latencies.lock().unwrap_or_else(PoisonError::into_inner);
        let mut last: Vec<f64> = latencies.last.iter().copied().collect();
        last.sort_by(f64::total_cmp);
        let at = |percent| percentile(&last, percent).map(|seconds| (seconds * 1e6).round() / 1e3);
        let value = json!({
            "count": latencies.count,
            "p50": at(50),
            "p95": at(95),
            "p99": at(99),
        });
        (stage.name().to_owned(), value)
    });
    stages.collect::<Map<_, _>>().into()
}
