//! Closed sets of label values.

/// Paths and the method that they are for.
pub(super) const ENDPOINTS: &[(&str, &str)] = &[
    ("/health", "GET"),
    ("/livez", "GET"),
    ("/readyz", "GET"),
    ("/metrics", "GET"),
    ("/openapi.json", "GET"),
    ("/docs", "GET"),
    ("/docs/{asset}", "GET"),
    ("/v1/models", "GET"),
    ("/v1/models/{id}", "GET"),
    (Endpoint::Transcriptions.path(), "POST"),
    (Endpoint::Translations.path(), "POST"),
    (Endpoint::Asr.path(), "POST"),
    ("/detect-language", "POST"),
    (Endpoint::Inference.path(), "POST"),
    (Endpoint::Transcribe.path(), "POST"),
    ("/v1/health", "GET"),
    ("/v1/metrics", "GET"),
];

/// Paths that give transcripts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// OpenAI's.
    Transcriptions,
    /// OpenAI's.
    Translations,
    /// Bazarr's.
    Asr,
    /// whisper.cpp's.
    Inference,
    /// Of a primary and a fallback.
    Transcribe,
}

impl Endpoint {
    pub(super) const ALL: [Self; 5] = [
        Self::Transcriptions,
        Self::Translations,
        Self::Asr,
        Self::Inference,
        Self::Transcribe,
    ];

    /// The path.
    pub const fn path(self) -> &'static str {
        match self {
            Self::Transcriptions => "/v1/audio/transcriptions",
            Self::Translations => "/v1/audio/translations",
            Self::Asr => "/asr",
            Self::Inference => "/inference",
            Self::Transcribe => "/v1/transcribe",
        }
    }
}

/// Methods that are told apart.
pub(super) const METHODS: &[&str] = &["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];

/// What a refusal is counted as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorType {
    /// The audio cannot be decoded, or is too long.
    Decode,
    /// The request is at fault.
    Validation,
    /// The model is not there, or could not do it.
    Model,
    /// LibreTranslate failed.
    Libretranslate,
    /// The workers gave no answer in time.
    Timeout,
    /// There is no room for more work, or the node is leaving.
    Overloaded,
    /// No key, or a wrong one.
    Auth,
    /// Too many requests of one client.
    RateLimit,
    /// Audio that kills workers.
    Poison,
    /// The larger node failed.
    Fallback,
    /// Anything unforeseen.
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
