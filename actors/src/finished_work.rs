//! The finished part of a request whose client left: chunks with their texts, so that the same
//! request, sent again, goes on where it was.

use std::time::Duration;

use crate::chunk::{AudioChunk, FIRST_PART};
use crate::transcription::ChunkDone;

/// What is finished of a request.
#[derive(Clone, Debug, Default)]
pub struct FinishedWork {
    /// The lengths that the chunks were to have, by their number: the audio is cut in the same places
    /// again only with them.
    targets: Vec<Duration>,
    chunks: Vec<(AudioChunk, ChunkDone)>,
}

impl FinishedWork {
    /// Whether there is nothing of it.
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// How many chunks and parts of chunks are done.
    pub fn len(&self) -> usize {
        self.chunks.len()
    }

    /// The lengths that chunks were to have.
    pub fn targets(&self) -> &[Duration] {
        &self.targets
    }

    /// Notes the length that the next chunk was to have.
    pub fn cut(&mut self, target: Duration) {
        self.targets.push(target);
    }

    /// Notes a chunk's text, as the engine gave it.
    pub fn add(&mut self, chunk: &AudioChunk, done: ChunkDone) {
        self.chunks.push((chunk.clone().without_audio(), done));
    }

    /// Takes in what was finished before and not met again.
    pub fn absorb(&mut self, before: Self) {
        self.targets
            .extend(before.targets.into_iter().skip(self.targets.len()));
        self.chunks.extend(before.chunks);
    }

    /// The text of a chunk, if exactly this audio was done.
    pub fn take(&mut self, chunk: &AudioChunk) -> Option<ChunkDone> {
        let is_part = |index: usize| index >= FIRST_PART;
        let same = |other: &AudioChunk| {
            other.stretches == chunk.stretches && is_part(other.index) == is_part(chunk.index)
        };
        let place = self.chunks.iter().position(|(other, _)| same(other))?;
        Some(self.chunks.swap_remove(place).1)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::transcript::ChunkTranscript;
    use crate::work_queue::LaneKind;

    fn chunk(index: usize, start: u64, samples: usize) -> AudioChunk {
        AudioChunk::contiguous(index, start, Arc::from(vec![0; samples]))
    }

    fn done(language: &str) -> ChunkDone {
        ChunkDone {
            transcript: ChunkTranscript {
                language: language.to_owned(),
                ..ChunkTranscript::default()
            },
            lane: LaneKind::Hot,
            rescued: false,
        }
    }

    #[test]
    fn what_was_not_met_again_is_not_forgotten() {
        let seconds = Duration::from_secs;
        let mut before = FinishedWork::default();
        before.add(&chunk(2, 200, 100), done("c"));
        for target in [1, 2, 3] {
            before.cut(seconds(target));
        }
        let mut work = FinishedWork::default();
        work.add(&chunk(0, 0, 100), done("a"));
        work.cut(seconds(1));
        work.absorb(before);
        assert_eq!(work.targets(), [1, 2, 3].map(seconds));
        assert_eq!(work.len(), 2);
    }

    #[test]
    fn only_the_same_audio_has_the_same_text_and_a_part_is_no_chunk() {
        let mut work = FinishedWork::default();
        work.add(&chunk(0, 0, 100), done("a"));
        work.add(&chunk(FIRST_PART, 0, 100), done("b"));
        assert!(work.take(&chunk(0, 0, 99)).is_none());
        assert!(work.take(&chunk(0, 1, 100)).is_none());
        let part = work.take(&chunk(FIRST_PART + 7, 0, 100)).expect("is there");
        assert_eq!(part.transcript.language, "b");
        let whole = work.take(&chunk(0, 0, 100)).expect("is there");
        assert_eq!(whole.transcript.language, "a");
        assert!(work.is_empty());
    }
}
