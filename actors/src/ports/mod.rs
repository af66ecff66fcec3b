//! The ports of the tree: traits that the server implements with whisper, ffmpeg, Redis, NVML and
//! LibreTranslate, and that this crate's tests implement with scripted stand-ins.

mod fallback;
mod translator;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use thiserror::Error;

use crate::domain::chunk::{AudioChunk, AudioSource};
use crate::domain::error::{DecodeError, EngineError, EngineExit, LaunchError};
use crate::domain::ids::WorkerId;
use crate::domain::live::{PcmFormat, SpeechFrame};
use crate::domain::transcript::{ChunkTranscript, Task};

pub use fallback::{FallbackNode, FallbackPort, FallbackRequest, FallbackText};
pub use translator::{Translator, TranslatorRequest};

// ---------------------------------------------------------------------------------------------
// Audio

/// How to cut audio into chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeOptions {
    /// Leave out silence. Otherwise the chunks contain all of the audio.
    pub voice_activity: bool,
    /// Let every pause of about a second end a chunk, because the language may change there. Otherwise a chunk may
    /// contain pauses.
    pub pauses_end_chunks: bool,
}

/// The result of one decoding step.
#[derive(Clone, Debug, PartialEq)]
pub enum Decoded {
    /// A chunk with speech.
    Chunk(AudioChunk),
    /// Only silence since the last step; the audio goes on.
    Silence,
}

/// Opens files of any format, and live audio.
#[async_trait]
pub trait AudioDecoder: Send + Sync + 'static {
    /// Starts decoding.
    ///
    /// # Errors
    /// The source cannot be opened, or is not audio; the latter may also come with the first chunk.
    async fn open(
        &self,
        source: &AudioSource,
        options: DecodeOptions,
    ) -> Result<Box<dyn ChunkStream>, DecodeError>;

    /// Opens a stream of live audio in this format.
    ///
    /// # Errors
    /// The format is not one of audio; the text says why.
    fn open_live(&self, format: PcmFormat) -> Result<Box<dyn LiveStream>, String>;
}

/// Live audio. Pure computation: neither call waits for anything.
pub trait LiveStream: Send {
    /// Takes the next bytes, and returns the frames that are complete. Bytes of an incomplete sample are kept.
    fn push(&mut self, bytes: &[u8]) -> Vec<SpeechFrame>;

    /// Returns what is left in the stream, because a pause or the end of the audio follows.
    fn flush(&mut self) -> Vec<SpeechFrame>;
}

/// Audio that is being decoded. Dropping the stream ends the decoder and its processes.
#[async_trait]
pub trait ChunkStream: Send {
    /// Waits until the decoder may start, for example until the number of running decoders is below the
    /// limit. That may take as long as other requests take, so the caller must hold no permit that other
    /// requests wait for.
    async fn ready(&mut self) {}

    /// Decodes ahead, at most a little further than `limit`. Returns whether the audio ends within it. Called before
    /// [`Self::next`], if at all.
    ///
    /// # Errors
    /// As for [`Self::next`].
    async fn ends_within(&mut self, limit: Duration) -> Result<bool, DecodeError>;

    /// Decodes further: returns the next chunk in order, with about the `target` length, or
    /// [`Decoded::Silence`] after a while without speech; `None` at the end. Not called again after an
    /// error or `None`.
    ///
    /// # Errors
    /// The audio cannot be decoded, is too long, or the decoder failed.
    async fn next(&mut self, target: Duration) -> Result<Option<Decoded>, DecodeError>;

    /// Samples decoded so far, silence included; after the end, the length of the audio.
    fn decoded_samples(&self) -> u64;

    /// Number of samples from the start that are final: either part of a returned chunk, or silence.
    fn settled_samples(&self) -> u64;

    /// The length that the container states, if it does. It may be wrong.
    fn claimed_duration(&self) -> Option<Duration>;
}

// ---------------------------------------------------------------------------------------------
// Engines

/// Facts about a loaded engine.
#[derive(Clone, Debug, PartialEq)]
pub struct EngineInfo {
    /// The model's public name (`base`, `tiny.en`).
    pub model: String,
    /// Whether the model supports languages besides English.
    pub multilingual: bool,
    /// What it computes on: a GPU's name, or `CPU`.
    pub device: String,
    /// The worker's process id, if it is a process.
    pub process_id: Option<u32>,
    /// Time from the start of the worker until it was ready: an estimate for the next start.
    pub load_time: Duration,
    /// The measurement of a test clip, if one was transcribed before the engine counted as ready.
    pub calibration: Option<Calibration>,
}

/// The time that a test clip took: the first measurement for the node's rates.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Calibration {
    /// Length of the clip, in seconds.
    pub audio_seconds: f64,
    /// The engine's work on the clip, in seconds.
    pub inference_seconds: f64,
}

/// From this probability on, a detected language counts even if another one is likely.
pub const CERTAIN_LANGUAGE: f32 = 0.5;

/// A chunk to transcribe. An engine keeps no state between two requests.
#[derive(Clone, Debug)]
pub struct ChunkRequest {
    /// The client's request, for logs.
    pub request_id: Arc<str>,
    /// The audio.
    pub audio: AudioChunk,
    /// Transcribe or translate to English.
    pub task: Task,
    /// ISO 639-1 code; `None`: detect the language.
    pub language: Option<String>,
    /// The languages among which the detection chooses; empty: all.
    pub languages: Vec<String>,
    /// The language to use if the detected one is less probable than [`CERTAIN_LANGUAGE`]: that of the speech before.
    /// `None`: the detected one is used in any case.
    pub likely_language: Option<String>,
    /// Text that the model treats as the text before the audio.
    pub prompt: Option<String>,
    /// 0: greedy, and again at rising temperatures if the text is bad, as whisper does; otherwise this
    /// temperature only.
    pub temperature: f32,
}

/// A language that an engine detected.
#[derive(Clone, Debug, PartialEq)]
pub struct DetectedLanguage {
    /// ISO 639-1 code.
    pub code: String,
    /// The model's probability of the language.
    pub probability: f32,
}

/// Callback with the detected language of a chunk; called at most once.
pub type LanguageHeard = Box<dyn FnOnce(DetectedLanguage) + Send>;

/// Starts engines.
#[async_trait]
pub trait EngineLauncher: Send + Sync + 'static {
    /// Starts an engine and loads its model. Dropping the future ends the worker.
    ///
    /// # Errors
    /// The model cannot be loaded, or the worker failed.
    async fn launch(&self, worker: &WorkerId) -> Result<Arc<dyn Engine>, LaunchError>;

    /// How long the first launch should take, until the engine is ready; `None`: unknown.
    fn expected_start(&self) -> Option<Duration> {
        None
    }
}

/// A loaded model in a worker process. Dropping the last handle ends the process.
#[async_trait]
pub trait Engine: Send + Sync + 'static {
    /// Facts about the engine.
    fn info(&self) -> &EngineInfo;

    /// Transcribes a chunk. Callers send one chunk at a time. If the language is to be detected, calls
    /// `heard` as soon as it is known, long before the text is.
    ///
    /// # Errors
    /// The engine failed, was aborted or ended.
    async fn transcribe(
        &self,
        request: ChunkRequest,
        heard: LanguageHeard,
    ) -> Result<ChunkTranscript, EngineError>;

    /// Cancels the running chunk. The engine checks for this between an encoder pass and decoder steps.
    fn abort(&self);

    /// Resolves when the engine has ended and its memory is free.
    async fn exited(&self) -> EngineExit;

    /// Ends the engine, by force after `grace`. Resolves when it has ended.
    async fn stop(&self, grace: Duration) -> EngineExit;

    /// Kills an engine that exceeded the time limit for a chunk. Its exit is
    /// [`EngineExit::TimedOut`] from now on.
    fn kill_timed_out(&self);

    /// Resident memory of the engine's process, in bytes; `None` if it cannot be read without blocking.
    fn resident_bytes(&self) -> Option<u64>;
}

// ---------------------------------------------------------------------------------------------
// Memory

/// The memory that limits the number of engines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryKind {
    /// Memory of the GPU that the workers use.
    Vram,
    /// Memory of the machine, if inference runs on the CPU.
    Host,
}

/// Memory at one moment, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemorySample {
    /// Memory that is free for another engine.
    pub free: u64,
    /// All memory of the GPU or the machine.
    pub total: u64,
    /// Recent utilization of the GPU, in percent, if its driver reports it.
    pub utilization_percent: Option<u32>,
    /// Process ids and the memory that each process uses. Processes whose use is unknown are left out.
    pub used_by_process: Vec<(u32, u64)>,
}

/// Why memory could not be sampled.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{0}")]
pub struct ProbeError(pub String);

/// Samples the memory that engines need.
pub trait VramProbe: Send + Sync + 'static {
    /// The kind of memory that this probe samples.
    fn kind(&self) -> MemoryKind;

    /// Takes a sample, including the memory that these processes use. May block for as long as the
    /// driver does; the tree calls it on a blocking thread, one call at a time.
    ///
    /// # Errors
    /// The driver or the operating system gave no figures.
    fn sample(&self, processes: &[u32]) -> Result<MemorySample, ProbeError>;
}

// ---------------------------------------------------------------------------------------------
// Registration

/// The state that this node publishes for routers. The directory adds name, address and version.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NodeRecord {
    /// Estimated drain time over its cap for routing, 0 to 1.
    pub load_score: f64,
    /// Whether routers should send requests to this node.
    pub accepts_requests: bool,
}

/// Why a record could not be published or removed.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{0}")]
pub struct DirectoryError(pub String);

/// A directory of nodes, for routers.
#[async_trait]
pub trait NodeDirectory: Send + Sync + 'static {
    /// Publishes this node's record, replacing the previous one. It expires after `ttl`.
    ///
    /// # Errors
    /// The directory could not be written.
    async fn publish(&self, record: NodeRecord, ttl: Duration) -> Result<(), DirectoryError>;

    /// Removes this node's record.
    ///
    /// # Errors
    /// The directory could not be written.
    async fn withdraw(&self) -> Result<(), DirectoryError>;
}
