//! The seams between the tree and the world: small traits, implemented at the edges of the server
//! and by scripted stand-ins in this crate's tests. Nothing here knows HTTP, whisper, ffmpeg,
//! Redis or NVML.

mod fallback;
mod translator;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use thiserror::Error;

use crate::domain::chunk::{AudioChunk, AudioSource};
use crate::domain::error::{DecodeError, EngineError, EngineExit, LaunchError};
use crate::domain::ids::WorkerId;
use crate::domain::transcript::{ChunkTranscript, Task};

pub use fallback::{FallbackNode, FallbackPort, FallbackRequest, FallbackText};
pub use translator::{Translator, TranslatorRequest};

// ---------------------------------------------------------------------------------------------
// Audio

/// How audio is to be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeOptions {
    /// Leave out what is not speech. Otherwise all of the audio comes, in one row of chunks.
    pub voice_activity: bool,
}

/// What decoding a little further gave.
#[derive(Clone, Debug, PartialEq)]
pub enum Decoded {
    /// A chunk with speech.
    Chunk(AudioChunk),
    /// Nothing but silence so far; there may be more.
    Silence,
}

/// Opens audio of any format as a stream of chunks.
#[async_trait]
pub trait AudioDecoder: Send + Sync + 'static {
    /// Starts decoding. What is plainly not audio is refused here or at the first chunk.
    async fn open(
        &self,
        source: &AudioSource,
        options: DecodeOptions,
    ) -> Result<Box<dyn ChunkStream>, DecodeError>;
}

/// Audio being decoded. Dropping it ends the decoder and all it started.
#[async_trait]
pub trait ChunkStream: Send {
    /// Waits for what the decoder needs of the machine before it can begin, which may take as long as
    /// other requests do. Nothing that others wait for is to be held meanwhile.
    async fn ready(&mut self) {}

    /// Decodes on: the next chunk in order, of about the `target` length, or word that there was
    /// none in a while; `None` at the end. After an error or `None` it is not called again.
    async fn next(&mut self, target: Duration) -> Result<Option<Decoded>, DecodeError>;

    /// Samples decoded so far, silence included: after the end, the length of the audio.
    fn decoded_samples(&self) -> u64;

    /// Up to which sample it is settled what is in a chunk, given out already, and what is silence.
    fn settled_samples(&self) -> u64;

    /// The length that the container claims, where it does. A hint, not a promise.
    fn claimed_duration(&self) -> Option<Duration>;
}

// ---------------------------------------------------------------------------------------------
// Engines

/// What an engine says of itself when its model is loaded.
#[derive(Clone, Debug, PartialEq)]
pub struct EngineInfo {
    /// The model's name, as users know it (`base`, `tiny.en`).
    pub model: String,
    /// Whether the model knows languages besides English.
    pub multilingual: bool,
    /// The worker's process id, where it is a process.
    pub process_id: Option<u32>,
    /// From the start of the worker to readiness: the cost of one more of these.
    pub load_time: Duration,
    /// What its first clip took, where one was transcribed before it counted as ready.
    pub calibration: Option<Calibration>,
}

/// The work that a known clip took: the first point of the node's rates.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Calibration {
    /// Length of the clip, in seconds.
    pub audio_seconds: f64,
    /// What the engine took for it, in seconds.
    pub inference_seconds: f64,
}

/// One chunk's work, complete in itself: nothing is remembered between two of these.
#[derive(Clone, Debug)]
pub struct ChunkRequest {
    /// The client's request, for logs.
    pub request_id: Arc<str>,
    /// What to transcribe.
    pub audio: AudioChunk,
    /// Transcribe or translate to English.
    pub task: Task,
    /// ISO 639-1; `None`: detect.
    pub language: Option<String>,
    /// Text that the model is to take as what came before.
    pub prompt: Option<String>,
    /// 0: greedy with whisper's temperature ladder; else this temperature alone.
    pub temperature: f32,
}

/// A language that an engine has detected.
#[derive(Clone, Debug, PartialEq)]
pub struct DetectedLanguage {
    /// ISO 639-1.
    pub code: String,
    /// The model's own probability of it.
    pub probability: f32,
}

/// Who is told of the language of a chunk, at most once.
pub type LanguageHeard = Box<dyn FnOnce(DetectedLanguage) + Send>;

/// Starts engines.
#[async_trait]
pub trait EngineLauncher: Send + Sync + 'static {
    /// Brings one engine up, model loaded. Dropping the future ends what was started.
    async fn launch(&self, worker: &WorkerId) -> Result<Arc<dyn Engine>, LaunchError>;
}

/// A loaded model, in a process of its own. Dropping the last handle ends it.
#[async_trait]
pub trait Engine: Send + Sync + 'static {
    /// What was loaded.
    fn info(&self) -> &EngineInfo;

    /// Transcribes one chunk; one at a time. Where the language is to be detected, `heard` is told
    /// as soon as that is done, long before the text is.
    async fn transcribe(
        &self,
        request: ChunkRequest,
        heard: LanguageHeard,
    ) -> Result<ChunkTranscript, EngineError>;

    /// Asks the running chunk to end early. Heard between an encoder pass and decoder steps.
    fn abort(&self);

    /// Resolves once the engine has ended and its memory is free.
    async fn exited(&self) -> EngineExit;

    /// Ends it: politely, then by force after `grace`; resolves once it has ended.
    async fn stop(&self, grace: Duration) -> EngineExit;

    /// Ends it at once because it was silent for too long on a chunk: from now on its exit is
    /// [`EngineExit::TimedOut`].
    fn kill_timed_out(&self);

    /// Resident memory of the engine's process, in bytes, where it can be told at once.
    fn resident_bytes(&self) -> Option<u64>;
}

// ---------------------------------------------------------------------------------------------
// Memory

/// Which memory decides how many engines fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryKind {
    /// That of the GPU which the workers use.
    Vram,
    /// That of the machine, where inference runs on the CPU.
    Host,
}

/// Memory at one moment, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemorySample {
    /// Free for a further engine.
    pub free: u64,
    /// Of the device or the machine.
    pub total: u64,
    /// How busy the GPU was lately, in percent, where its driver tells.
    pub utilization_percent: Option<u32>,
    /// What each of the processes asked about holds; one whose use cannot be told is left out.
    pub used_by_process: Vec<(u32, u64)>,
}

/// Why there is no sample.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{0}")]
pub struct ProbeError(pub String);

/// Looks at the memory that engines need.
pub trait VramProbe: Send + Sync + 'static {
    /// Which memory this looks at.
    fn kind(&self) -> MemoryKind;

    /// Looks now, also at what these processes hold. It may block for as long as a driver does: it
    /// is called on a thread for that, one call at a time.
    fn sample(&self, processes: &[u32]) -> Result<MemorySample, ProbeError>;
}

// ---------------------------------------------------------------------------------------------
// Registration

/// What routers are told of this node. Name, address and version are the directory's to add.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NodeRecord {
    /// Share of the routing cap that the work in hand takes, 0 to 1.
    pub load_score: f64,
    /// Whether new work should come here.
    pub accepts_requests: bool,
}

/// Why a record could not be published or removed.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{0}")]
pub struct DirectoryError(pub String);

/// Where nodes make themselves known.
#[async_trait]
pub trait NodeDirectory: Send + Sync + 'static {
    /// Puts the record there for `ttl`, in place of the one before.
    async fn publish(&self, record: NodeRecord, ttl: Duration) -> Result<(), DirectoryError>;

    /// Takes it away.
    async fn withdraw(&self) -> Result<(), DirectoryError>;
}
