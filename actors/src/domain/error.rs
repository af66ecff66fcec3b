//! Errors of requests, decoders, engines, fallbacks and translators. The HTTP layer decides how each
//! one looks to a client.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Why a request has no transcript.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum SttError {
    /// The audio is invalid, or the decoder is not available: see the variant.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// No engine is ready: the model is loading, or could not be loaded.
    #[error("no model is loaded: {reason}")]
    NotReady {
        /// The state of the engine, for people.
        reason: String,
        /// When a retry is likely to succeed.
        retry_after: Duration,
    },
    /// The estimated wait exceeds the limit of the queue.
    #[error("too much work is waiting; try again in {} s", retry_after.as_secs())]
    Overloaded {
        /// When the queue is estimated to be short enough.
        retry_after: Duration,
    },
    /// The server is shutting down.
    #[error("the server is shutting down")]
    Draining {
        /// When a restarted server is estimated to be ready.
        retry_after: Duration,
    },
    /// A chunk of this audio crashed two workers. It is not tried on a third one.
    #[error("this audio crashed two workers and is rejected ({last})")]
    Poison {
        /// How the second worker ended.
        last: EngineExit,
    },
    /// Two workers exceeded the time limit for one chunk.
    #[error("two workers exceeded the time limit for one chunk")]
    Timeout,
    /// Workers were killed from outside, repeatedly, while they worked on this request.
    #[error("the worker was lost {deaths} times during this request; the last one {last}")]
    WorkerLost {
        /// The number of workers that were lost.
        deaths: u32,
        /// How the last worker ended.
        last: EngineExit,
    },
    /// The engine is running, but failed to transcribe a chunk, and so did the retry.
    #[error("the engine failed: {0}")]
    Engine(String),
    /// Both this node's model and the fallback failed.
    #[error("{primary}; the fallback failed too: {fallback}")]
    Fallback {
        /// The error of this node's model.
        primary: Box<SttError>,
        /// The error of the fallback.
        fallback: FallbackError,
    },
    /// A fault of the tree itself: an actor ended or did not answer.
    #[error("internal error: {0}")]
    Internal(&'static str),
}

impl SttError {
    /// The error without what another server said, which may contain the text of speech.
    pub fn for_log(&self) -> String {
        match self {
            Self::Fallback { primary, fallback } => {
                let fallback = fallback.for_log();
                format!("{primary}; the fallback failed too: {fallback}")
            }
            _ => self.to_string(),
        }
    }

    /// Whether an engine failed, so that another engine may succeed.
    pub fn is_engines_fault(&self) -> bool {
        matches!(
            self,
            Self::NotReady { .. }
                | Self::Poison { .. }
                | Self::Timeout
                | Self::WorkerLost { .. }
                | Self::Engine(_)
        )
    }
}

/// Why a live session cannot be opened or used.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum LiveError {
    /// As many sessions as this server takes are open.
    #[error("{limit} live sessions are open, which is the limit (MAX_LIVE_SESSIONS)")]
    TooMany {
        /// The limit.
        limit: usize,
    },
    /// The format is not one of audio.
    #[error("the audio format cannot be read: {0}")]
    Format(String),
    /// The server is shutting down.
    #[error("the server is shutting down")]
    Draining,
    /// The session has ended, by itself or by a fault of the tree.
    #[error("the live session has ended")]
    Lost,
}

/// Why audio could not be decoded. All but [`DecodeError::Unavailable`] are client errors.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum DecodeError {
    /// The file has no bytes, or a header and no samples.
    #[error("the audio is empty: {0}")]
    Empty(String),
    /// The file is not audio, or its format is not supported.
    #[error("the audio could not be decoded: {0}")]
    Undecodable(String),
    /// The container (for example a video) has no audio stream.
    #[error("the file has no audio stream")]
    NoAudioStream,
    /// The audio is longer than the configured limit.
    #[error(
        "the audio is longer than the limit of {limit_seconds} s on this server (MAX_AUDIO_SECONDS)"
    )]
    TooLong {
        /// The limit, in seconds.
        limit_seconds: u64,
    },
    /// The decoder had no output for too long and was killed.
    #[error("decoding stalled: no output for {seconds} s")]
    Stalled {
        /// The limit that was exceeded.
        seconds: u64,
    },
    /// A fault of the server: no ffmpeg, no file handles, a disk error.
    #[error("the decoder is not available: {0}")]
    Unavailable(String),
}

/// Why an engine could not be started.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum LaunchError {
    /// The model is missing, corrupt or unknown.
    #[error("the model cannot be loaded: {0}")]
    Model(String),
    /// The GPU or the machine has not enough free memory.
    #[error("there is not enough memory for the model: {0}")]
    OutOfMemory(String),
    /// The worker process could not be started, or broke the protocol.
    #[error("the worker could not be started: {0}")]
    Worker(String),
    /// The worker ended while it loaded the model.
    #[error("the worker ended while loading: {0}")]
    Exited(EngineExit),
    /// The worker was not ready in time.
    #[error("the worker was not ready within {seconds} s")]
    TimedOut {
        /// The limit that was exceeded.
        seconds: u64,
    },
}

/// How an engine ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EngineExit {
    /// The server stopped it.
    Stopped,
    /// A signal that a process causes itself: abort, segmentation fault, illegal instruction.
    Crashed {
        /// The signal's name, for example `SIGABRT`.
        signal: String,
    },
    /// A signal from outside: the out-of-memory killer, an operator.
    Killed {
        /// The signal's name, for example `SIGKILL`.
        signal: String,
    },
    /// An allocation failed on the GPU or in the machine's memory.
    OutOfMemory,
    /// It exited by itself with this code.
    Code(i32),
    /// It sent an invalid message and was killed.
    Protocol(String),
    /// It exceeded the time limit for one chunk and was killed.
    TimedOut,
}

impl EngineExit {
    /// Whether the chunk in work may be the cause, so that the exit counts against it. An exit that was
    /// caused from outside does not count.
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
            Self::TimedOut => f.write_str("did not answer in time"),
        }
    }
}

/// Why an engine did not transcribe a chunk.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum EngineError {
    /// The engine was aborted (`Engine::abort`).
    #[error("aborted")]
    Aborted,
    /// The engine is running, but failed to transcribe this chunk.
    #[error("{0}")]
    Failed(String),
    /// The engine ended.
    #[error("the worker {0}")]
    Exited(EngineExit),
}

/// Why the fallback returned no text.
#[derive(Clone, Debug, Error, PartialEq, Eq, Serialize, Deserialize)]
pub enum FallbackError {
    /// The connection failed or broke.
    #[error("it cannot be reached: {0}")]
    Unreachable(String),
    /// It exceeded the time limit.
    #[error("it did not answer within {seconds} s")]
    TimedOut {
        /// The limit that was exceeded.
        seconds: u64,
    },
    /// It rejected the request.
    #[error("it answered {status}: {message}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The message in its answer.
        message: String,
    },
    /// Its answer does not have the expected form.
    #[error("its answer is invalid: {0}")]
    BadAnswer(String),
    /// The limit of chunks that may wait for it is reached; this one was not sent.
    #[error("too many chunks wait for it")]
    Overloaded,
    /// The fallback model of this node failed.
    #[error("the fallback model failed: {0}")]
    Model(String),
}

impl FallbackError {
    /// The error without what the fallback said, which may contain the text of speech.
    pub fn for_log(&self) -> String {
        match self {
            Self::Refused { status, .. } => format!("it answered {status}"),
            Self::BadAnswer(_) => "its answer is invalid".to_owned(),
            Self::Unreachable(_) | Self::TimedOut { .. } | Self::Overloaded | Self::Model(_) => {
                self.to_string()
            }
        }
    }

    /// The value of the header `X-Error-Type`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "fallback_unreachable",
            Self::TimedOut { .. } => "fallback_timeout",
            Self::Refused { status: 429, .. } => "fallback_rate_limited",
            Self::Refused { .. } => "fallback_refused",
            Self::BadAnswer(_) => "fallback_bad_answer",
            Self::Overloaded => "fallback_overloaded",
            Self::Model(_) => "fallback_model",
        }
    }
}

/// Why a translator gave no translation. The texts go to clients: they contain neither its address
/// nor its key.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum TranslatorError {
    /// The connection failed or broke.
    #[error("it cannot be reached: {0}")]
    Unreachable(String),
    /// It redirects to another server, which must get neither the text nor the key.
    #[error("it answers with a redirect ({status} {phrase}), which is not followed")]
    Redirect {
        /// As in HTTP.
        status: u16,
        /// The standard phrase of the status.
        phrase: &'static str,
    },
    /// It rejected the call: an unsupported language, a wrong key, a rate limit.
    #[error("it answered {status} {phrase}: {reason}")]
    Rejected {
        /// As in HTTP.
        status: u16,
        /// The standard phrase of the status.
        phrase: &'static str,
        /// Its own words, shortened.
        reason: String,
    },
    /// The answer does not follow its documentation.
    #[error("its answer is invalid: {0}")]
    Malformed(&'static str),
}

/// Why a transcript was not translated.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum TranslationError {
    /// The translator failed.
    #[error(transparent)]
    Translator(#[from] TranslatorError),
    /// The time limit was exceeded.
    #[error("it gave no translation within {} s", limit.as_secs_f64())]
    TimedOut {
        /// The limit for one transcript.
        limit: Duration,
    },
    /// The call panicked.
    #[error("the call failed because of a bug in this server")]
    Panicked,
    /// The actor that makes the calls ended or did not answer.
    #[error("the call was lost: {0}")]
    Lost(&'static str),
}

impl TranslationError {
    /// The error without what the translator said, which may contain the text of speech.
    pub fn for_log(&self) -> String {
        match self {
            Self::Translator(TranslatorError::Rejected { status, phrase, .. }) => {
                format!("it answered {status} {phrase}")
            }
            Self::Translator(_) | Self::TimedOut { .. } | Self::Panicked | Self::Lost(_) => {
                self.to_string()
            }
        }
    }

    /// Whether the same call would fail again, so that a retry is useless.
    pub fn is_deterministic(&self) -> bool {
        const REQUEST_TIMEOUT: u16 = 408;
        const TOO_MANY_REQUESTS: u16 = 429;
        match self {
            // The same text would take as long again, and a retry would also transcribe again.
            Self::TimedOut { .. } | Self::Translator(TranslatorError::Redirect { .. }) => true,
            Self::Translator(TranslatorError::Rejected { status, .. }) => {
                (400..500).contains(status)
                    && ![REQUEST_TIMEOUT, TOO_MANY_REQUESTS].contains(status)
            }
            Self::Translator(TranslatorError::Unreachable(_) | TranslatorError::Malformed(_))
            | Self::Panicked
            | Self::Lost(_) => false,
        }
    }
}
