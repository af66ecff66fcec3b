//! The second pass over a chunk, of which parts are transcribed again: the first text, the parts that are
//! still awaited, and the merging of both.

use std::collections::BTreeMap;

use crate::domain::chunk::AudioChunk;
use crate::domain::ids::ChunkIndex;
use crate::domain::transcript::{ChunkTranscript, Segment, Word, letters};
use crate::text::missed_speech::Again;

/// New text replaces a segment if it is longer by this factor.
const MORE: f64 = 1.3;

/// The position of a part in its chunk.
#[derive(Debug)]
struct PartPosition {
    /// Index in [`SecondPass::again`].
    again: usize,
    /// Start in the chunk, in seconds.
    begins: f64,
}

/// A chunk's second pass.
#[derive(Debug)]
pub(crate) struct SecondPass {
    first: ChunkTranscript,
    again: Vec<Again>,
    awaited: BTreeMap<ChunkIndex, PartPosition>,
    /// New segments, one list for each element of `again`.
    heard: Vec<Vec<Segment>>,
}

impl SecondPass {
    /// Begins a second pass. Also returns the parts to transcribe, numbered from `next_part`.
    pub(crate) fn begin(
        chunk: &AudioChunk,
        first: ChunkTranscript,
        again: Vec<Again>,
        next_part: &mut usize,
    ) -> (Self, Vec<AudioChunk>) {
        let mut awaited = BTreeMap::new();
        let mut parts = Vec::new();
        for (number, again) in again.iter().enumerate() {
            for range in &again.parts {
                let index = ChunkIndex::Part(*next_part);
                *next_part += 1;
                let (part, begins) = chunk.part(index, range);
                parts.push(part);
                awaited.insert(
                    index,
                    PartPosition {
                        again: number,
                        begins,
                    },
                );
            }
        }
        let heard = vec![Vec::new(); again.len()];
        let this = Self {
            first,
            again,
            awaited,
            heard,
        };
        (this, parts)
    }

    /// Whether it waits for this part.
    pub(crate) fn awaits(&self, part: ChunkIndex) -> bool {
        self.awaited.contains_key(&part)
    }

    /// Adds a part's text; `None`: the part failed, and the first text stays. Returns whether it was the
    /// last part.
    pub(crate) fn heard(&mut self, part: ChunkIndex, transcript: Option<ChunkTranscript>) -> bool {
        if let Some(position) = self.awaited.remove(&part)
            && let Some(transcript) = transcript
        {
            self.first.encoder_passes += transcript.encoder_passes;
            self.first.doubt = self.first.doubt.or(transcript.doubt);
            self.first.inference_seconds += transcript.inference_seconds;
            let moved = transcript.segments.into_iter().map(|segment| Segment {
                start: segment.start + position.begins,
                end: segment.end + position.begins,
                seek: segment.seek + (position.begins * 100.0) as u64,
                words: (segment.words.into_iter())
                    .map(|word| Word {
                        start: word.start + position.begins,
                        end: word.end + position.begins,
                        ..word
                    })
                    .collect(),
                ..segment
            });
            self.heard[position.again].extend(moved);
        }
        self.awaited.is_empty()
    }

    /// Merges both passes, in order of time.
    pub(crate) fn finish(self) -> ChunkTranscript {
        let says = |segments: &[Segment]| segments.iter().map(|s| letters(&s.text)).sum::<f64>();
        let mut transcript = self.first;
        let mut replaced = Vec::new();
        let mut added = Vec::new();
        for (again, heard) in self.again.iter().zip(self.heard) {
            match again.instead_of {
                Some(number) => {
                    let before = says(&transcript.segments[number..=number]);
                    if says(&heard) > MORE * before {
                        replaced.push(number);
                        added.extend(heard);
                    }
                }
                None if says(&heard) > 0.0 => added.extend(heard),
                None => {}
            }
        }
        let mut number = 0;
        transcript.segments.retain(|_| {
            number += 1;
            !replaced.contains(&(number - 1))
        });
        transcript.segments.extend(added);
        transcript
            .segments
            .sort_by(|a, b| a.start.total_cmp(&b.start));
        transcript
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;
    use std::sync::Arc;

    use super::*;

    fn segment(range: Range<f64>, text: &str) -> Segment {
        Segment::said(range.start, range.end, text)
    }

    fn transcript(segments: Vec<Segment>) -> ChunkTranscript {
        ChunkTranscript {
            segments,
            inference_seconds: 1.0,
            ..ChunkTranscript::default()
        }
    }

    /// A chunk of 20 s with text only at its start and its end.
    fn begin(again: Vec<Again>) -> (SecondPass, Vec<ChunkIndex>) {
        let chunk = AudioChunk::contiguous(3, 0, Arc::from(vec![0; 320_000]));
        let first = transcript(vec![
            segment(0.0..4.0, " one"),
            segment(16.0..20.0, " four"),
        ]);
        let (pass, parts) = SecondPass::begin(&chunk, first, again, &mut 7);
        (pass, parts.iter().map(|part| part.index).collect())
    }

    fn texts(transcript: &ChunkTranscript) -> String {
        transcript
            .segments
            .iter()
            .map(|s| s.text.as_str())
            .collect()
    }

    #[test]
    fn missed_speech_is_inserted_at_its_time() {
        let (mut pass, parts) = begin(vec![Again {
            parts: vec![8.0..12.0],
            instead_of: None,
        }]);
        assert_eq!(parts, [ChunkIndex::Part(7)]);
        assert!(pass.awaits(parts[0]) && !pass.awaits(ChunkIndex::Whole(3)));
        let text = transcript(vec![segment(0.5..1.0, " two"), segment(1.0..3.0, " three")]);
        assert!(pass.heard(parts[0], Some(text)));
        let whole = pass.finish();
        assert_eq!(texts(&whole), " one two three four");
        assert!((whole.segments[1].start - 8.5).abs() < 1e-9);
        assert!((whole.inference_seconds - 2.0).abs() < 1e-9);
    }

    #[test]
    fn a_segment_is_replaced_only_by_longer_text() {
        for (second, expected) in [
            (" two and more", " one two and more four"),
            ("", " one four"),
        ] {
            let (mut pass, parts) = begin(vec![Again {
                parts: vec![0.0..2.0, 2.0..4.0],
                instead_of: Some(0),
            }]);
            assert!(!pass.heard(parts[0], Some(transcript(vec![segment(0.0..2.0, " one")]))));
            let rest = transcript(vec![segment(0.0..2.0, second)]);
            assert!(pass.heard(parts[1], Some(rest)));
            assert_eq!(texts(&pass.finish()), expected);
        }
    }

    #[test]
    fn a_part_that_fails_leaves_the_first_text() {
        let (mut pass, parts) = begin(vec![Again {
            parts: vec![8.0..12.0],
            instead_of: None,
        }]);
        assert!(pass.heard(parts[0], None));
        assert_eq!(texts(&pass.finish()), " one four");
    }
}
