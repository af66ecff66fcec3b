//! When a healthy engine is replaced: native code leaks a little with every chunk, and a process that ends
//! releases all of it.

use std::fmt;
use std::time::Duration;

use crate::status::cost::Cost;

/// When an engine is replaced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecyclingLimits {
    /// Number of chunks after which it is replaced; `None`: unlimited.
    pub chunks: Option<u64>,
    /// Resident memory in bytes above which it is replaced; `None`: unlimited.
    pub resident_bytes: Option<u64>,
}

/// Applies the limits to one engine.
#[derive(Clone, Copy, Debug)]
pub struct RecyclingPolicy {
    limits: RecyclingLimits,
    chunks: u64,
    reported: bool,
}

/// The limit that was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitReached {
    /// The number of chunks that the engine processed.
    Chunks(u64),
    /// The resident memory of the engine, in bytes.
    ResidentBytes(u64),
}

impl fmt::Display for LimitReached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Chunks(chunks) => write!(f, "{chunks} chunks processed"),
            Self::ResidentBytes(bytes) => write!(f, "{} MiB resident", bytes >> 20),
        }
    }
}

impl RecyclingPolicy {
    /// The policy for a new engine.
    pub fn new(limits: RecyclingLimits) -> Self {
        Self {
            limits,
            chunks: 0,
            reported: false,
        }
    }

    /// Counts a chunk, whether it succeeded or not. `resident_bytes`: the engine's memory now. Returns the limit
    /// that is reached, once.
    pub fn chunk_done(&mut self, resident_bytes: Option<u64>) -> Option<LimitReached> {
        self.chunks += 1;
        let by_chunks = (self.limits.chunks)
            .filter(|limit| self.chunks >= *limit)
            .map(|_| LimitReached::Chunks(self.chunks));
        let by_memory = (self.limits.resident_bytes)
            .and_then(|limit| resident_bytes.filter(|bytes| *bytes > limit))
            .map(LimitReached::ResidentBytes);
        let limit_reached = by_chunks.or(by_memory).filter(|_| !self.reported);
        self.reported |= limit_reached.is_some();
        limit_reached
    }
}

/// Whether a new engine is ready before this one notices an abort. The encoder pass is the fixed part of a
/// chunk's cost and comes first. A start may take half as long again as usual.
pub(super) fn new_engine_is_sooner(
    cost: Option<Cost>,
    start: Option<Duration>,
    worked: Duration,
) -> bool {
    let (Some(cost), Some(start)) = (cost, start) else {
        return false;
    };
    let rest_of_pass = cost.fixed - worked.as_secs_f64();
    rest_of_pass > 1.5 * start.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_of_chunks_or_memory_is_reported_once_and_none_without_limits() {
        let limits = RecyclingLimits {
            chunks: Some(2),
            resident_bytes: Some(100),
        };
        let mut by_chunks = RecyclingPolicy::new(limits);
        let told: Vec<_> = (0..4).map(|_| by_chunks.chunk_done(Some(50))).collect();
        assert_eq!(told, [None, Some(LimitReached::Chunks(2)), None, None]);
        let mut by_memory = RecyclingPolicy::new(limits);
        assert_eq!(
            by_memory.chunk_done(Some(101)),
            Some(LimitReached::ResidentBytes(101))
        );
        let mut unlimited = RecyclingPolicy::new(RecyclingLimits::default());
        assert!((0..1000).all(|_| unlimited.chunk_done(Some(u64::MAX)).is_none()));
    }

    #[test]
    fn a_new_engine_is_sooner_only_if_its_start_ends_before_the_encoder_pass() {
        let cost = Some(Cost {
            fixed: 10.0,
            slope: 0.1,
        });
        let seconds = Duration::from_secs;
        assert!(new_engine_is_sooner(cost, Some(seconds(2)), seconds(6)));
        assert!(!new_engine_is_sooner(cost, Some(seconds(2)), seconds(8)));
        assert!(!new_engine_is_sooner(cost, Some(seconds(7)), seconds(0)));
        assert!(!new_engine_is_sooner(cost, None, seconds(0)));
        assert!(!new_engine_is_sooner(None, Some(seconds(2)), seconds(0)));
    }
}
