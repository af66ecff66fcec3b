//! How much memory a worker needs, measured on running workers, and whether one more fits.

use crate::ports::{MemoryKind, MemorySample};
use crate::status::snapshot::MemorySnapshot;

/// Safety factor on the measured need of a worker.
const HEADROOM: f64 = 1.2;
/// Weight of a lower measurement, per sample: the need halves in about an hour. A higher measurement counts
/// immediately: a worker reaches its peak only during a chunk, and holds much less while idle.
const FORGETTING: f64 = 0.0002;
/// A need that is only inferred from free memory is at least the configured minimum divided by this.
const LEAST_INFERRED: u64 = 2;

/// Memory that workers need, and memory that is free.
#[derive(Clone, Debug)]
pub struct MemoryLedger {
    kind: MemoryKind,
    /// Need of a worker until one was measured, in bytes; 0 on a GPU: memory is not checked.
    minimum: u64,
    measured: Option<f64>,
    last: Option<MemorySample>,
    engines_at_last: usize,
    /// Most free memory since the number of engines changed: an engine allocates step by step and counts as
    /// ready only at the end.
    most_free: u64,
}

impl MemoryLedger {
    /// A ledger without samples. `minimum` is `MIN_COLD_VRAM_GB` in bytes and applies to GPUs only.
    pub fn new(kind: MemoryKind, minimum: u64) -> Self {
        Self {
            kind,
            minimum,
            measured: None,
            last: None,
            engines_at_last: 0,
            most_free: 0,
        }
    }

    /// Adds a sample that was taken while `engines` engines were ready.
    pub fn observe(&mut self, sample: MemorySample, engines: usize) {
        let largest = sample.used_by_process.iter().map(|(_, used)| *used).max();
        let seen = largest.or_else(|| self.drop_in_free(&sample, engines));
        if let Some(seen) = seen.filter(|seen| *seen > 0) {
            let seen = seen as f64;
            self.measured = Some(match self.measured {
                Some(old) if old > seen => old + FORGETTING * (seen - old),
                Some(_) | None => seen,
            });
        }
        self.most_free = if engines == self.engines_at_last {
            self.most_free.max(sample.free)
        } else {
            sample.free
        };
        self.engines_at_last = engines;
        self.last = Some(sample);
    }

    /// Records that sampling failed: free memory is unknown until the next sample.
    pub fn lose_sight(&mut self) {
        self.last = None;
    }

    /// The need inferred where a driver does not report memory per process (WSL, containers): how much free
    /// memory fell while exactly one engine became ready. Other programs distort this.
    fn drop_in_free(&self, sample: &MemorySample, engines: usize) -> Option<u64> {
        self.last.as_ref()?;
        let one_more = engines == self.engines_at_last + 1;
        let fell = self.most_free.checked_sub(sample.free)?;
        one_more.then(|| fell.max(self.minimum / LEAST_INFERRED))
    }

    /// The kind of memory.
    pub fn kind(&self) -> MemoryKind {
        self.kind
    }

    /// Free memory in bytes; `None`: unknown.
    pub fn free(&self) -> Option<u64> {
        self.last.as_ref().map(|sample| sample.free)
    }

    /// Total memory of the GPU or the machine, in bytes.
    pub fn total(&self) -> Option<u64> {
        self.last.as_ref().map(|sample| sample.total)
    }

    /// Recent utilization of the GPU, in percent.
    pub fn utilization_percent(&self) -> Option<u32> {
        self.last.as_ref()?.utilization_percent
    }

    /// Measured need of one worker, in bytes.
    pub fn measured(&self) -> Option<u64> {
        self.measured.map(|bytes| bytes as u64)
    }

    /// Memory that must be free for one more worker, in bytes: the measured need with a safety factor, or the
    /// configured minimum until a worker was measured.
    pub fn need(&self) -> Option<u64> {
        match (self.measured, self.kind) {
            (Some(measured), _) => Some((measured * HEADROOM) as u64),
            (None, MemoryKind::Vram) => Some(self.minimum),
            (None, MemoryKind::Host) => None,
        }
    }

    /// Whether one more worker fits. If free memory or need is unknown, the answer is yes: a worker that does not
    /// fit fails while loading, and that limits the pool.
    pub fn fits_one_more(&self) -> bool {
        if self.kind == MemoryKind::Vram && self.minimum == 0 {
            return true;
        }
        match (self.free(), self.need()) {
            (Some(free), Some(need)) => free >= need,
            (None, _) | (_, None) => true,
        }
    }

    /// The current numbers.
    pub fn snapshot(&self) -> MemorySnapshot {
        MemorySnapshot {
            kind: self.kind,
            free_bytes: self.free(),
            total_bytes: self.total(),
            utilization_percent: self.utilization_percent(),
            worker_bytes: self.measured(),
            need_bytes: self.need(),
            fits_one_more: self.fits_one_more(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn sample(free: u64, used: &[u64]) -> MemorySample {
        MemorySample {
            free,
            utilization_percent: None,
            total: 24 * GIB,
            used_by_process: (1..).zip(used.iter().copied()).collect(),
        }
    }

    #[test]
    fn the_minimum_counts_until_a_worker_was_measured() {
        let mut memory = MemoryLedger::new(MemoryKind::Vram, 4 * GIB);
        assert!(
            memory.fits_one_more(),
            "unknown memory does not stop a start"
        );
        memory.observe(sample(3 * GIB, &[]), 0);
        assert!(!memory.fits_one_more());
        memory.observe(sample(3 * GIB, &[2 * GIB]), 1);
        assert_eq!(memory.measured(), Some(2 * GIB));
        assert!(memory.fits_one_more(), "2.4 GiB are needed");
        memory.observe(sample(2 * GIB, &[2 * GIB]), 1);
        assert!(!memory.fits_one_more());
    }

    #[test]
    fn zero_switches_the_check_off_on_a_gpu() {
        let mut memory = MemoryLedger::new(MemoryKind::Vram, 0);
        memory.observe(sample(0, &[GIB]), 1);
        assert!(memory.fits_one_more());
    }

    #[test]
    fn a_peak_counts_at_once_and_is_forgotten_slowly() {
        let mut memory = MemoryLedger::new(MemoryKind::Host, 0);
        memory.observe(sample(9 * GIB, &[GIB]), 1);
        memory.observe(sample(9 * GIB, &[GIB, 3 * GIB]), 2);
        assert_eq!(memory.measured(), Some(3 * GIB));
        memory.observe(sample(9 * GIB, &[GIB, GIB]), 2);
        let now = memory.measured().expect("measured");
        assert!(now > 29 * GIB / 10 && now < 3 * GIB);
        // An idle hour, in which the engine holds only its weights.
        for _ in 0..3600 {
            memory.observe(sample(9 * GIB, &[GIB, GIB]), 2);
        }
        assert!(memory.measured() > Some(19 * GIB / 10));
    }

    #[test]
    fn without_memory_per_process_the_need_is_inferred_from_free_memory() {
        let mut memory = MemoryLedger::new(MemoryKind::Vram, 4 * GIB);
        memory.observe(sample(10 * GIB, &[]), 0);
        // It loads step by step and is ready at the end.
        memory.observe(sample(8 * GIB, &[]), 0);
        memory.observe(sample(7 * GIB, &[]), 1);
        assert_eq!(memory.measured(), Some(3 * GIB));
        // Memory of another program: no engine became ready meanwhile.
        memory.observe(sample(2 * GIB, &[]), 1);
        assert_eq!(memory.measured(), Some(3 * GIB));
        // Another engine became ready, but free memory hardly fell: the minimum bounds the estimate.
        let mut doubtful = MemoryLedger::new(MemoryKind::Vram, 4 * GIB);
        doubtful.observe(sample(9 * GIB, &[]), 0);
        doubtful.observe(sample(9 * GIB, &[]), 1);
        assert_eq!(doubtful.measured(), Some(2 * GIB));
        memory.lose_sight();
        assert_eq!(memory.free(), None);
        assert!(memory.fits_one_more());
    }
}
