//! How a lane ends, as its supervisor sees it.

use thiserror::Error;

use crate::domain::error::{EngineExit, LaunchError};

/// The error of a lane that failed: its supervisor finds it in `ActorFailed`.
#[derive(Debug, Error)]
pub enum LaneFailure {
    /// The engine did not start.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// The engine ended without being asked to.
    #[error("the worker {0}")]
    Exited(EngineExit),
}

/// Why a lane ended by itself: its supervisor finds the reason in `ActorTerminated`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LaneExit {
    /// It was idle for longer than its limit.
    Idle,
    /// Its engine reached a recycling limit.
    Recycled,
    /// It runs a cancelled chunk while other work waits, and a new engine starts sooner than the chunk ends.
    Abandoned,
}

impl LaneExit {
    /// Whether a new engine should replace it immediately.
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
            Self::Idle => "idle",
            Self::Recycled => "recycled",
            Self::Abandoned => "busy with cancelled work",
        }
    }

    /// Parses the reason in `ActorTerminated`; `None`: the lane did not end by itself.
    pub fn from_reason(reason: Option<&str>) -> Option<Self> {
        let reason = reason?;
        Self::ALL.into_iter().find(|this| this.as_str() == reason)
    }
}
