//! The finished part of a request: chunks with their texts, so that an equal request, or the same job after a restart,
//! resumes there.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::domain::chunk::AudioChunk;
use crate::domain::ids::ChunkIndex;
use crate::domain::transcript::ChunkDone;

/// What a request finished, as an event reports it. All of a request's parts, in order, are its [`FinishedWork`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum FinishedPart {
    /// A chunk was cut.
    Cut {
        /// The number of the chunk.
        number: usize,
        /// Its target length.
        target: Duration,
    },
    /// An engine returned the text of a chunk.
    Chunk(Box<FinishedChunk>),
}

/// A chunk with its text and without its audio.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FinishedChunk {
    /// The number of the chunk.
    pub index: ChunkIndex,
    /// Its place on the request's time line, in samples.
    pub stretches: Vec<Range<u64>>,
    /// ISO 639-1 code of the language that was decided for the request; `None`: it was given, or is still open.
    pub language: Option<String>,
    /// The text, as the engine returned it.
    pub done: ChunkDone,
}

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

    /// Adds what an event reported. A target that is known already is not added again.
    pub fn apply(&mut self, part: FinishedPart) {
        match part {
            FinishedPart::Cut { number, target } if number == self.targets.len() => {
                self.cut(target);
            }
            FinishedPart::Cut { .. } => {}
            FinishedPart::Chunk(chunk) => {
                let FinishedChunk {
                    index,
                    stretches,
                    language,
                    done,
                } = *chunk;
                self.language = language.or_else(|| self.language.take());
                let audio = AudioChunk {
                    index,
                    stretches: stretches.into(),
                    ..AudioChunk::contiguous(0, 0, Arc::from([]))
                };
                self.chunks.push((audio, done));
            }
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::LaneKind;
    use crate::domain::transcript::ChunkTranscript;

    fn chunk_at(index: usize, start: u64, samples: usize) -> AudioChunk {
        AudioChunk::contiguous(index, start, Arc::from(vec![0; samples]))
    }

    fn part(number: usize) -> AudioChunk {
        AudioChunk {
            index: ChunkIndex::Part(number),
            ..chunk_at(0, 0, 100)
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
        before.add(&chunk_at(2, 200, 100), done("c"));
        for target in [1, 2, 3, 4] {
            before.cut(seconds(target));
        }
        let mut work = FinishedWork::default();
        work.add(&chunk_at(0, 0, 100), done("a"));
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
        work.add(&chunk_at(0, 0, 100), done("a"));
        work.add(&part(0), done("b"));
        assert!(work.take(&chunk_at(0, 0, 99)).is_none());
        assert!(work.take(&chunk_at(0, 1, 100)).is_none());
        let part = work.take(&part(7)).expect("is there");
        assert_eq!(part.transcript.language, "b");
        let whole = work.take(&chunk_at(0, 0, 100)).expect("is there");
        assert_eq!(whole.transcript.language, "a");
        assert!(work.is_empty());
    }

    #[test]
    fn reported_parts_add_up_to_the_finished_work() {
        let mut work = FinishedWork::default();
        let cut = |number, seconds| FinishedPart::Cut {
            number,
            target: Duration::from_secs(seconds),
        };
        let chunk = FinishedPart::Chunk(Box::new(FinishedChunk {
            index: ChunkIndex::Whole(0),
            stretches: std::iter::once(0..100).collect(),
            language: Some("de".to_owned()),
            done: done("a"),
        }));
        // The second run reports the first cut again.
        for part in [cut(0, 8), chunk, cut(0, 9), cut(1, 28)] {
            work.apply(part);
        }
        assert_eq!(work.targets(), [8, 28].map(Duration::from_secs));
        assert_eq!(work.language(), Some("de"));
        let text = work.take(&chunk_at(0, 0, 100)).expect("is there");
        assert_eq!(text.transcript.language, "a");
    }
}
