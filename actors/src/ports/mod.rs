//! The seams between the tree and the world: small traits, implemented at the edges of the server
//! and by scripted stand-ins in this crate's tests. Nothing here knows HTTP, whisper, ffmpeg,
//! Redis or NVML.

mod fallback;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use thiserror::Error;

use crate::transcript::{ChunkTranscript, Task};
pub use crate::work_queue::LaneKind;

pub use crate::chunk::{AudioChunk, MAX_CHUNK, SAMPLE_RATE, samples_to_seconds};
pub use fallback::{FallbackError, FallbackNode, FallbackRequest, FallbackText};

// ---------------------------------------------------------------------------------------------
// Audio

/// An upload, or a file of the user's, that shall be transcribed.
#[derive(Clone)]
pub struct AudioSource {
    path: PathBuf,
    /// Whatever must live as long as the file is needed: the guard that removes an upload.
    _guard: Option<Arc<dyn Send + Sync>>,
}

impl AudioSource {
    /// A file that belongs to somebody else and is left alone.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            _guard: None,
        }
    }

    /// A file whose `guard` removes it when the last user of this source is gone.
    pub fn guarded(path: impl Into<PathBuf>, guard: Arc<dyn Send + Sync>) -> Self {
        Self {
            path: path.into(),
            _guard: Some(guard),
        }
    }

    /// Where the bytes are.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl fmt::Debug for AudioSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AudioSource").field(&self.path).finish()
    }
}

/// Why audio could not be decoded. All but [`DecodeError::Unavailable`] are the client's to mend.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum DecodeError {
    /// No bytes, or a header without a single sample.
    #[error("the audio is empty: {0}")]
    Empty(String),
    /// Not audio, or a format that the decoder does not take.
    #[error("the audio could not be decoded: {0}")]
    Undecodable(String),
    /// A container (a video, say) that holds no sound.
    #[error("the file has no audio stream")]
    NoAudioStream,
    /// Longer than the configured limit.
    #[error(
        "the audio is longer than the {limit_seconds} s that this server takes (MAX_AUDIO_SECONDS)"
    )]
    TooLong {
        /// The limit, in seconds.
        limit_seconds: u64,
    },
    /// The decoder gave nothing for too long and was ended.
    #[error("decoding stalled: no output for {seconds} s")]
    Stalled {
        /// How long it was silent.
        seconds: u64,
    },
    /// The server's own trouble: no ffmpeg, no file handles, a disk error.
    #[error("the decoder is not available: {0}")]
    Unavailable(String),
}

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

/// Names one engine incarnation in logs and health: `hot-1`, `hot-2`, `cold-7`, `fallback-1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerId {
    kind: LaneKind,
    word: &'static str,
    name: Arc<str>,
}

impl WorkerId {
    /// The `generation`-th engine of this kind of lane.
    pub fn new(kind: LaneKind, generation: u64) -> Self {
        let word = match kind {
            LaneKind::Hot => "hot",
            LaneKind::Cold => "cold",
        };
        Self::named(kind, word, generation)
    }

    /// The `generation`-th engine of the larger model.
    pub fn of_fallback(generation: u64) -> Self {
        Self::named(LaneKind::Cold, "fallback", generation)
    }

    fn named(kind: LaneKind, word: &'static str, generation: u64) -> Self {
        Self {
            kind,
            word,
            name: format!("{word}-{generation}").into(),
        }
    }

    /// Another engine of the same kind.
    #[must_use]
    pub fn numbered(&self, generation: u64) -> Self {
        Self::named(self.kind, self.word, generation)
    }

    /// The kind of lane that it is for.
    pub fn kind(&self) -> LaneKind {
        self.kind
    }

    /// As in logs.
    pub fn as_str(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

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

/// Why an engine could not be brought up.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum LaunchError {
    /// The model is missing, broken or unknown.
    #[error("the model cannot be loaded: {0}")]
    Model(String),
    /// There is no room for it in the memory of the GPU or of the machine.
    #[error("there is not enough memory for the model: {0}")]
    OutOfMemory(String),
    /// The worker process could not be started or did not behave.
    #[error("the worker could not be started: {0}")]
    Worker(String),
    /// It ended while loading.
    #[error("the worker ended while loading: {0}")]
    Exited(EngineExit),
    /// It said nothing for too long.
    #[error("the worker was not ready within {seconds} s")]
    TimedOut {
        /// The limit that was passed.
        seconds: u64,
    },
}

/// How an engine ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EngineExit {
    /// It was asked to.
    Stopped,
    /// By a signal that code raises on itself: abort, segmentation fault, illegal instruction…
    Crashed {
        /// The signal's name, `SIGABRT`.
        signal: String,
    },
    /// By a signal from outside: the out-of-memory killer, an operator.
    Killed {
        /// The signal's name, `SIGKILL`.
        signal: String,
    },
    /// There was no memory for what it did, on the GPU or in the machine.
    OutOfMemory,
    /// With an exit code, unasked.
    Code(i32),
    /// It sent what it should not, and was ended for it.
    Protocol(String),
    /// It was silent on one chunk for too long, and was ended for it.
    TimedOut,
}

impl EngineExit {
    /// Whether this death speaks against the chunk that was being worked on. A death from outside
    /// says nothing about it.
    pub fn counts_against_chunk(&self) -> bool {
        matches!(self, Self::Crashed { .. } | Self::TimedOut)
    }
}

impl fmt::Display for EngineExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stopped => f.write_str("stopped"),
            Self::Crashed { signal } => write!(f, "crashed with {signal}"),
            Self::Killed { signal } => write!(f, "killed by {signal}"),
            Self::OutOfMemory => f.write_str("ran out of memory"),
            Self::Code(code) => write!(f, "exited with code {code}"),
            Self::Protocol(what) => write!(f, "broke the protocol: {what}"),
            Self::TimedOut => f.write_str("gave no answer in time"),
        }
    }
}

/// Why a chunk got no transcript.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum EngineError {
    /// [`Engine::abort`] was heard.
    #[error("aborted")]
    Aborted,
    /// The engine lives, but could not do this chunk.
    #[error("{0}")]
    Failed(String),
    /// The engine ended.
    #[error("the worker {0}")]
    Exited(EngineExit),
}

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
