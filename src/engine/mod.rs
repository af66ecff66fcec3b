//! Engines: whisper models in worker processes.
//!
//! The server side ([`process`]) starts workers, exchanges messages of the [`protocol`] with them and
//! implements the supervision tree's [`EngineLauncher`](stt_actors::ports::EngineLauncher). The child side
//! ([`worker`]) is the same executable and holds one model ([`whisper`]). A crash in native code ends one
//! worker and never the server. [`ggml_hooks`] replaces some functions of ggml. [`native`] computes Whisper without
//! whisper.cpp.

use serde::{Deserialize, Serialize};

pub mod cpu;
pub mod ggml_hooks;
pub mod native;
pub mod process;
pub mod protocol;
pub mod whisper;
pub mod worker;

/// Which implementation of Whisper a worker uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum EngineChoice {
    /// whisper.cpp, until the native one is measured in every respect.
    #[default]
    Auto,
    /// The native one.
    Native,
    /// whisper.cpp.
    WhisperCpp,
}
