//! The finished work that a request takes over from an earlier, equal request, and leaves for a later one.

use std::time::Duration;

use crate::domain::chunk::AudioChunk;
use crate::domain::finished::FinishedWork;
use crate::domain::transcript::ChunkDone;

/// The finished work that a request takes over from an earlier, equal request, and leaves for a later one.
#[derive(Debug)]
pub(crate) struct Resume {
    /// Whether finished work is kept: a later request can be recognised as equal.
    is_kept: bool,
    /// Work of an earlier, equal request that was not taken over yet.
    before: FinishedWork,
    /// Work that this request finished.
    finished: FinishedWork,
    /// Number of chunks that were cut.
    cuts: usize,
}

impl Resume {
    /// `is_kept`: whether a later request can be recognised as equal. `before`: work of an earlier one.
    pub(crate) fn new(is_kept: bool, before: FinishedWork) -> Self {
        Self {
            is_kept,
            before,
            finished: FinishedWork::default(),
            cuts: 0,
        }
    }

    /// Whether finished work is kept for a later request.
    pub(crate) fn is_kept(&self) -> bool {
        self.is_kept
    }

    /// Removes and returns the earlier request's text of a chunk with exactly this audio.
    pub(crate) fn take(&mut self, chunk: &AudioChunk) -> Option<ChunkDone> {
        self.before.take(chunk)
    }

    /// Records the target length of the next chunk.
    pub(crate) fn record_cut(&mut self, target: Duration) {
        self.cuts += 1;
        if self.is_kept {
            self.finished.cut(target);
        }
    }

    /// Number of chunks that were cut.
    pub(crate) fn cuts(&self) -> usize {
        self.cuts
    }

    /// Records an engine's result for a chunk.
    pub(crate) fn record_done(&mut self, chunk: &AudioChunk, done: &ChunkDone) {
        if self.is_kept {
            self.finished.add(chunk, done.clone());
        }
    }

    /// Takes all finished work. `language`: the language that was decided for the request.
    pub(crate) fn take_finished(&mut self, language: Option<&str>) -> FinishedWork {
        let before = std::mem::take(&mut self.before);
        std::mem::take(&mut self.finished).kept(before, language)
    }
}
