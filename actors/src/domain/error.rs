//! Everything that can go wrong with a request, in one typed enum. How each case looks to an HTTP
//! client is the server's business.

use std::fmt;
use std::time::Duration;

use thiserror::Error;

/// Why a request has no transcript.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum SttError {
    /// The audio is at fault, or the decoder is not there: see the variant.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// No engine can work yet: the model is loading, or could not be loaded.
    #[error("no model is loaded: {reason}")]
    NotReady {
        /// What is going on, for people.
        reason: String,
        /// When trying again makes sense.
        retry_after: Duration,
    },
    /// More work is waiting than the queue takes.
    #[error("too much work is waiting; try again in {} s", retry_after.as_secs())]
    Overloaded {
        /// When enough of it will be done.
        retry_after: Duration,
    },
    /// The server is shutting down.
    #[error("the server is shutting down")]
    Draining {
        /// When another one may be up in its place.
        retry_after: Duration,
    },
    /// A chunk of this audio crashed two workers; it will not get a third.
    #[error("this audio crashed two workers and is refused ({last})")]
    Poison {
        /// The second death.
        last: EngineExit,
    },
    /// Two workers gave no answer in time for one chunk.
    #[error("the workers gave no answer in time, twice")]
    Timeout,
    /// Workers kept being ended from outside while they worked on this.
    #[error("the worker was lost {deaths} times while working on this; the last one {last}")]
    WorkerLost {
        /// How often.
        deaths: u32,
        /// The last death.
        last: EngineExit,
    },
    /// The engine lives, but could not do a chunk, and again not on the retry.
    #[error("the engine failed: {0}")]
    Engine(String),
    /// This node could not do it, and the larger model could not either.
    #[error("{primary}; and the fallback failed: {fallback}")]
    Fallback {
        /// What went wrong here.
        primary: Box<SttError>,
        /// What went wrong there.
        fallback: FallbackError,
    },
    /// A fault of the tree itself: an actor that is gone or gave no answer.
    #[error("internal error: {0}")]
    Internal(&'static str),
}

impl SttError {
    /// Whether an engine is to blame, so that another one may do better.
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
    /// The engine was asked to abort.
    #[error("aborted")]
    Aborted,
    /// The engine lives, but could not do this chunk.
    #[error("{0}")]
    Failed(String),
    /// The engine ended.
    #[error("the worker {0}")]
    Exited(EngineExit),
}

/// Why the larger model gave no text.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum FallbackError {
    /// Nobody is there.
    #[error("it cannot be reached: {0}")]
    Unreachable(String),
    /// It took too long.
    #[error("it gave no answer within {seconds} s")]
    TimedOut {
        /// The limit that was passed.
        seconds: u64,
    },
    /// It did not want to.
    #[error("it answered {status}: {message}")]
    Refused {
        /// As in HTTP.
        status: u16,
        /// Its own words.
        message: String,
    },
    /// It answered, and not as it should.
    #[error("its answer makes no sense: {0}")]
    BadAnswer(String),
    /// So many pieces of audio are there already that this one was not sent.
    #[error("too many pieces of audio wait for it")]
    Overloaded,
    /// The model of this node could not do it.
    #[error("the larger model failed: {0}")]
    Model(String),
}

impl FallbackError {
    /// As in the header `X-Error-Type`.
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
    #[error("it was not done within {} s", limit.as_secs_f64())]
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
