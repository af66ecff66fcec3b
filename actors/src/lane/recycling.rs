//! When an engine that works has worked enough: native code leaks, a little with every chunk, and a
//! process that ends gives everything back.

use std::fmt;

/// How worn an engine may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecyclingLimits {
    /// Chunks after which it is replaced; `None`: any number.
    pub chunks: Option<u64>,
    /// Resident memory above which it is replaced, in bytes; `None`: any amount.
    pub resident_bytes: Option<u64>,
}

/// Counts what one engine did.
#[derive(Clone, Copy, Debug)]
pub struct RecyclingPolicy {
    limits: RecyclingLimits,
    chunks: u64,
    told: bool,
}

/// The limit that was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitReached {
    /// So many chunks were done.
    Chunks(u64),
    /// So many bytes are resident.
    ResidentBytes(u64),
}

impl fmt::Display for LimitReached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Chunks(chunks) => write!(f, "{chunks} chunks done"),
            Self::ResidentBytes(bytes) => write!(f, "{} MiB resident", bytes >> 20),
        }
    }
}

impl RecyclingPolicy {
    /// Of a new engine.
    pub fn new(limits: RecyclingLimits) -> Self {
        Self {
            limits,
            chunks: 0,
            told: false,
        }
    }

    /// A chunk was done, well or not, and the engine holds so much memory now. Says once when the
    /// engine is to be replaced.
    pub fn chunk_done(&mut self, resident_bytes: Option<u64>) -> Option<LimitReached> {
        self.chunks += 1;
        let by_chunks = (self.limits.chunks)
            .filter(|limit| self.chunks >= *limit)
            .map(|_| LimitReached::Chunks(self.chunks));
        let by_memory = (self.limits.resident_bytes)
            .and_then(|limit| resident_bytes.filter(|bytes| *bytes > limit))
            .map(LimitReached::ResidentBytes);
        let limit_reached = by_chunks.or(by_memory).filter(|_| !self.told);
        self.told |= limit_reached.is_some();
        limit_reached
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_is_worn_out_once_by_chunks_or_by_memory_and_never_without_limits() {
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
}
