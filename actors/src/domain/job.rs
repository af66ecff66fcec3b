//! A job with its options, and the events of its transcription.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::domain::chunk::{AudioChunk, AudioSource, MAX_CHUNK};
use crate::domain::finished::{FinishedPart, FinishedWork};
use crate::domain::trace::Trace;
use crate::domain::transcript::{Route, Segment, Task, Transcript};

/// The sender of a request, for fairness: the name of an API key, or a network address.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Client(Arc<str>);

impl Client {
    /// Clients with equal names are the same client.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self(name.into())
    }
}

/// The priority of a client's work. It moves a request forward or back in the queue; ageing keeps other
/// requests from starving.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// After the others.
    Low,
    /// The default.
    #[default]
    Normal,
    /// Before the others.
    High,
}

/// When a request's chunks get a lane. Priority and length decide among requests of the same urgency.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// After all other work, and only until other work waits for the lane: the result may never be needed.
    Spare,
    /// After live and queued work. A chunk that has waited for [`crate::queue::waiting::BACKGROUND_PATIENCE`] comes
    /// before queued work.
    Background,
    /// In the order of the queue.
    #[default]
    Queued,
    /// Before all other work: the end of a live utterance.
    Live,
}

impl Urgency {
    /// All variants, the most urgent first.
    pub const ALL: [Self; 4] = [Self::Live, Self::Queued, Self::Background, Self::Spare];
}

/// The kind of request that a chunk belongs to, for people who look at the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkKind {
    /// Live speech.
    Live,
    /// A request of one chunk.
    Short,
    /// A longer request.
    Long,
    /// A job, whose client does not wait for it.
    Job,
    /// Work that may never be needed.
    Spare,
}

impl WorkKind {
    /// The kind of a request of this urgency; `is_long`: it is longer than one chunk.
    pub fn of(urgency: Urgency, is_long: bool) -> Self {
        match urgency {
            Urgency::Live => Self::Live,
            Urgency::Queued if is_long => Self::Long,
            Urgency::Queued => Self::Short,
            Urgency::Background => Self::Job,
            Urgency::Spare => Self::Spare,
        }
    }

    /// The kind as a word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Short => "short",
            Self::Long => "long",
            Self::Job => "job",
            Self::Spare => "spare",
        }
    }
}

/// How to transcribe the audio.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Options {
    /// Transcribe or translate to English.
    pub task: Task,
    /// ISO 639-1 code; `None`: detect the language.
    pub language: Option<String>,
    /// The languages among which the detection chooses, as ISO 639-1 codes; empty: all.
    pub languages: Vec<String>,
    /// Text that the model treats as the text before the audio, for every chunk.
    pub prompt: Option<String>,
    /// 0: greedy, and again at rising temperatures if the text is bad, as whisper does; otherwise this
    /// temperature only. Within 0–1.
    pub temperature: f32,
    /// Do not transcribe audio without speech.
    pub voice_activity: bool,
    /// Remove hallucinated text ([`crate::text::hallucination`]).
    pub hallucination_guard: bool,
    /// The audio may contain more than one language: unless `language` is given, detect the language
    /// of each chunk. Otherwise detect one language and use it for all chunks.
    pub multilingual: bool,
}

impl Default for Options {
    /// Transcribe, detect one language, skip silence and remove hallucinated text.
    fn default() -> Self {
        Self {
            task: Task::default(),
            language: None,
            languages: Vec::new(),
            prompt: None,
            temperature: 0.0,
            voice_activity: true,
            hallucination_guard: true,
            multilingual: false,
        }
    }
}

/// Two requests with equal identity and equal options share one transcription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Requests share a transcription only within one owner: the name of an API key, or one name for
    /// all requests if the server has no keys.
    pub owner: Client,
    /// SHA-256 of the uploaded file.
    pub digest: [u8; 32],
}

/// The audio of a job.
#[derive(Clone, Debug)]
pub enum JobAudio {
    /// A file to decode.
    File(AudioSource),
    /// Decoded speech that is one chunk: a live utterance.
    Decoded(AudioChunk),
}

impl From<AudioSource> for JobAudio {
    fn from(file: AudioSource) -> Self {
        Self::File(file)
    }
}

/// A request to transcribe audio.
#[derive(Clone, Debug)]
pub struct Job {
    /// The request id from the client or the server, for logs.
    pub request_id: Arc<str>,
    /// The audio.
    pub audio: JobAudio,
    /// How to transcribe it.
    pub options: Options,
    /// For finding an equal request; `None`: transcribe without looking for one.
    pub identity: Option<Identity>,
    /// Whether doubtful texts may be escalated to the fallback.
    pub escalates: bool,
    /// Whether the client receives text as it is made: the first chunks are shorter then.
    pub streamed: bool,
    /// When its chunks get a lane.
    pub urgency: Urgency,
    /// Chunks that an earlier run of the same work finished. With `Some`, events also report the chunks that this
    /// run finishes; `None`: they do not.
    pub finished: Option<FinishedWork>,
    /// The request's trace.
    pub trace: Trace,
}

/// An event of a running transcription, for the caller that submitted it.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The language, forced or detected; once, before the first segment.
    Language {
        /// ISO 639-1 code.
        code: String,
        /// Its probability, if it was detected.
        probability: Option<f32>,
    },
    /// The lanes that transcribed the first chunk; once, before the first segment.
    Route(Route),
    /// A finished segment, in order.
    Segment(Segment),
    /// The progress so far.
    Progress(Progress),
    /// Work that a later run of the same job need not do again; only with [`Job::finished`].
    Finished(FinishedPart),
    /// The result; the last event.
    Done(Transcript),
}

/// The progress of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Number of finished chunks.
    pub chunks_done: usize,
    /// Seconds of audio that are finished, silence included.
    pub seconds_done: f64,
    /// Length of the audio in seconds, as far as it is known: what the container states, or what was
    /// decoded so far, whichever is longer.
    pub seconds_known: f64,
}

/// The values that decide the order of a request's chunks in the queue.
#[derive(Clone, Debug, PartialEq)]
pub struct SchedulingKey {
    /// The sender.
    pub client: Client,
    /// The sender's priority.
    pub priority: Priority,
    /// Decides before anything else.
    pub urgency: Urgency,
    /// Length of the audio in seconds, as far as it is known.
    pub total_seconds: f64,
    /// Seconds of audio that are not transcribed yet.
    pub remaining_seconds: f64,
}

impl SchedulingKey {
    /// Whether the request is longer than one chunk.
    pub fn is_long(&self) -> bool {
        is_long(self.total_seconds)
    }
}

/// Whether audio of this length is longer than one chunk.
pub fn is_long(total_seconds: f64) -> bool {
    total_seconds > MAX_CHUNK.as_secs_f64()
}
