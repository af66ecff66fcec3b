//! How a lane ends, as its supervisor finds it.

use thiserror::Error;

use crate::domain::error::{EngineExit, LaunchError};

/// Why a lane failed: the error that its supervisor finds in `ActorFailed`.
#[derive(Debug, Error)]
pub enum LaneFailure {
    /// The engine never came up.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// The engine ended unasked.
    #[error("the worker {0}")]
    Exited(EngineExit),
}

/// Why a lane went of its own accord: the reason that its supervisor finds in `ActorTerminated`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LaneExit {
    /// It had nothing to do for long.
    Idle,
    /// Its engine is to be replaced.
    Recycled,
    /// It is busy for nobody while work waits, and another engine is there sooner.
    Abandoned,
}

impl LaneExit {
    /// Whether another engine shall take its place at once.
    pub fn is_replaced(self) -> bool {
        match self {
            Self::Idle => false,
            Self::Recycled | Self::Abandoned => true,
        }
    }
}

impl LaneExit {
    const ALL: [Self; 3] = [Self::Idle, Self::Recycled, Self::Abandoned];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle for long",
            Self::Recycled => "worn out",
            Self::Abandoned => "busy for nobody",
        }
    }

    /// Reads a reason of `ActorTerminated`.
    pub fn from_reason(reason: Option<&str>) -> Option<Self> {
        let reason = reason?;
        Self::ALL.into_iter().find(|this| this.as_str() == reason)
    }
}
