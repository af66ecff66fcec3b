//! Bodies as the OpenAPI document describes them. Those of this module that are replies are also what is
//! sent; audio replies are made in [`crate::render`], and held to these by the tests.

mod requests;

use serde::Serialize;
use utoipa::ToSchema;

pub use requests::{
    AsrForm, InferenceForm, InputAudio, TierForm, TranscriptionForm, TranscriptionJson,
    TranslationForm, TranslationJson,
};

/// The body of every error.
#[derive(Debug, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ErrorBody {
    /// What went wrong.
    pub error: ErrorObject,
    /// The message again.
    pub detail: String,
    /// `/v1/transcribe`, where the fallback failed: the reply that there is without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, value_type = Option<TierTranscript>)]
    pub primary: Option<serde_json::Value>,
}

/// What went wrong.
#[derive(Debug, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ErrorObject {
    /// For people.
    pub message: String,
    /// `invalid_request_error`, `rate_limit_error`, `insufficient_quota` or `server_error`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The field at fault.
    #[schema(required)]
    pub param: Option<&'static str>,
    /// For programs.
    #[schema(required)]
    pub code: Option<&'static str>,
}

/// A model that can be asked for.
#[derive(Debug, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// Its name.
    pub id: String,
    /// Always `model`.
    pub object: &'static str,
    /// Unix time in seconds.
    pub created: u64,
    /// Always `uttera`.
    pub owned_by: &'static str,
}

/// All models that can be asked for.
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
    /// `alive`; `ready`, or why it is not: `loading`, `degraded` or `draining`.
    pub status: &'static str,
    /// What is wrong with the hot worker; null where nothing is known to be.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub reason: Option<String>,
}

/// `/v1/health`: the state of a node in two tiers.
#[derive(Debug, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TierHealth {
    /// Always: it answers.
    pub ok: bool,
    /// As in `/health`: `ok` where it can transcribe.
    pub status: &'static str,
    /// `hotcold`, `primary` or `fallback`.
    pub role: String,
    /// The model that is served.
    pub model: String,
    /// Of the server.
    pub version: &'static str,
}

/// The state of a node.
#[derive(Debug, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Health {
    /// `ok`, `loading`, `degraded` or `draining`.
    pub status: &'static str,
    /// Of the server.
    pub version: &'static str,
    /// The model that is served.
    pub model: String,
    /// Whether the model is in memory.
    pub hot_worker_loaded: bool,
    /// Why it is not.
    #[schema(required)]
    pub hot_worker_error: Option<String>,
    /// What a proxy goes by.
    pub routing: Routing,
    /// The figures behind it.
    pub smart_routing: SmartRouting,
}

/// What a proxy goes by.
#[derive(Debug, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Routing {
    /// 0 (idle) to 1 (full).
    #[schema(minimum = 0, maximum = 1)]
    pub load_score: f64,
    /// Whether work should be sent here.
    pub accepts_requests: bool,
}

/// Figures behind the routing; unknown ones are null, and those of VRAM without a GPU.
#[derive(Debug, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SmartRouting {
    /// Rolling work seconds per audio second on the hot lane.
    #[schema(required)]
    pub ema_sps: Option<f64>,
    /// Whether a worker's start was measured.
    pub cold_start_calibrated: bool,
    /// Its rolling time, in seconds.
    #[schema(required)]
    pub cold_ema_start_seconds: Option<f64>,
    /// Pieces of audio that wait for a lane.
    pub queue_depth: usize,
    /// Audio still to be worked on, in seconds.
    pub queue_audio_seconds: f64,
    /// How long the lanes that are up need for it, in seconds.
    pub queue_drain_estimate_seconds: f64,
    /// Cold workers that can work.
    pub pool_workers_active: usize,
    /// Cold workers that are starting.
    pub pool_workers_loading: usize,
    /// Cold workers worth having for the work in hand.
    pub pool_workers_optimal: usize,
    /// Most cold workers.
    pub pool_size_cap: usize,
    /// Free memory of the GPU, in GB.
    #[schema(required)]
    pub vram_free_gb: Option<f64>,
    /// Rolling memory of a worker, in GB.
    #[schema(required)]
    pub cold_vram_ema_gb: Option<f64>,
    /// Whether one more worker fits.
    pub vram_sufficient_for_cold: bool,
    /// A worker's start as configured, in seconds.
    pub cold_start_configured_seconds: f64,
    /// As configured.
    pub safety_factor: f64,
    /// As configured, in GB.
    pub min_cold_vram_gb: f64,
    /// What is wanted free for one more worker, in GB.
    #[schema(required)]
    pub cold_vram_per_worker_gb: Option<f64>,
}

/// What `/detect-language` finds.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "describes what `http::bazarr` writes")]
pub struct SpokenLanguage {
    /// Its English name in lower case.
    detected_language: String,
    /// whisper's code.
    language_code: String,
    /// How sure that is; null if nobody speaks.
    #[schema(required)]
    confidence: Option<f32>,
}

/// `response_format` json.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "describes what `crate::render` writes")]
pub struct Transcript {
    /// What is said.
    text: String,
    usage: Usage,
    /// How likely each token was, where that was asked for.
    #[schema(nullable = false)]
    logprobs: Option<Vec<TokenProbability>>,
}

/// One event of a streamed reply.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what `http::stream` writes")]
pub struct StreamEvent {
    /// JSON: `{"type": "transcript.text.delta", "delta"}` while the text is made, then
    /// `{"type": "transcript.text.done", "text", "usage", "x_route"}` (and `"x_fallback_used"`, `"x_final_model"`,
    /// `"x_fallback_error"` where a larger model stands by), or `{"error"}`; `[DONE]` at the end.
    data: String,
}

/// How likely a token was.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "describes what `crate::render` writes")]
pub struct TokenProbability {
    token: String,
    #[schema(maximum = 0)]
    logprob: f64,
    /// Of the token in UTF-8, which may end within a letter.
    bytes: Vec<u8>,
}

/// What OpenAI would charge for.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "describes what `crate::render` writes")]
pub struct Usage {
    /// Always `duration`.
    r#type: String,
    /// The audio's length, rounded up.
    seconds: u64,
}

/// `response_format` verbose_json.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "describes what `crate::render` writes")]
pub struct VerboseTranscript {
    /// `transcribe` or `translate`.
    task: String,
    /// Its full English name in lower case.
    language: String,
    /// The audio's length in seconds.
    duration: f64,
    /// What is said.
    text: String,
    /// Unless only words are asked for.
    #[schema(nullable = false)]
    segments: Option<Vec<Segment>>,
    /// Where they are asked for.
    #[schema(nullable = false)]
    words: Option<Vec<TimedWord>>,
    usage: Usage,
    /// How likely each token was, where that was asked for.
    #[schema(nullable = false)]
    logprobs: Option<Vec<TokenProbability>>,
    /// Text that the model made up and that was taken out.
    #[schema(nullable = false)]
    removed: Option<Vec<Removed>>,
}

/// A transcript of `/v1/transcribe`: how much it is to be trusted, and whose it is.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "describes what `http::transcribe` writes")]
pub struct TierTranscript {
    /// What is said.
    text: String,
    /// ISO 639-1.
    language: String,
    /// Where the language was detected.
    #[schema(required)]
    language_probability: Option<f64>,
    /// exp of the tokens' mean log-probability; null where nothing is said.
    #[schema(required)]
    confidence: Option<f64>,
    /// The audio's length in seconds.
    duration: f64,
    /// The model that the text is of; two of them, with `+` between, where some of a long file is the
    /// larger model's.
    model: String,
    /// Whether any of it is the larger model's.
    fallback_used: bool,
    /// Names this request in the log.
    request_id: String,
    segments: Vec<Segment>,
    timings: TierTimings,
}

/// Where the time went, in whole milliseconds.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "describes what `http::transcribe` writes")]
#[expect(clippy::struct_field_names, reason = "as in the reply")]
pub struct TierTimings {
    queue_wait_ms: u64,
    primary_infer_ms: u64,
    fallback_infer_ms: u64,
    total_ms: u64,
}

/// A word. Times are in seconds.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "describes what `crate::render` writes")]
pub struct TimedWord {
    word: String,
    start: f64,
    end: f64,
}

/// A stretch of speech. Times are in seconds.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "describes what `crate::render` writes")]
pub struct Segment {
    id: u64,
    /// Where the model's window began, in hundredths of a second.
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
    /// On `/v1/transcribe`, where they are asked for.
    #[schema(nullable = false)]
    words: Option<Vec<TimedWord>>,
}

/// Text that was taken out. Times are in seconds.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "describes what `crate::render` writes")]
pub struct Removed {
    start: f64,
    end: f64,
    text: String,
    reason: String,
}
