//! The seam to whoever has a larger model.

use std::sync::Arc;

use async_trait::async_trait;
use thiserror::Error;

use crate::chunk::AudioChunk;
use crate::transcript::ChunkTranscript;

/// A chunk whose text is not trusted, or for which there is none.
#[derive(Clone, Debug)]
pub struct FallbackRequest {
    /// The client's request, for logs.
    pub request_id: Arc<str>,
    /// What to transcribe.
    pub audio: AudioChunk,
    /// ISO 639-1; `None`: detect.
    pub language: Option<String>,
    /// Text that the model is to take as what came before.
    pub prompt: Option<String>,
    /// As in [`ChunkRequest`](super::ChunkRequest).
    pub temperature: f32,
    /// Take out text that whisper made up.
    pub hallucination_guard: bool,
}

/// What the larger model made of it.
#[derive(Clone, Debug, PartialEq)]
pub struct FallbackText {
    /// With times that count from the chunk's first sample.
    pub transcript: ChunkTranscript,
    /// The model, as users know it.
    pub model: String,
}

/// Why the larger model gave no text.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum FallbackError {
    /// Nobody is there.
    #[error("it cannot be reached: {0}")]
    Unreachable(String),
    /// It took too long.
    #[error("it gave no answer within {seconds} s")]
    TimedOut {
        /// The limit that was passed.
        seconds: u64,
    },
    /// It did not want to.
    #[error("it answered {status}: {message}")]
    Refused {
        /// As in HTTP.
        status: u16,
        /// Its own words.
        message: String,
    },
    /// It answered, and not as it should.
    #[error("its answer makes no sense: {0}")]
    BadAnswer(String),
    /// So many pieces of audio are there already that this one was not sent.
    #[error("too many pieces of audio wait for it")]
    Overloaded,
    /// The model of this node could not do it.
    #[error("the larger model failed: {0}")]
    Model(String),
}

impl FallbackError {
    /// As in the header `X-Error-Type`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "fallback_unreachable",
            Self::TimedOut { .. } => "fallback_timeout",
            Self::Refused { status: 429, .. } => "fallback_rate_limited",
            Self::Refused { .. } => "fallback_refused",
            Self::BadAnswer(_) => "fallback_bad_answer",
            Self::Overloaded => "fallback_overloaded",
            Self::Model(_) => "fallback_model",
        }
    }
}

/// A node with a larger model.
#[async_trait]
pub trait FallbackNode: Send + Sync + 'static {
    /// Has a chunk transcribed there. It ends within a limit of its own, whatever the node does;
    /// dropping the future gives the request up.
    async fn transcribe(&self, request: FallbackRequest) -> Result<FallbackText, FallbackError>;
}
