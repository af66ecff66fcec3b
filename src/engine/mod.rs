//! Engines: whisper models in worker processes.
//!
//! The server side ([`process`]) starts workers, exchanges messages of the [`protocol`] with them and
//! implements the supervision tree's [`EngineLauncher`](stt_actors::ports::EngineLauncher). The child side
//! ([`worker`]) is the same executable and holds one model ([`whisper`]). A crash in native code ends one
//! worker and never the server. [`ggml_hooks`] replaces some functions of ggml.

pub mod cpu;
pub mod ggml_hooks;
pub mod process;
pub mod protocol;
pub mod whisper;
pub mod worker;
