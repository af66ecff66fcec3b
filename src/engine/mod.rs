//! Engines: whisper models in worker processes.
//!
//! The server side ([`process`]) starts workers, exchanges messages of the [`protocol`] with them and
//! implements the supervision tree's [`EngineLauncher`](stt_actors::ports::EngineLauncher). The child side
//! ([`worker`]) is the same executable and holds one model ([`whisper`]). A crash in native code ends one
//! worker and never the server. [`native`] computes Whisper on CPUs without whisper.cpp.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use serde::{Deserialize, Serialize};
use stt_actors::domain::transcript::ChunkTranscript;

use native::Native;
use protocol::Failure;
use whisper::{Options, Request};

pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod devices;
mod memory;
pub mod native;
pub mod process;
pub mod protocol;
pub mod whisper;
mod words;
pub mod worker;

/// Which implementation of Whisper a worker uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum EngineChoice {
    /// The native one on CPUs for the models that it can read, otherwise whisper.cpp.
    #[default]
    Auto,
    /// The native one.
    Native,
    /// whisper.cpp.
    WhisperCpp,
}

/// A loaded model.
#[derive(Debug)]
pub enum Engine {
    /// In whisper.cpp.
    Whisper(whisper::Model),
    /// In the native implementation.
    Native(Box<Native>),
}

impl Engine {
    /// Loads a ggml file.
    ///
    /// # Errors
    /// The message says why.
    pub fn load(path: &Path, choice: EngineChoice, options: Options) -> Result<Self, String> {
        let is_native = match choice {
            EngineChoice::WhisperCpp => false,
            EngineChoice::Auto => Native::supports(&options) && whisper_cpu::can_read(path),
            EngineChoice::Native if Native::supports(&options) => true,
            EngineChoice::Native => {
                return Err("ENGINE=native runs on CPUs only".to_owned());
            }
        };
        if is_native {
            let native = Native::load(path, options)?;
            Ok(Self::Native(Box::new(native)))
        } else {
            whisper::Model::load(path, options).map(Self::Whisper)
        }
    }

    /// Whether the model supports languages other than English.
    pub fn is_multilingual(&self) -> bool {
        match self {
            Self::Whisper(model) => model.is_multilingual(),
            Self::Native(model) => model.is_multilingual(),
        }
    }

    /// Transcribes one chunk independently of others. `heard` is called with a detected language before the text is
    /// decoded.
    ///
    /// # Errors
    /// [`Failure::Aborted`] soon after `abort` is set, [`Failure::Engine`] if the chunk cannot be transcribed.
    pub fn transcribe(
        &mut self,
        request: Request,
        abort: &AtomicBool,
        heard: &mut dyn FnMut(&str, f32),
    ) -> Result<ChunkTranscript, Failure> {
        match self {
            Self::Whisper(model) => model.transcribe(request, abort, heard),
            Self::Native(model) => model.transcribe(&request, abort, heard),
        }
    }
}

/// The path of this program, which workers and the processes that ask drivers run. `/proc/self/exe` stays valid when an
/// update replaces the file while the server runs.
///
/// # Errors
/// The operating system does not tell.
pub fn own_executable() -> std::io::Result<PathBuf> {
    let proc = PathBuf::from("/proc/self/exe");
    if proc.exists() {
        return Ok(proc);
    }
    std::env::current_exe()
}
