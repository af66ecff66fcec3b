//! Engines: whisper models in worker processes.
//!
//! The server side ([`process`]) starts workers, speaks the [`protocol`] with them and is the
//! tree's [`EngineLauncher`](stt_actors::ports::EngineLauncher). The child side ([`worker`]) is the
//! same executable with one model in it ([`whisper`]). Native code that crashes takes a worker
//! with it and never the server.

pub mod cpu;
pub mod ggml_hooks;
pub mod process;
pub mod protocol;
pub mod whisper;
pub mod worker;
