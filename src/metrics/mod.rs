//! Every metric of the server: names, help texts, buckets, and the functions that record.
//!
//! Counters and histograms are recorded where things happen; gauges are set from the tree's
//! snapshot when somebody scrapes, so that a scrape waits for nobody. Labels have closed sets of
//! values, and every series of them is there from the first scrape.

pub mod escalation;
pub mod keys;

mod gauges;
mod labels;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use metrics::{counter, describe_counter, describe_gauge, describe_histogram, histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use stt_actors::Snapshot;
use stt_actors::hallucination::Reason;
use stt_actors::metrics::{
    ENCODER_PASSES_TOTAL, HALLUCINATIONS_TOTAL, INFERENCE_DURATION_SECONDS, INFERENCE_OPS,
    JOINED_REQUESTS_TOTAL, JoinedFrom, REDECODED_TOTAL,
};
use stt_actors::transcript::{Doubt, Route, Task};

use crate::keys::ANONYMOUS;
use crate::render::Format;
pub use gauges::GB;
use gauges::{BUILD_INFO, GAUGES, LIBRETRANSLATE_CONFIGURED, SPAWNED};
use keys::AudioByKey;
use labels::{ENDPOINTS, METHODS};
pub use labels::{Endpoint, ErrorType};

/// How often recorded samples must be folded into their histograms, scraped or not.
pub const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

const REQUESTS: &str = "uttera_stt_requests_total";
const REQUEST_DURATION: &str = "uttera_stt_request_duration_seconds";
const BY_ROUTE: &str = "uttera_stt_requests_by_route_total";
const TRANSCRIPTIONS: &str = "uttera_stt_transcriptions_total";
const TRANSLATIONS: &str = "uttera_stt_translations_total";
const AUDIO_SECONDS: &str = "uttera_stt_audio_seconds_total";
const ERRORS: &str = "uttera_stt_errors_total";

/// In seconds.
const REQUEST_BUCKETS: &[f64] = &[0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
/// In seconds.
const INFERENCE_BUCKETS: &[f64] = &[0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// How translations are made: by whisper itself, or by LibreTranslate.
const TRANSLATION_MODES: [&str; 2] = ["native", "libretranslate"];

/// The recorder, and what is written when somebody scrapes.
#[derive(Clone)]
pub struct Exporter {
    handle: PrometheusHandle,
    audio: Arc<AudioSeconds>,
    audio_by_key: Arc<AudioByKey>,
}

impl Exporter {
    /// Makes this process's recorder the one that all metrics go to.
    ///
    /// # Errors
    /// There is one already.
    pub fn install() -> Result<Self, InstallError> {
        let mut builder = PrometheusBuilder::new();
        for series in escalation::histograms() {
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
        Ok(Self {
            handle,
            audio: Arc::default(),
            audio_by_key: Arc::default(),
        })
    }

    /// Folds what was recorded into the histograms; to be called every [`UPKEEP_INTERVAL`].
    pub fn upkeep(&self) {
        self.handle.run_upkeep();
    }

    /// Everything in Prometheus's text format 0.0.4.
    pub fn render(&self, snapshot: &Snapshot, libretranslate: bool) -> String {
        gauges::export(snapshot, libretranslate);
        self.handle.render()
    }

    /// So many seconds of audio were transcribed for a key.
    pub fn record_key_audio(&self, name: &Arc<str>, seconds: f64) {
        self.audio_by_key.add(name, seconds);
    }

    /// A request was answered with a transcript.
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
        self.audio.add(done);
    }
}

/// The recorder could not be installed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// Buckets that are none.
    #[error(transparent)]
    Buckets(#[from] BuildError),
    /// It was done before.
    #[error("metrics are recorded already")]
    Installed,
}

/// What a finished request was.
#[derive(Clone, Copy, Debug)]
pub struct Transcribed {
    /// What was asked.
    pub task: Task,
    /// On which path.
    pub endpoint: Endpoint,
    /// Whether a translation is LibreTranslate's and not whisper's own.
    pub by_libretranslate: bool,
    /// Of the reply.
    pub format: Format,
    /// Who did it.
    pub route: Route,
    /// Length of the audio, in seconds.
    pub audio_seconds: f64,
}

/// Sums of audio in milliseconds: counters are whole numbers, and so many short clips would be lost
/// in seconds.
#[derive(Debug, Default)]
struct AudioSeconds([[AtomicU64; 3]; Endpoint::ALL.len()]);

impl AudioSeconds {
    fn add(&self, done: &Transcribed) {
        let sum = &self.0[done.endpoint as usize][done.route as usize];
        let millis = (done.audio_seconds * 1000.0) as u64;
        let total = sum.fetch_add(millis, Ordering::Relaxed) + millis;
        audio_seconds(done.endpoint, done.route).absolute(total / 1000);
    }
}

fn audio_seconds(endpoint: Endpoint, route: Route) -> metrics::Counter {
    counter!(AUDIO_SECONDS, "endpoint" => endpoint.path(), "route" => route.as_str())
}

/// A request ended, however it did. `pattern` is the route's pattern, where there is one.
pub fn record_request(pattern: Option<&str>, method: &str, status: u16, took: Duration) {
    let endpoint = ENDPOINTS.iter().map(|(path, _)| *path);
    let endpoint = endpoint
        .into_iter()
        .find(|path| Some(*path) == pattern)
        .unwrap_or("other");
    let method = METHODS.iter().find(|known| **known == method);
    let method = method.copied().unwrap_or("OTHER");
    let status = status.to_string();
    counter!(REQUESTS, "endpoint" => endpoint, "method" => method, "status" => status).increment(1);
    histogram!(REQUEST_DURATION, "endpoint" => endpoint, "method" => method)
        .record(took.as_secs_f64());
}

/// A request was refused.
pub fn record_error(kind: ErrorType) {
    counter!(ERRORS, "type" => kind.as_str()).increment(1);
}

/// LibreTranslate has translated a transcript, in one call or several.
pub fn record_libretranslate(took: Duration) {
    let [_, _, op] = INFERENCE_OPS;
    histogram!(INFERENCE_DURATION_SECONDS, "op" => op).record(took.as_secs_f64());
}

fn describe() {
    describe_counter!(
        REQUESTS,
        "HTTP requests, by route pattern, method and status."
    );
    describe_histogram!(
        REQUEST_DURATION,
        "Time from a request's head to the end of its answer, in seconds."
    );
    describe_counter!(BY_ROUTE, "Audio requests, by the lanes that did the work.");
    describe_counter!(TRANSCRIPTIONS, "Transcriptions, by response_format.");
    describe_counter!(TRANSLATIONS, "Translations, by way and response_format.");
    describe_counter!(
        AUDIO_SECONDS,
        "Seconds of audio in answered requests, by endpoint and lanes."
    );
    describe_histogram!(
        INFERENCE_DURATION_SECONDS,
        "An engine's own time for one piece of audio, or LibreTranslate's for one transcript, in seconds, without any waiting."
    );
    describe_counter!(
        HALLUCINATIONS_TOTAL,
        "Stretches of text that were taken out because whisper made them up, by reason."
    );
    describe_counter!(
        ENCODER_PASSES_TOTAL,
        "Passes of the encoder, those that detect a language included."
    );
    describe_counter!(
        JOINED_REQUESTS_TOTAL,
        "Requests that were here before: joined to the same one that runs, gone on with, or cached."
    );
    describe_counter!(
        REDECODED_TOTAL,
        "Pieces of audio decoded again with whisper's whole window, by what looked wrong before."
    );
    describe_counter!(ERRORS, "Refused requests, by kind of error.");
    describe_counter!(SPAWNED, "Cold workers started since the server did.");
    describe_gauge!(BUILD_INFO, "Version, engine and model; always 1.");
    describe_gauge!(
        LIBRETRANSLATE_CONFIGURED,
        "1 if LIBRETRANSLATE_URL was set at the start."
    );
    keys::describe();
    escalation::describe();
    for (name, help, _) in GAUGES {
        describe_gauge!(*name, *help);
    }
}

/// Makes every series of a closed set of labels exist.
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
    for doubt in Doubt::ALL {
        let _ = counter!(REDECODED_TOTAL, "reason" => doubt.as_str());
    }
    for op in INFERENCE_OPS {
        let _ = histogram!(INFERENCE_DURATION_SECONDS, "op" => op);
    }
    keys::register([ANONYMOUS].into_iter());
    escalation::register();
    for kind in ErrorType::ALL {
        let _ = counter!(ERRORS, "type" => kind.as_str());
    }
}
