//! The series of a primary and a fallback (`stt_…`), and the same figures for `/v1/metrics`.
//!
//! Kept for the process, like the recorder that the series go to.

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

/// In seconds.
pub(super) const BUCKETS: &[f64] = &[
    0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0,
];

/// Bytes in a MB, as the GPU's own tools count them.
const MB: f64 = (1_u64 << 20) as f64;

/// Latencies that percentiles are of.
const WINDOW: usize = 1024;

/// What takes time.
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
                "Time from an audio request's head to the end of its answer, in seconds."
            }
            Self::PrimaryInfer => "This node's own inference for a request, in seconds.",
            Self::FallbackInfer => {
                "Waiting for the larger model's answers to a request, in seconds, where it was asked."
            }
            Self::QueueWait => "A request's wait for a lane, in seconds.",
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

/// Histograms, for the recorder's buckets.
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

/// The last of them, in seconds, and how many there were.
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

/// A request ended, however it did. `pattern` is the route's pattern, where there is one.
pub fn record_request(
    pattern: Option<&str>,
    method: &str,
    error: Option<ErrorType>,
    took: Duration,
) {
    let mut endpoints = Endpoint::ALL.into_iter();
    let Some(endpoint) = endpoints.find(|endpoint| Some(endpoint.path()) == pattern) else {
        return;
    };
    if method != "POST" {
        return;
    }
    let (place, path) = (endpoint as usize, endpoint.path());
    TALLY.requests[place].fetch_add(1, Ordering::Relaxed);
    counter!(REQUESTS, "endpoint" => path).increment(1);
    if let Some(error) = error {
        TALLY.exceptions[place][error as usize].fetch_add(1, Ordering::Relaxed);
        counter!(EXCEPTIONS, "endpoint" => path, "type" => error.as_str()).increment(1);
    }
    record(Stage::Total, took.as_secs_f64());
}

/// A request has its text.
pub fn record_transcript(transcript: &Transcript) {
    let timings = transcript.timings;
    if timings.total <= 0.0 {
        // Nothing was done for it: it was there already.
        return;
    }
    record(Stage::PrimaryInfer, timings.inference);
    record(Stage::QueueWait, timings.queue_wait);
    if timings.fallback > 0.0 {
        record(Stage::FallbackInfer, timings.fallback);
    }
}

/// Sets what is read off the tree's snapshot.
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
    describe_counter!(REQUESTS, "Requests with audio, by path.");
    describe_counter!(
        EXCEPTIONS,
        "Requests with audio that were refused or failed, by path and kind of error."
    );
    describe_counter!(
        FALLBACK,
        "Requests where a larger model stands by: it was used, not needed (skipped), or failed."
    );
    for stage in Stage::ALL {
        describe_histogram!(stage.series(), stage.help());
    }
    describe_gauge!(QUEUE_DEPTH, "Pieces of audio that wait for a lane.");
    describe_gauge!(IN_FLIGHT, "Audio requests admitted and not over.");
    describe_gauge!(
        GPU_UTILIZATION,
        "How busy the GPU is, in percent; NaN without a GPU and while unknown."
    );
    describe_gauge!(
        GPU_MEM_USED,
        "Memory of the GPU that is taken, in MB of 2^20 bytes; NaN without a GPU and while unknown."
    );
    describe_gauge!(
        GPU_MEM_TOTAL,
        "Memory of the GPU, in MB of 2^20 bytes; NaN without a GPU and while unknown."
    );
}

/// Makes every series exist.
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

/// What `/v1/metrics` tells.
#[derive(Debug, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// What is deployed, by its operator's word (SERVER_COMMIT).
    #[schema(required)]
    pub server_commit: Option<String>,
    /// Of the server.
    pub version: &'static str,
    /// `hotcold`, `primary` or `fallback`.
    pub role: String,
    /// The model that is served.
    pub model: String,
    /// Counts since the start, as the series of the same names.
    #[schema(value_type = Object)]
    pub counters: Value,
    /// Over the last requests.
    #[schema(value_type = Object)]
    pub latency_ms: Value,
    /// What is to be done.
    pub queue: Queue,
    /// Nulls without a GPU.
    pub gpu: Gpu,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Queue {
    /// Pieces of audio that wait for a lane.
    pub depth: usize,
    /// Audio requests admitted and not over.
    pub in_flight: usize,
    /// Audio still to be worked on, in seconds.
    pub audio_seconds: f64,
    /// How long the lanes that are up need for it, in seconds.
    pub drain_estimate_seconds: f64,
}

/// The GPU that inference runs on.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Gpu {
    /// How busy it is.
    #[schema(required)]
    pub utilization_pct: Option<f64>,
    /// In MB of 2^20 bytes.
    #[schema(required)]
    pub mem_used_mb: Option<f64>,
    /// In MB of 2^20 bytes.
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

/// All of it, as of now.
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
        let (place, path) = (endpoint as usize, endpoint.path());
        requests.insert(path.to_owned(), count(&TALLY.requests[place]).into());
        let of_types = ErrorType::ALL.into_iter().map(|error| {
            let count = count(&TALLY.exceptions[place][error as usize]);
            (error.as_str().to_owned(), Value::from(count))
        });
        let happened = of_types.filter(|(_, count)| *count != 0);
        exceptions.insert(path.to_owned(), happened.collect::<Map<_, _>>().into());
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
