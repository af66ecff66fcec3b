//! The metrics of the server: names, help texts, buckets, and the functions that record them.
//!
//! Counters and histograms are recorded where events happen. Gauges are set from the tree's snapshot
//! at a scrape, so that a scrape never waits for an actor. Labels have closed sets of values, and all
//! their series exist from the first scrape.

pub mod escalation;
pub mod jobs;
pub mod keys;
pub mod live;
pub mod tls;

pub mod stages;

mod gauges;
mod labels;
mod processes;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use metrics::{counter, describe_counter, describe_gauge, describe_histogram, histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use stt_actors::domain::ids::WorkerRole;
use stt_actors::domain::transcript::{Doubt, Reason, Route, Task, Transcript};
use stt_actors::metrics::{
    CHUNKS_TOTAL, ChunkOutcome, ENCODER_PASSES_TOTAL, HALLUCINATIONS_TOTAL,
    INFERENCE_DURATION_SECONDS, INFERENCE_OPS, JOINED_REQUESTS_TOTAL, JoinedFrom, REDECODED_TOTAL,
    WORKER_CRASHES_TOTAL, WORKER_STARTS_TOTAL,
};
use stt_actors::{LaneSnapshot, Snapshot};

use crate::keys::ANONYMOUS;
use crate::render::Format;
pub use gauges::GB;
use gauges::{BUILD_INFO, LIBRETRANSLATE_CONFIGURED, SPAWNED};
use keys::AudioByKey;
use labels::{DETECT_LANGUAGE, ENDPOINTS, METHODS};
pub use labels::{Endpoint, ErrorType};
use processes::Sampler;

/// Interval at which recorded samples are folded into their histograms, even without a scrape, and at which processes
/// are sampled.
pub const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

const REQUESTS: &str = "uttera_stt_requests_total";
const REQUEST_DURATION: &str = "uttera_stt_request_duration_seconds";
const BY_ROUTE: &str = "uttera_stt_requests_by_route_total";
const TRANSCRIPTIONS: &str = "uttera_stt_transcriptions_total";
const TRANSLATIONS: &str = "uttera_stt_translations_total";
const AUDIO_SECONDS: &str = "uttera_stt_audio_seconds_total";
const ERRORS: &str = "uttera_stt_errors_total";
const LOST_LOG_LINES: &str = "uttera_stt_log_lines_lost_total";

/// Buckets for requests, in seconds.
const REQUEST_BUCKETS: &[f64] = &[0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
/// Buckets for inference, in seconds.
const INFERENCE_BUCKETS: &[f64] = &[0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// Values of the label `mode`: translated by whisper itself or by LibreTranslate.
const TRANSLATION_MODES: [&str; 2] = ["native", "libretranslate"];

/// Records metrics of this process and renders them for a scrape.
#[derive(Clone)]
pub struct Exporter {
    handle: PrometheusHandle,
    audio: Arc<AudioSeconds>,
    audio_by_key: Arc<AudioByKey>,
    sampler: Arc<Mutex<Sampler>>,
}

impl Exporter {
    /// Installs the recorder of this process.
    ///
    /// # Errors
    /// A recorder is installed already.
    pub fn install() -> Result<Self, InstallError> {
        let mut builder = PrometheusBuilder::new();
        for series in escalation::histograms().chain(stages::histograms()) {
            builder = builder
                .set_buckets_for_metric(Matcher::Full(series.into()), escalation::BUCKETS)?;
        }
        let recorder = builder
            .set_buckets_for_metric(Matcher::Full(REQUEST_DURATION.into()), REQUEST_BUCKETS)?
            .set_buckets_for_metric(
                Matcher::Full(INFERENCE_DURATION_SECONDS.into()),
                INFERENCE_BUCKETS,
            )?
            .build_recorder();
        let handle = recorder.handle();
        metrics::set_global_recorder(recorder).map_err(|_| InstallError::Installed)?;
        describe();
        register();
        let exporter = Self {
            handle,
            audio: Arc::default(),
            audio_by_key: Arc::default(),
            sampler: Arc::default(),
        };
        // The first scrape has these series too.
        exporter.sample_processes(&[]);
        Ok(exporter)
    }

    /// Folds recorded samples into the histograms. Must be called every [`UPKEEP_INTERVAL`].
    pub fn upkeep(&self) {
        self.handle.run_upkeep();
    }

    /// Sets the series of the server's process and of these processes of workers. Must be called every
    /// [`UPKEEP_INTERVAL`], where it may block while the kernel answers.
    pub fn sample_processes(&self, workers: &[(WorkerRole, u32)]) {
        let mut sampler = (self.sampler.lock()).unwrap_or_else(PoisonError::into_inner);
        sampler.sample(workers);
    }

    /// Renders all metrics in Prometheus's text format 0.0.4.
    pub fn render(
        &self,
        snapshot: &Snapshot,
        lanes: &[LaneSnapshot],
        libretranslate: bool,
    ) -> String {
        gauges::export(snapshot, libretranslate);
        gauges::export_lanes(lanes);
        self.handle.render()
    }

    /// Adds seconds of transcribed audio to a key's total.
    pub fn record_key_audio(&self, name: &Arc<str>, seconds: f64) {
        self.audio_by_key.add(name, seconds);
    }

    /// Records a request that was answered with a transcript.
    pub fn record_transcript(&self, done: &Transcribed) {
        let format = done.format.name();
        counter!(BY_ROUTE, "route" => done.route.as_str()).increment(1);
        match done.task {
            Task::Transcribe => counter!(TRANSCRIPTIONS, "response_format" => format).increment(1),
            Task::Translate => {
                let mode = TRANSLATION_MODES[usize::from(done.by_libretranslate)];
                counter!(TRANSLATIONS, "mode" => mode, "response_format" => format).increment(1);
            }
        }
        self.audio
            .add(done.endpoint, done.route, done.audio_seconds);
    }

    /// Records a turn of a live session that has its text.
    pub fn record_live_turn(&self, endpoint: Endpoint, transcript: &Transcript) {
        live::record_turn(live::Protocol::Realtime, live::Outcome::Completed);
        self.audio
            .add(endpoint, transcript.route, transcript.duration);
    }
}

/// Why the recorder could not be installed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// The buckets of a histogram are invalid.
    #[error(transparent)]
    Buckets(#[from] BuildError),
    /// A recorder is installed already.
    #[error("a metrics recorder is installed already")]
    Installed,
}

/// A request that was answered with a transcript.
#[derive(Clone, Copy, Debug)]
pub struct Transcribed {
    /// The requested task.
    pub task: Task,
    /// The path of the request.
    pub endpoint: Endpoint,
    /// Whether LibreTranslate, and not whisper, made the translation.
    pub by_libretranslate: bool,
    /// Format of the reply.
    pub format: Format,
    /// The lanes that did the work.
    pub route: Route,
    /// Length of the audio, in seconds.
    pub audio_seconds: f64,
}

/// Sums of audio in milliseconds. Counters are whole numbers, so adding whole seconds would lose short
/// clips.
#[derive(Debug, Default)]
struct AudioSeconds([[AtomicU64; 3]; Endpoint::ALL.len()]);

impl AudioSeconds {
    fn add(&self, endpoint: Endpoint, route: Route, seconds: f64) {
        let sum = &self.0[endpoint as usize][route as usize];
        let millis = (seconds * 1000.0) as u64;
        let total = sum.fetch_add(millis, Ordering::Relaxed) + millis;
        audio_seconds(endpoint, route).absolute(total / 1000);
    }
}

fn audio_seconds(endpoint: Endpoint, route: Route) -> metrics::Counter {
    counter!(AUDIO_SECONDS, "endpoint" => endpoint.path(), "route" => route.as_str())
}

/// Whether the duration of a request with this status says how fast the server works: it was answered, or failed after
/// its work began. A refusal takes no time, and many of them would hide slow requests.
pub fn was_worked_on(status: u16) -> bool {
    matches!(status, ..400 | 500 | 502 | 504)
}

/// Records the end of a request with any outcome. `pattern`: the route's pattern, if a route matched. `outcome`: the
/// status, or that of the error with which a reply ended whose status was sent before.
pub fn record_request(
    pattern: Option<&str>,
    method: &str,
    status: u16,
    outcome: u16,
    took: Duration,
) {
    let endpoint = ENDPOINTS.iter().map(|(path, _)| *path);
    let endpoint = endpoint
        .into_iter()
        .find(|path| Some(*path) == pattern)
        .unwrap_or("other");
    let method = METHODS.iter().find(|known| **known == method);
    let method = method.copied().unwrap_or("OTHER");
    let status = status.to_string();
    counter!(REQUESTS, "endpoint" => endpoint, "method" => method, "status" => status).increment(1);
    if was_worked_on(outcome) {
        histogram!(REQUEST_DURATION, "endpoint" => endpoint, "method" => method)
            .record(took.as_secs_f64());
    }
}

/// Records what can be said of a request that was transcribed.
pub fn record_timings(transcript: &Transcript) {
    // A transcript from the cache took no time.
    if transcript.timings.total > 0.0 {
        stages::record(&transcript.timings);
        escalation::record_transcript(transcript);
    }
}

/// Whether requests on the route with this pattern have audio in their body.
pub fn takes_audio(pattern: &str) -> bool {
    let mut endpoints = Endpoint::ALL.into_iter();
    pattern == DETECT_LANGUAGE
        // The reply to a new job does not wait for its text.
        || endpoints.any(|known| known != Endpoint::Jobs && known.path() == pattern)
}

/// Records a request that was rejected or failed.
pub fn record_error(kind: ErrorType) {
    counter!(ERRORS, "type" => kind.as_str()).increment(1);
}

/// Sets the number of lines that the log files lack since the start.
pub fn record_lost_log_lines(total: u64) {
    counter!(LOST_LOG_LINES).absolute(total);
}

fn describe() {
    describe_counter!(
        REQUESTS,
        "HTTP requests, by route pattern, method and status."
    );
    describe_histogram!(
        REQUEST_DURATION,
        "Time from the head of a request to the end of its response, in seconds, of requests that were answered or failed after work began: refused ones (4xx, 499, 503, 507) are not in it."
    );
    describe_counter!(BY_ROUTE, "Audio requests, by the lanes that did the work.");
    describe_counter!(TRANSCRIPTIONS, "Transcriptions, by response_format.");
    describe_counter!(TRANSLATIONS, "Translations, by mode and response_format.");
    describe_counter!(
        AUDIO_SECONDS,
        "Seconds of audio in answered requests, by endpoint and lanes."
    );
    describe_histogram!(
        INFERENCE_DURATION_SECONDS,
        "An engine's time for one chunk, or LibreTranslate's for one transcript, in seconds, without queueing."
    );
    describe_counter!(
        HALLUCINATIONS_TOTAL,
        "Removed stretches of hallucinated text, by reason."
    );
    describe_counter!(
        ENCODER_PASSES_TOTAL,
        "Encoder passes, including those for language detection."
    );
    describe_counter!(
        JOINED_REQUESTS_TOTAL,
        "Repeated requests: joined to the running one, resumed after an interruption, or answered from the cache."
    );
    describe_counter!(
        REDECODED_TOTAL,
        "Chunks decoded again with whisper's whole window, by the defect of the first result."
    );
    describe_counter!(ERRORS, "Rejected and failed requests, by type of error.");
    describe_counter!(
        LOST_LOG_LINES,
        "Lines that the log files in LOG_DIR lack, because the disk was full, too slow or away."
    );
    describe_counter!(
        SPAWNED,
        "Cold workers started since the start of the server."
    );
    describe_gauge!(BUILD_INFO, "Version, engine and model; always 1.");
    describe_gauge!(LIBRETRANSLATE_CONFIGURED, "1 if LIBRETRANSLATE_URL is set.");
    describe_counter!(
        CHUNKS_TOTAL,
        "Chunks by what became of them: done, discarded or cancelled; and retries (retried)."
    );
    describe_counter!(WORKER_STARTS_TOTAL, "Starts of workers, by role.");
    describe_counter!(
        WORKER_CRASHES_TOTAL,
        "Workers that did not start, crashed, were killed or had to be killed, by role."
    );
    keys::describe();
    jobs::describe();
    live::describe();
    tls::describe();
    stages::describe();
    processes::describe();
    escalation::describe();
    gauges::describe();
}

/// Creates every series of the closed sets of labels.
fn register() {
    for (endpoint, method) in ENDPOINTS {
        let _ = counter!(REQUESTS, "endpoint" => *endpoint, "method" => *method, "status" => "200");
        let _ = histogram!(REQUEST_DURATION, "endpoint" => *endpoint, "method" => *method);
    }
    for route in [Route::Hot, Route::ColdPool, Route::ColdPoolThenHot] {
        let _ = counter!(BY_ROUTE, "route" => route.as_str());
        for endpoint in Endpoint::ALL {
            let _ = audio_seconds(endpoint, route);
        }
    }
    for format in Format::names() {
        let _ = counter!(TRANSCRIPTIONS, "response_format" => format);
        for mode in TRANSLATION_MODES {
            let _ = counter!(TRANSLATIONS, "mode" => mode, "response_format" => format);
        }
    }
    for reason in Reason::ALL {
        let _ = counter!(HALLUCINATIONS_TOTAL, "reason" => reason.as_str());
    }
    for from in JoinedFrom::ALL {
        let _ = counter!(JOINED_REQUESTS_TOTAL, "from" => from.as_str());
    }
    let _ = counter!(ENCODER_PASSES_TOTAL);
    let _ = counter!(LOST_LOG_LINES);
    for doubt in Doubt::ALL {
        let _ = counter!(REDECODED_TOTAL, "reason" => doubt.as_str());
    }
    for op in INFERENCE_OPS {
        let _ = histogram!(INFERENCE_DURATION_SECONDS, "op" => op);
    }
    for outcome in ChunkOutcome::ALL {
        let _ = counter!(CHUNKS_TOTAL, "outcome" => outcome.as_str());
    }
    for role in WorkerRole::ALL {
        let _ = counter!(WORKER_STARTS_TOTAL, "role" => role.as_str());
        let _ = counter!(WORKER_CRASHES_TOTAL, "role" => role.as_str());
    }
    keys::register([ANONYMOUS].into_iter());
    keys::record_reload(true);
    stages::register();
    escalation::register();
    jobs::register();
    live::register();
    tls::register();
    for kind in ErrorType::ALL {
        let _ = counter!(ERRORS, "type" => kind.as_str());
    }
}
