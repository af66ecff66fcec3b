//! The finished part of a request whose client disconnected: chunks with their texts, so that an equal
//! request later resumes there.

use std::time::Duration;

use crate::domain::chunk::AudioChunk;
use crate::domain::transcript::ChunkDone;

/// The finished part of a request.
#[derive(Clone, Debug, Default)]
pub struct FinishedWork {
    /// The target lengths of the chunks, by number: with them the audio is cut in the same places again.
    targets: Vec<Duration>,
    /// ISO 639-1 code of the language that was decided for the request.
    language: Option<String>,
    chunks: Vec<(AudioChunk, ChunkDone)>,
}

impl FinishedWork {
    /// Whether no chunk is finished.
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// Number of finished chunks and parts of chunks.
    pub fn len(&self) -> usize {
        self.chunks.len()
    }

    /// The target lengths of the chunks, by number.
    pub fn targets(&self) -> &[Duration] {
        &self.targets
    }

    /// The language that was decided; `None` if it was given or is still open.
    pub fn language(&self) -> Option<&str> {
        self.language.as_deref()
    }

    /// Number of tokens in its texts, as a measure of the memory that it uses.
    pub fn tokens(&self) -> usize {
        let segments = (self.chunks.iter()).flat_map(|(_, done)| &done.transcript.segments);
        segments.map(|segment| segment.tokens.len()).sum()
    }

    /// Records the target length of the next chunk.
    pub fn cut(&mut self, target: Duration) {
        self.targets.push(target);
    }

    /// Records a chunk's text, as the engine returned it.
    pub fn add(&mut self, chunk: &AudioChunk, done: ChunkDone) {
        self.chunks.push((chunk.clone().without_audio(), done));
    }

    /// The work to keep: adds the chunks in `before` that this request did not reach, and the language
    /// that was decided.
    #[must_use]
    pub fn kept(mut self, before: Self, language: Option<&str>) -> Self {
        let met = self.targets.len();
        self.targets.extend(before.targets.into_iter().skip(met));
        self.chunks.extend(before.chunks);
        self.language = language.map(str::to_owned).or(before.language);
        // Chunks after the last finished one may get another length.
        let whole = self.chunks.iter().map(|(chunk, _)| chunk.index);
        let last = whole.filter(|index| !index.is_part()).max();
        self.targets
            .truncate(last.map_or(0, |last| last.number() + 1));
        self
    }

    /// Removes and returns the text of a chunk with exactly this audio.
    pub fn take(&mut self, chunk: &AudioChunk) -> Option<ChunkDone> {
        let same = |other: &AudioChunk| {
            other.stretches == chunk.stretches && other.index.is_part() == chunk.index.is_part()
        };
        let index = self.chunks.iter().position(|(other, _)| same(other))?;
        let (_, done) = self.chunks.swap_remove(index);
        Some(ChunkDone {
            reused: true,
            ..done
        })
    }
}

/// The finished work that a request takes over from an earlier, equal request, and leaves for a later one.
#[derive(Debug)]
pub(crate) struct Resume {
    /// Whether finished work is kept: a later request can be recognised as equal.
    is_kept: bool,
    /// Work of an earlier, equal request that was not taken over yet.
    before: FinishedWork,
    /// Work that this request finished.
    finished: FinishedWork,
}

impl Resume {
    /// `is_kept`: whether a later request can be recognised as equal. `before`: work of an earlier one.
    pub(crate) fn new(is_kept: bool, before: FinishedWork) -> Self {
        Self {
            is_kept,
            before,
            finished: FinishedWork::default(),
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
        if self.is_kept {
            self.finished.cut(target);
        }
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::domain::ids::{ChunkIndex, LaneKind};
    use crate::domain::transcript::ChunkTranscript;

    fn chunk(index: usize, start: u64, samples: usize) -> AudioChunk {
        AudioChunk::contiguous(index, start, Arc::from(vec![0; samples]))
    }

    fn part(number: usize) -> AudioChunk {
        AudioChunk {
            index: ChunkIndex::Part(number),
            ..chunk(0, 0, 100)
        }
    }

    fn done(language: &str) -> ChunkDone {
        ChunkDone {
            transcript: ChunkTranscript {
                language: language.to_owned(),
                ..ChunkTranscript::default()
            },
            lane: LaneKind::Hot,
            rescued: false,
            reused: false,
        }
    }

    #[test]
    fn chunks_that_were_not_reached_are_kept_with_lengths_of_finished_chunks_only() {
        let seconds = Duration::from_secs;
        let mut before = FinishedWork::default();
        before.add(&chunk(2, 200, 100), done("c"));
        for target in [1, 2, 3, 4] {
            before.cut(seconds(target));
        }
        let mut work = FinishedWork::default();
        work.add(&chunk(0, 0, 100), done("a"));
        work.cut(seconds(1));
        let kept = work.kept(before, Some("de"));
        assert_eq!(kept.targets(), [1, 2, 3].map(seconds));
        assert_eq!((kept.len(), kept.language()), (2, Some("de")));
        let again = FinishedWork::default().kept(kept, None);
        assert_eq!(again.language(), Some("de"));
    }

    #[test]
    fn only_equal_audio_has_the_same_text_and_a_part_is_not_a_chunk() {
        let mut work = FinishedWork::default();
        work.add(&chunk(0, 0, 100), done("a"));
        work.add(&part(0), done("b"));
        assert!(work.take(&chunk(0, 0, 99)).is_none());
        assert!(work.take(&chunk(0, 1, 100)).is_none());
        let part = work.take(&part(7)).expect("is there");
        assert_eq!(part.transcript.language, "b");
        let whole = work.take(&chunk(0, 0, 100)).expect("is there");
        assert_eq!(whole.transcript.language, "a");
        assert!(work.is_empty());
    }
}
