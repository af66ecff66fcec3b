//! What goes in: a job with its options; and the events that come back while it runs.

use std::sync::Arc;

use crate::domain::chunk::{AudioSource, MAX_CHUNK};
use crate::domain::transcript::{Route, Segment, Task, Transcript};

/// Who sent a request, for fairness: a key's name, or the address that it came from.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Client(Arc<str>);

impl Client {
    /// Equal names are one client.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self(name.into())
    }
}

/// How urgent a client's work is. It shifts a request's turn; it never keeps others out for good.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// After others.
    Low,
    /// As everybody's.
    #[default]
    Normal,
    /// Before others.
    High,
}

/// How the audio is to be transcribed.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// Transcribe or translate to English.
    pub task: Task,
    /// ISO 639-1; `None`: detect.
    pub language: Option<String>,
    /// Text that the model takes as what came before, given to every chunk.
    pub prompt: Option<String>,
    /// 0: greedy with whisper's temperature ladder; else this temperature alone. Within 0–1.
    pub temperature: f32,
    /// Leave out what does not sound like speech.
    pub voice_activity: bool,
    /// Take out text that whisper made up ([`crate::text::hallucination`]).
    pub hallucination_guard: bool,
    /// More than one language may be spoken: each chunk's is detected on its own, where none is
    /// given. Otherwise one is detected and held.
    pub multilingual: bool,
}

impl Default for Options {
    /// Transcribe, in whatever one language is spoken, with all that keeps silence silent.
    fn default() -> Self {
        Self {
            task: Task::default(),
            language: None,
            prompt: None,
            temperature: 0.0,
            voice_activity: true,
            hallucination_guard: true,
            multilingual: false,
        }
    }
}

/// What makes two requests the same, besides their options: whose they are, and their audio.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Whoever may hear what the other hears: a key's name, or one name for all where there are no
    /// keys.
    pub owner: Client,
    /// SHA-256 of the audio as it was sent.
    pub digest: [u8; 32],
}

/// One request.
#[derive(Clone, Debug)]
pub struct Job {
    /// The client's or our own request id, for logs.
    pub request_id: Arc<str>,
    /// The audio.
    pub source: AudioSource,
    /// How.
    pub options: Options,
    /// By which it is known if it is sent again; `None`: it is not looked for.
    pub identity: Option<Identity>,
    /// What this node's model is not trusted with may go to a larger one.
    pub escalates: bool,
    /// Somebody reads along: the first text shall come soon, in shorter chunks.
    pub streamed: bool,
}

/// What a running transcription tells whoever submitted it.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The language, forced or detected; once, before the first segment.
    Language {
        /// ISO 639-1.
        code: String,
        /// Where it was detected.
        probability: Option<f32>,
    },
    /// The lanes that did the first chunk; once, before the first segment.
    Route(Route),
    /// A finished segment, in order.
    Segment(Segment),
    /// How far it is.
    Progress(Progress),
    /// The end; nothing follows.
    Done(Transcript),
}

/// How much of a request is done.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Progress {
    /// Chunks with a result.
    pub chunks_done: usize,
    /// Seconds of audio with a result, those of silence among them.
    pub seconds_done: f64,
    /// Seconds of audio known of: the container's claim, or what was decoded so far.
    pub seconds_known: f64,
}

/// What the order of a request's work depends on.
#[derive(Clone, Debug, PartialEq)]
pub struct SchedulingKey {
    /// Whose it is.
    pub client: Client,
    /// How urgent that client's work is.
    pub priority: Priority,
    /// Seconds of audio, as far as they are known.
    pub total_seconds: f64,
    /// Those that are not done yet.
    pub remaining_seconds: f64,
}

impl SchedulingKey {
    /// Whether it is more than one chunk.
    pub fn is_long(&self) -> bool {
        is_long(self.total_seconds)
    }
}

/// Whether so much audio is more than one chunk.
pub fn is_long(total_seconds: f64) -> bool {
    total_seconds > MAX_CHUNK.as_secs_f64()
}
