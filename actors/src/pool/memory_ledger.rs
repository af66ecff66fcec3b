//! What a worker needs of memory, learned from the workers that run, and whether one more fits.

use crate::ports::{MemoryKind, MemorySample};
use crate::status::snapshot::MemorySnapshot;

/// Room for what a worker takes beyond what was seen so far.
const HEADROOM: f64 = 1.2;
/// How fast a need that is not seen any more is forgotten, per sample: by half in about an hour. A
/// higher one counts at once: a worker holds its peak for the length of a chunk only, and much less
/// while it idles.
const FORGETTING: f64 = 0.0002;
/// What is only inferred from free memory is not believed below this part of the configured
/// minimum.
const LEAST_INFERRED: u64 = 2;

/// How much memory workers need and how much there is.
#[derive(Clone, Debug)]
pub struct MemoryLedger {
    kind: MemoryKind,
    /// Needed until something was measured; 0 on a GPU: nothing is ever checked.
    minimum: u64,
    measured: Option<f64>,
    last: Option<MemorySample>,
    engines_at_last: usize,
    /// The most that was free while there were so many engines: an engine takes its memory step by
    /// step and counts as up in the end.
    most_free: u64,
}

impl MemoryLedger {
    /// Nothing seen yet. `minimum` is `MIN_COLD_VRAM_GB` in bytes; it speaks of GPUs only.
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

    /// Takes a sample in, at a moment when `engines` engines are up.
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

    /// No sample could be taken: what is free is unknown from now on.
    pub fn lose_sight(&mut self) {
        self.last = None;
    }

    /// Where a driver does not tell what a process holds (WSL, containers): what free memory fell
    /// by while exactly one engine came up. Other programs blur this.
    fn drop_in_free(&self, sample: &MemorySample, engines: usize) -> Option<u64> {
        self.last.as_ref()?;
        let one_more = engines == self.engines_at_last + 1;
        let fell = self.most_free.checked_sub(sample.free)?;
        one_more.then(|| fell.max(self.minimum / LEAST_INFERRED))
    }

    /// Which memory this is about.
    pub fn kind(&self) -> MemoryKind {
        self.kind
    }

    /// Free, in bytes; `None` while it is unknown.
    pub fn free(&self) -> Option<u64> {
        self.last.as_ref().map(|sample| sample.free)
    }

    /// Of the device or the machine, in bytes.
    pub fn total(&self) -> Option<u64> {
        self.last.as_ref().map(|sample| sample.total)
    }

    /// How busy the GPU was lately, in percent.
    pub fn utilization_percent(&self) -> Option<u32> {
        self.last.as_ref()?.utilization_percent
    }

    /// What one worker holds, rolling, in bytes.
    pub fn measured(&self) -> Option<u64> {
        self.measured.map(|bytes| bytes as u64)
    }

    /// What must be free for one more worker, in bytes: the measured use and some room, or the
    /// configured minimum until something was measured.
    pub fn need(&self) -> Option<u64> {
        match (self.measured, self.kind) {
            (Some(measured), _) => Some((measured * HEADROOM) as u64),
            (None, MemoryKind::Vram) => Some(self.minimum),
            (None, MemoryKind::Host) => None,
        }
    }

    /// Whether one more worker fits. What is unknown is tried: a worker that does not fit fails at
    /// its load, and the pool learns from that.
    pub fn fits_one_more(&self) -> bool {
        if self.kind == MemoryKind::Vram && self.minimum == 0 {
            return true;
        }
        match (self.free(), self.need()) {
            (Some(free), Some(need)) => free >= need,
            (None, _) | (_, None) => true,
        }
    }

    /// What is known of the memory now.
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
        assert!(memory.fits_one_more(), "what is unknown is tried");
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
        // An hour of idling, in which the engine holds its weights only.
        for _ in 0..3600 {
            memory.observe(sample(9 * GIB, &[GIB, GIB]), 2);
        }
        assert!(memory.measured() > Some(19 * GIB / 10));
    }

    #[test]
    fn without_a_word_on_processes_the_fall_of_free_memory_tells() {
        let mut memory = MemoryLedger::new(MemoryKind::Vram, 4 * GIB);
        memory.observe(sample(10 * GIB, &[]), 0);
        // It loads, step by step, and is up in the end.
        memory.observe(sample(8 * GIB, &[]), 0);
        memory.observe(sample(7 * GIB, &[]), 1);
        assert_eq!(memory.measured(), Some(3 * GIB));
        // Somebody else's memory: no engine came up meanwhile.
        memory.observe(sample(2 * GIB, &[]), 1);
        assert_eq!(memory.measured(), Some(3 * GIB));
        // Another engine, and next to nothing is missing: that is not believed.
        let mut doubtful = MemoryLedger::new(MemoryKind::Vram, 4 * GIB);
        doubtful.observe(sample(9 * GIB, &[]), 0);
        doubtful.observe(sample(9 * GIB, &[]), 1);
        assert_eq!(doubtful.measured(), Some(2 * GIB));
        memory.lose_sight();
        assert_eq!(memory.free(), None);
        assert!(memory.fits_one_more());
    }
}
