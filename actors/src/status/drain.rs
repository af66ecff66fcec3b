//! How far a node's drain is.

use std::time::Duration;

use tokio::time::Instant;

/// How a node ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DrainPlan {
    /// How long requests are still taken after the node has announced its end, so that routers see it first.
    pub delay: Duration,
    /// How long running requests may take after that.
    pub grace: Duration,
}

impl From<Duration> for DrainPlan {
    /// No announcement: only the time for running requests.
    fn from(grace: Duration) -> Self {
        Self {
            delay: Duration::ZERO,
            grace,
        }
    }
}

/// The rest of a drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drain {
    /// Time until new requests are rejected; zero: they are.
    pub rejects_in: Duration,
    /// Time until running requests are cancelled; zero: they are.
    pub cancels_in: Duration,
}

/// A drain that has begun.
#[derive(Clone, Copy, Debug)]
pub(super) struct Begun {
    rejects_at: Option<Instant>,
    cancels_at: Option<Instant>,
    is_rejecting: bool,
}

impl Begun {
    pub(super) fn now(plan: DrainPlan) -> Self {
        let rejects_at = Instant::now().checked_add(plan.delay);
        Self {
            rejects_at,
            cancels_at: rejects_at.and_then(|at| at.checked_add(plan.grace)),
            is_rejecting: plan.delay.is_zero(),
        }
    }

    /// Whether new requests are rejected.
    pub(super) fn is_rejecting(self) -> bool {
        self.is_rejecting
    }

    pub(super) fn rest(&self) -> Drain {
        let until = |at: Option<Instant>| {
            at.map_or(Duration::MAX, |at| {
                at.saturating_duration_since(Instant::now())
            })
        };
        Drain {
            rejects_in: until(self.rejects_at),
            cancels_in: until(self.cancels_at),
        }
    }
}
