//! The seam to whoever has a larger model.

use std::sync::Arc;

use async_trait::async_trait;

use crate::domain::chunk::AudioChunk;
use crate::domain::error::FallbackError;
use crate::domain::transcript::ChunkTranscript;
use crate::ports::EngineLauncher;

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

/// A node with a larger model.
#[async_trait]
pub trait FallbackNode: Send + Sync + 'static {
    /// Has a chunk transcribed there. It ends within a limit of its own, whatever the node does;
    /// dropping the future gives the request up.
    async fn transcribe(&self, request: FallbackRequest) -> Result<FallbackText, FallbackError>;
}

/// Who has a larger model.
#[derive(Clone)]
pub enum FallbackPort {
    /// Another node.
    Node(Arc<dyn FallbackNode>),
    /// This one.
    Model {
        /// Starts engines with it.
        launcher: Arc<dyn EngineLauncher>,
        /// Its name, as users know it.
        model: Arc<str>,
        /// Memory that must be free before it is loaded, in bytes, as far as that is known.
        least_bytes: u64,
    },
}
