//! The port to the fallback: another node, or a second model on this node.

use std::sync::Arc;

use async_trait::async_trait;

use crate::domain::chunk::AudioChunk;
use crate::domain::error::FallbackError;
use crate::domain::trace::Trace;
use crate::domain::transcript::ChunkTranscript;
use crate::ports::EngineLauncher;

/// A chunk to transcribe on the fallback, because its text is doubtful or its transcription failed.
#[derive(Clone, Debug)]
pub struct FallbackRequest {
    /// The client's request, for logs.
    pub request_id: Arc<str>,
    /// The audio.
    pub audio: AudioChunk,
    /// ISO 639-1 code; `None`: detect the language.
    pub language: Option<String>,
    /// The languages among which the detection chooses; empty: all.
    pub languages: Vec<String>,
    /// Text that the model treats as the text before the audio.
    pub prompt: Option<String>,
    /// As in [`ChunkRequest`](super::ChunkRequest).
    pub temperature: f32,
    /// Remove hallucinated text.
    pub hallucination_guard: bool,
    /// The trace, within the span of this call.
    pub trace: Trace,
}

/// The fallback's text of a chunk.
#[derive(Clone, Debug, PartialEq)]
pub struct FallbackText {
    /// The text; times count from the chunk's first sample.
    pub transcript: ChunkTranscript,
    /// The model's public name.
    pub model: String,
}

/// Another node that serves as the fallback.
#[async_trait]
pub trait FallbackNode: Send + Sync + 'static {
    /// Transcribes a chunk on the other node, within a time limit that the implementation enforces.
    /// Dropping the future cancels the request.
    ///
    /// # Errors
    /// The node cannot be reached, exceeds the limit, rejects the request or answers nonsense.
    async fn transcribe(&self, request: FallbackRequest) -> Result<FallbackText, FallbackError>;
}

/// The configured fallback.
#[derive(Clone)]
pub enum FallbackPort {
    /// Another node.
    Node(Arc<dyn FallbackNode>),
    /// A second model on this node.
    Model {
        /// Starts engines with the model.
        launcher: Arc<dyn EngineLauncher>,
        /// The model's public name.
        model: Arc<str>,
        /// Memory that must be free to load the model, in bytes: an estimate; 0 if there is none.
        least_bytes: u64,
    },
}
