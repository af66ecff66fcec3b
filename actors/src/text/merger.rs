//! Merges the results of a request's chunks.

use std::collections::BTreeMap;

use crate::domain::chunk::{AudioChunk, samples_to_seconds};
use crate::domain::ids::ChunkIndex;
use crate::domain::transcript::{ChunkTranscript, Segment};

/// Merges the results of chunks, which arrive in any order, into one sequence of segments.
#[derive(Debug, Default)]
pub struct Merger {
    waiting: BTreeMap<ChunkIndex, (AudioChunk, ChunkTranscript)>,
    next_index: usize,
    next_id: usize,
    /// No segment starts before the previous one ends.
    last_end: f64,
}

impl Merger {
    /// Adds a chunk's result. Returns the segments that are final now, on the request's time line: those
    /// of all chunks up to the first missing one.
    pub fn push(&mut self, chunk: AudioChunk, result: ChunkTranscript) -> Vec<Segment> {
        self.waiting.insert(chunk.index, (chunk, result));
        let mut ready = Vec::new();
        while let Some((chunk, result)) = self.waiting.remove(&ChunkIndex::Whole(self.next_index)) {
            self.next_index += 1;
            for segment in result.segments {
                ready.push(self.place(&chunk, segment));
            }
        }
        ready
    }

    /// Moves a segment from its chunk's time line to the request's, and clamps it to the chunk's audio.
    fn place(&mut self, chunk: &AudioChunk, mut segment: Segment) -> Segment {
        let chunk_end = samples_to_seconds(chunk.end_sample());
        let start = chunk.begins_at(segment.start);
        let start = start.clamp(self.last_end.min(chunk_end), chunk_end);
        segment.end = chunk.ends_at(segment.end).clamp(start, chunk_end);
        segment.start = start;
        for word in &mut segment.words {
            word.start = chunk.begins_at(word.start).clamp(start, segment.end);
            word.end = chunk.ends_at(word.end).clamp(word.start, segment.end);
        }
        segment.seek = (chunk.begins_at(segment.seek as f64 / 100.0) * 100.0).round() as u64;
        segment.id = self.next_id;
        self.next_id += 1;
        self.last_end = segment.end;
        segment
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;

    fn chunk(index: usize, start_sample: u64, samples: usize) -> AudioChunk {
        AudioChunk::contiguous(index, start_sample, Arc::from(vec![0; samples]))
    }

    fn result(segments: Vec<Segment>) -> ChunkTranscript {
        ChunkTranscript {
            segments,
            ..ChunkTranscript::default()
        }
    }

    #[test]
    fn a_late_first_chunk_holds_back_the_second() {
        let mut merger = Merger::default();
        let later = merger.push(
            chunk(1, 16_000, 16_000),
            result(vec![Segment::said(0.0, 1.0, " b")]),
        );
        assert!(later.is_empty());
        let both = merger.push(
            chunk(0, 0, 16_000),
            result(vec![Segment::said(0.0, 0.5, " a")]),
        );
        let texts: Vec<_> = both
            .iter()
            .map(|s| (s.id, s.text.as_str(), s.start))
            .collect();
        assert_eq!(texts, [(0, " a", 0.0), (1, " b", 1.0)]);
    }

    #[test]
    fn times_never_leave_the_audio() {
        let mut merger = Merger::default();
        let placed = merger.push(
            chunk(0, 0, 8_000),
            result(vec![Segment::said(0.2, 29.98, " a")]),
        );
        assert!((placed[0].end - 0.5).abs() < 1e-9);
    }

    proptest! {
        #[test]
        fn any_order_of_arrival_gives_the_same_monotonic_transcript(
            lengths in prop::collection::vec(1_u64..40_000, 1..8),
            times in prop::collection::vec((0.0_f64..35.0, 0.0_f64..35.0), 8),
            order in Just((0_usize..8).collect::<Vec<_>>()).prop_shuffle(),
        ) {
            let mut start = 0;
            let chunks: Vec<_> = lengths.iter().enumerate().map(|(index, &length)| {
                let made = chunk(index, start, length as usize);
                start += length;
                made
            }).collect();
            let give = |index: usize| {
                let (start, end) = times[index];
                result(vec![Segment::said(start, end, &format!(" {index}"))])
            };
            let mut straight = Merger::default();
            let expected: Vec<_> = chunks.iter().cloned()
                .flat_map(|c| { let i = c.index.number(); straight.push(c, give(i)) }).collect();
            let mut shuffled = Merger::default();
            let got: Vec<_> = order.iter().filter(|&&i| i < chunks.len())
                .flat_map(|&i| shuffled.push(chunks[i].clone(), give(i))).collect();
            prop_assert_eq!(&got, &expected);
            let total = samples_to_seconds(start);
            let mut last = 0.0;
            for segment in &got {
                prop_assert!(last <= segment.start && segment.start <= segment.end);
                prop_assert!(segment.end <= total + 1e-9);
                last = segment.end;
            }
        }
    }
}
