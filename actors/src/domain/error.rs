//! Everything that can go wrong with a request, in one typed enum. How each case looks to an HTTP
//! client is the server's business.

use std::time::Duration;

use thiserror::Error;

use crate::ports::{DecodeError, EngineExit, FallbackError};

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
