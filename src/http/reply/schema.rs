//! The bodies in the OpenAPI document. The serializable ones are also what the server sends;
//! transcripts are rendered in [`crate::render`], and tests compare them with these types.

mod requests;

use serde::Serialize;
use utoipa::ToSchema;

pub use requests::{
    AsrForm, InferenceForm, InputAudio, JobForm, TierForm, TranscriptionForm, TranscriptionJson,
    TranslationForm, TranslationJson,
};

/// The body of every error.
#[derive(Debug, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ErrorBody {
    /// The error.
    pub error: ErrorObject,
    /// The message, for clients of the Python original.
    pub detail: String,
    /// `/v1/transcribe` only, if the fallback failed: the reply without the fallback.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, value_type = Option<TierTranscript>)]
    pub primary: Option<serde_json::Value>,
}

/// An error.
#[derive(Debug, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ErrorObject {
    /// A description for people.
    pub message: String,
    /// `invalid_request_error`, `rate_limit_error`, `insufficient_quota` or `server_error`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The invalid field, if the error is about one.
    #[schema(required)]
    pub param: Option<String>,
    /// A code for programs.
    #[schema(required)]
    pub code: Option<&'static str>,
}

/// A model name that requests may use.
#[derive(Debug, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// The name.
    pub id: String,
    /// Always `model`.
    pub object: &'static str,
    /// The creation time, in Unix seconds.
    pub created: u64,
    /// Always `uttera`.
    pub owned_by: &'static str,
}

/// All model names that requests may use.
#[derive(Debug, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelList {
    /// Always `list`.
    pub object: &'static str,
    /// The models.
    pub data: Vec<Model>,
}

/// `/livez` and `/readyz`.
#[derive(Debug, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Probe {
    /// `alive` (`/livez`); `ready`, `loading`, `degraded` or `draining` (`/readyz`).
    pub status: &'static str,
    /// The error of the hot worker, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub reason: Option<String>,
}

/// `/admin/drain`: what is left to do.
#[derive(Debug, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DrainState {
    /// Always `draining`.
    pub status: &'static str,
    /// Seconds until new requests get 503; 0: they do.
    pub rejects_in_seconds: f64,
    /// Seconds until running requests are cancelled.
    pub cancels_in_seconds: f64,
    /// Admitted requests that have not ended.
    pub requests: usize,
    /// Open live sessions.
    pub live_sessions: usize,
    /// Seconds of audio still to be transcribed.
    pub audio_seconds: f64,
    /// How long the running lanes need for it.
    pub drain_seconds: f64,
}

/// `/v1/health`: the state of a primary or a fallback.
#[derive(Debug, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TierHealth {
    /// Always true.
    pub ok: bool,
    /// The status as in `/health`; `ok` if the server can transcribe.
    pub status: &'static str,
    /// `hotcold`, `primary` or `fallback`.
    pub role: String,
    /// The served model.
    pub model: String,
    /// The version of the server.
    pub version: &'static str,
}

/// The state of a server.
#[derive(Debug, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Health {
    /// `ok`, `loading`, `degraded` or `draining`.
    pub status: &'static str,
    /// The version of the server.
    pub version: &'static str,
    /// The served model.
    pub model: String,
    /// What it computes on: a GPU's name, or `CPU`; null until the model was loaded once.
    #[schema(required)]
    pub device: Option<String>,
    /// Whether the model is in memory.
    pub hot_worker_loaded: bool,
    /// The error of the hot worker, if there is one.
    #[schema(required)]
    pub hot_worker_error: Option<String>,
    /// The values for a load balancer.
    pub routing: Routing,
    /// The figures behind these values.
    pub smart_routing: SmartRouting,
}

/// The values for a load balancer.
#[derive(Debug, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Routing {
    /// 0 (idle) to 1 (full).
    #[schema(minimum = 0, maximum = 1)]
    pub load_score: f64,
    /// Whether a load balancer should send requests here.
    pub accepts_requests: bool,
}

/// The figures behind the routing values. Unknown ones are null; so are those about VRAM without a GPU.
#[derive(Debug, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SmartRouting {
    /// Processing seconds per audio second on the hot lane, as a moving average.
    #[schema(required)]
    pub ema_sps: Option<f64>,
    /// Whether the start of a cold worker was measured.
    pub cold_start_calibrated: bool,
    /// The measured time that a cold worker needs to start, in seconds, as a moving average.
    #[schema(required)]
    pub cold_ema_start_seconds: Option<f64>,
    /// Chunks that wait for a lane.
    pub queue_depth: usize,
    /// Audio that is not transcribed yet, in seconds.
    pub queue_audio_seconds: f64,
    /// The estimated time that the running lanes need for it, in seconds.
    pub queue_drain_estimate_seconds: f64,
    /// Cold workers that are ready.
    pub pool_workers_active: usize,
    /// Cold workers that are starting.
    pub pool_workers_loading: usize,
    /// The best number of cold workers for the current work.
    pub pool_workers_optimal: usize,
    /// The most cold workers.
    pub pool_size_cap: usize,
    /// Free GPU memory, in GB.
    #[schema(required)]
    pub vram_free_gb: Option<f64>,
    /// The measured memory of a cold worker, in GB, as a moving average.
    #[schema(required)]
    pub cold_vram_ema_gb: Option<f64>,
    /// Whether there is memory for one more cold worker.
    pub vram_sufficient_for_cold: bool,
    /// `COLD_START_TIME_SECONDS`.
    pub cold_start_configured_seconds: f64,
    /// `HOT_QUEUE_SAFETY_FACTOR`; without effect.
    pub safety_factor: f64,
    /// `MIN_COLD_VRAM_GB`.
    pub min_cold_vram_gb: f64,
    /// The free memory that one more cold worker needs, in GB.
    #[schema(required)]
    pub cold_vram_per_worker_gb: Option<f64>,
}

/// The reply of `/detect-language`.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "describes what `routes::bazarr` writes")]
pub struct SpokenLanguage {
    /// The English name in lower case.
    detected_language: String,
    /// Whisper's language code.
    language_code: String,
    /// The probability of the language; null without speech.
    #[schema(required)]
    confidence: Option<f32>,
}

/// `response_format` json.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "describes what `crate::render` writes")]
pub struct Transcript {
    /// The text.
    text: String,
    usage: Usage,
    /// The probabilities of the tokens, with `include[]=logprobs`.
    #[schema(nullable = false)]
    logprobs: Option<Vec<TokenProbability>>,
}

/// An event of a streamed reply.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what `reply::sse` writes")]
pub struct StreamEvent {
    /// JSON: `{"type": "transcript.text.delta", "delta"}` during transcription, then
    /// `{"type": "transcript.text.done", "text", "usage", "x_route"}` (and `"x_fallback_used"`,
    /// `"x_final_model"`, `"x_fallback_error"` if a fallback is configured), or `{"error"}`;
    /// `[DONE]` at the end. With `include[]=segments` also `transcript.text.segment` and
    /// `transcript.progress`.
    data: String,
}

/// An event of a job.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what `routes::jobs` writes")]
pub struct JobEvent {
    /// JSON: the job, as `GET /v1/audio/jobs/{id}` returns it.
    data: String,
}

/// The probability of a token.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "describes what `crate::render` writes")]
pub struct TokenProbability {
    token: String,
    #[schema(maximum = 0)]
    logprob: f64,
    /// The bytes of the token. They may end within a UTF-8 character.
    bytes: Vec<u8>,
}

/// The billed amount, as in OpenAI's API.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "describes what `crate::render` writes")]
pub struct Usage {
    /// Always `duration`.
    r#type: String,
    /// The duration of the audio, rounded up.
    seconds: u64,
}

/// `response_format` verbose_json.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "describes what `crate::render` writes")]
pub struct VerboseTranscript {
    /// `transcribe` or `translate`.
    task: String,
    /// The full English name of the language in lower case.
    language: String,
    /// The duration of the audio in seconds.
    duration: f64,
    /// The text.
    text: String,
    /// Absent if only words were requested.
    #[schema(nullable = false)]
    segments: Option<Vec<Segment>>,
    /// Present if they were requested.
    #[schema(nullable = false)]
    words: Option<Vec<TimedWord>>,
    usage: Usage,
    /// The probabilities of the tokens, with `include[]=logprobs`.
    #[schema(nullable = false)]
    logprobs: Option<Vec<TokenProbability>>,
    /// Hallucinated text that was removed.
    #[schema(nullable = false)]
    removed: Option<Vec<Removed>>,
}

/// A transcript of `/v1/transcribe`, with its confidence and the model that wrote it.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "describes what `routes::transcribe` writes")]
pub struct TierTranscript {
    /// The text.
    text: String,
    /// ISO 639-1.
    language: String,
    /// Null if the language was given.
    #[schema(required)]
    language_probability: Option<f64>,
    /// exp of the mean log-probability of the tokens; null without speech.
    #[schema(required)]
    confidence: Option<f64>,
    /// The duration of the audio in seconds.
    duration: f64,
    /// The model that wrote the text; both models, joined by `+`, if the fallback wrote a part of it.
    model: String,
    /// Whether the fallback wrote the text or a part of it.
    fallback_used: bool,
    /// The id of the request, as in the log.
    request_id: String,
    segments: Vec<Segment>,
    timings: TierTimings,
}

/// The time of each step, in milliseconds.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "describes what `routes::transcribe` writes")]
#[expect(clippy::struct_field_names, reason = "as in the reply")]
pub struct TierTimings {
    queue_wait_ms: u64,
    primary_infer_ms: u64,
    fallback_infer_ms: u64,
    total_ms: u64,
}

/// A word with its times in seconds.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "describes what `crate::render` writes")]
pub struct TimedWord {
    word: String,
    start: f64,
    end: f64,
}

/// A segment with its times in seconds.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "describes what `crate::render` writes")]
pub struct Segment {
    id: u64,
    /// The start of the model's window, in hundredths of a second.
    seek: u64,
    start: f64,
    end: f64,
    text: String,
    tokens: Vec<u32>,
    #[schema(minimum = 0, maximum = 1)]
    temperature: f64,
    #[schema(maximum = 0)]
    avg_logprob: f64,
    compression_ratio: f64,
    #[schema(minimum = 0, maximum = 1)]
    no_speech_prob: f64,
    /// `/v1/transcribe` only, if they were requested.
    #[schema(nullable = false)]
    words: Option<Vec<TimedWord>>,
}

/// Removed text with its times in seconds.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "describes what `crate::render` writes")]
pub struct Removed {
    start: f64,
    end: f64,
    text: String,
    reason: String,
}
