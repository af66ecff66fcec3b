//! Closed sets of label values.

/// The path that detects the language of audio.
pub(super) const DETECT_LANGUAGE: &str = "/detect-language";

/// Known paths with their method.
pub(super) const ENDPOINTS: &[(&str, &str)] = &[
    ("/health", "GET"),
    ("/livez", "GET"),
    ("/readyz", "GET"),
    ("/metrics", "GET"),
    ("/openapi.json", "GET"),
    ("/", "GET"),
    ("/board", "GET"),
    ("/page/{file}", "GET"),
    ("/docs", "GET"),
    ("/docs/{asset}", "GET"),
    ("/v1/models", "GET"),
    ("/v1/models/{id}", "GET"),
    (Endpoint::Transcriptions.path(), "POST"),
    (Endpoint::Translations.path(), "POST"),
    (Endpoint::Asr.path(), "POST"),
    (DETECT_LANGUAGE, "POST"),
    (Endpoint::Inference.path(), "POST"),
    (Endpoint::Transcribe.path(), "POST"),
    (Endpoint::Realtime.path(), "GET"),
    ("/v1/realtime/client_secrets", "POST"),
    ("/v1/realtime/transcription_sessions", "POST"),
    (Endpoint::Jobs.path(), "POST"),
    ("/v1/audio/jobs/{id}", "GET"),
    ("/v1/audio/jobs/{id}/result", "GET"),
    ("/v1/audio/jobs/{id}/events", "GET"),
    ("/v1/status", "GET"),
    ("/v1/status/events", "GET"),
    ("/v1/health", "GET"),
    ("/v1/metrics", "GET"),
];

/// Paths that return transcripts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// Transcriptions of OpenAI's API.
    Transcriptions,
    /// Translations of OpenAI's API.
    Translations,
    /// Bazarr's API.
    Asr,
    /// The API of whisper.cpp's server.
    Inference,
    /// The API of a primary and a fallback.
    Transcribe,
    /// Realtime transcriptions of OpenAI's API.
    Realtime,
    /// Jobs.
    Jobs,
}

impl Endpoint {
    pub(super) const ALL: [Self; 7] = [
        Self::Transcriptions,
        Self::Translations,
        Self::Asr,
        Self::Inference,
        Self::Transcribe,
        Self::Realtime,
        Self::Jobs,
    ];

    /// The path.
    pub const fn path(self) -> &'static str {
        match self {
            Self::Transcriptions => "/v1/audio/transcriptions",
            Self::Translations => "/v1/audio/translations",
            Self::Asr => "/asr",
            Self::Inference => "/inference",
            Self::Transcribe => "/v1/transcribe",
            Self::Realtime => "/v1/realtime",
            Self::Jobs => "/v1/audio/jobs",
        }
    }
}

/// Methods with a label value of their own.
pub(super) const METHODS: &[&str] = &["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];

/// Type of an error in metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorType {
    /// The audio cannot be decoded or is too long.
    Decode,
    /// The request is invalid.
    Validation,
    /// The model is not loaded or failed.
    Model,
    /// LibreTranslate failed.
    Libretranslate,
    /// The workers gave no result in time.
    Timeout,
    /// The queue is full, or the node is draining.
    Overloaded,
    /// The key is missing or wrong.
    Auth,
    /// A client exceeded its rate limit.
    RateLimit,
    /// The audio crashes workers.
    Poison,
    /// The fallback failed.
    Fallback,
    /// Any other error.
    Internal,
}

impl ErrorType {
    pub(super) const ALL: [Self; 11] = [
        Self::Decode,
        Self::Validation,
        Self::Model,
        Self::Libretranslate,
        Self::Timeout,
        Self::Overloaded,
        Self::Auth,
        Self::RateLimit,
        Self::Poison,
        Self::Fallback,
        Self::Internal,
    ];

    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Decode => "decode",
            Self::Validation => "validation",
            Self::Model => "model",
            Self::Libretranslate => "libretranslate",
            Self::Timeout => "timeout",
            Self::Overloaded => "overloaded",
            Self::Auth => "auth",
            Self::RateLimit => "rate_limit",
            Self::Poison => "poison",
            Self::Fallback => "fallback",
            Self::Internal => "internal",
        }
    }
}
