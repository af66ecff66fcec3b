//! The finished part of a request whose client left: chunks with their texts, so that the same
//! request, sent again, goes on where it was.

use std::time::Duration;

use crate::domain::chunk::AudioChunk;
use crate::domain::transcript::ChunkDone;

/// What is finished of a request.
#[derive(Clone, Debug, Default)]
pub struct FinishedWork {
    /// The lengths that the chunks were to have, by their number: the audio is cut in the same places
    /// again only with them.
    targets: Vec<Duration>,
    /// The language that was decided for all of it; ISO 639-1.
    language: Option<String>,
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

    /// The language that was decided, if it had to be.
    pub fn language(&self) -> Option<&str> {
        self.language.as_deref()
    }

    /// Tokens of its texts: what it takes of memory follows them.
    pub fn tokens(&self) -> usize {
        let segments = (self.chunks.iter()).flat_map(|(_, done)| &done.transcript.segments);
        segments.map(|segment| segment.tokens.len()).sum()
    }

    /// Notes the length that the next chunk was to have.
    pub fn cut(&mut self, target: Duration) {
        self.targets.push(target);
    }

    /// Notes a chunk's text, as the engine gave it.
    pub fn add(&mut self, chunk: &AudioChunk, done: ChunkDone) {
        self.chunks.push((chunk.clone().without_audio(), done));
    }

    /// All that is worth keeping: with what was finished before and not met again, and with the
    /// language that was decided.
    #[must_use]
    pub fn kept(mut self, before: Self, language: Option<&str>) -> Self {
        let met = self.targets.len();
        self.targets.extend(before.targets.into_iter().skip(met));
        self.chunks.extend(before.chunks);
        self.language = language.map(str::to_owned).or(before.language);
        // Chunks that nobody has done may be of another length.
        let whole = self.chunks.iter().map(|(chunk, _)| chunk.index);
        let last = whole.filter(|index| !index.is_part()).max();
        self.targets
            .truncate(last.map_or(0, |last| last.number() + 1));
        self
    }

    /// The text of a chunk, if exactly this audio was done.
    pub fn take(&mut self, chunk: &AudioChunk) -> Option<ChunkDone> {
        let same = |other: &AudioChunk| {
            other.stretches == chunk.stretches && other.index.is_part() == chunk.index.is_part()
        };
        let place = self.chunks.iter().position(|(other, _)| same(other))?;
        let (_, done) = self.chunks.swap_remove(place);
        Some(ChunkDone {
            reused: true,
            ..done
        })
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
    fn what_was_not_met_again_is_kept_and_lengths_only_of_what_is_done() {
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
    fn only_the_same_audio_has_the_same_text_and_a_part_is_no_chunk() {
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
