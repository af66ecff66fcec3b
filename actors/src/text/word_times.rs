//! Corrects the times of words.
//!
//! An engine's times of words run over pauses: a word seems to last until the next one begins, or to
//! begin when the previous one ends. The speech track is more precise: each word is moved into the stretch
//! of speech that it overlaps most, so that no word lies in silence or spans it.

use std::ops::Range;

use crate::domain::chunk::SpeechTrack;
use crate::domain::transcript::{Segment, Word};

/// Minimum silence that no word spans, in seconds; less is the closure of a consonant.
const LEAST_SILENCE: f64 = 0.1;

/// Puts a segment's words in order and inside the segment; with a speech track, also inside speech.
pub fn settle(segment: &mut Segment, speech: &SpeechTrack) {
    let (start, end) = (segment.start, segment.end.max(segment.start));
    let stretches = stretches(start, end, speech);
    let mut end_before = start;
    for word in &mut segment.words {
        let wanted = wanted(word, start..end);
        let stretch = stretch_of(&wanted, &stretches);
        word.start = wanted
            .start
            .clamp(stretch.start, stretch.end)
            .max(end_before);
        word.end = wanted.end.clamp(stretch.start, stretch.end).max(word.start);
        end_before = word.end;
    }
}

/// The stretches in which words may lie: the whole segment if it has no speech or no speech track.
fn stretches(start: f64, end: f64, speech: &SpeechTrack) -> Vec<Range<f64>> {
    let pauses = speech.pauses(start, end, LEAST_SILENCE);
    let (first, last) = speech.tightened(start, end);
    let starts = std::iter::once(first).chain(pauses.iter().map(|pause| pause.end));
    let ends = pauses.iter().map(|pause| pause.start).chain([last]);
    starts.zip(ends).map(|(start, end)| start..end).collect()
}

/// The engine's times of a word, clamped to the segment.
fn wanted(word: &Word, segment: Range<f64>) -> Range<f64> {
    let start = word.start.clamp(segment.start, segment.end);
    start..word.end.clamp(start, segment.end)
}

/// The stretch that overlaps these times most, or else the nearest one.
fn stretch_of(wanted: &Range<f64>, stretches: &[Range<f64>]) -> Range<f64> {
    // Negative if they do not overlap: then it is their distance.
    let shared =
        |stretch: &Range<f64>| wanted.end.min(stretch.end) - wanted.start.max(stretch.start);
    let most = stretches
        .iter()
        .max_by(|a, b| shared(a).total_cmp(&shared(b)));
    most.cloned().unwrap_or_else(|| wanted.clone())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FRAME: f64 = 0.032;

    /// Words with these times, in a segment of ten seconds.
    fn segment(times: &[(f64, f64)]) -> Segment {
        let word = |(start, end): &(f64, f64)| Word {
            text: " word".to_owned(),
            start: *start,
            end: *end,
            tokens: 1,
            logprob: -0.2,
        };
        Segment {
            words: times.iter().map(word).collect(),
            ..Segment::said(0.0, 10.0, " words")
        }
    }

    /// A track of ten seconds with speech in these frames.
    fn track(spoken: &[Range<usize>]) -> SpeechTrack {
        let mut values = vec![0; 313];
        for range in spoken {
            values[range.clone()].fill(250);
        }
        SpeechTrack::new(values)
    }

    fn settled(times: &[(f64, f64)], speech: &SpeechTrack) -> Vec<(f64, f64)> {
        let mut segment = segment(times);
        settle(&mut segment, speech);
        segment.words.iter().map(|w| (w.start, w.end)).collect()
    }

    fn assert_near(found: &[(f64, f64)], expected: &[(f64, f64)]) {
        assert_eq!(found.len(), expected.len());
        let near =
            |a: &(f64, f64), b: &(f64, f64)| (a.0 - b.0).abs() < 1e-9 && (a.1 - b.1).abs() < 1e-9;
        let all = found.iter().zip(expected).all(|(a, b)| near(a, b));
        assert!(all, "{found:?}");
    }

    #[test]
    fn a_word_is_cut_at_the_pause_that_it_spans() {
        let speech = track(&[25..50, 100..150]);
        let found = settled(&[(0.8, 1.2), (1.2, 2.9), (2.9, 4.1), (4.1, 4.8)], &speech);
        let expected = [
            (0.8, 1.2),
            (1.2, 50.0 * FRAME),
            (100.0 * FRAME, 4.1),
            (4.1, 4.8),
        ];
        assert_near(&found, &expected);
    }

    #[test]
    fn a_word_in_silence_moves_to_the_nearest_speech() {
        let speech = track(&[25..50, 100..150]);
        let found = settled(&[(0.1, 0.3), (1.7, 1.8), (3.0, 3.1)], &speech);
        let edges = [25.0 * FRAME, 50.0 * FRAME, 100.0 * FRAME];
        assert_near(&found, &edges.map(|edge| (edge, edge)));
    }

    #[test]
    fn without_a_speech_track_words_stay_in_order_and_inside_the_segment() {
        let found = settled(
            &[(-1.0, 2.0), (1.0, 0.5), (9.0, 12.0)],
            &SpeechTrack::default(),
        );
        assert_near(&found, &[(0.0, 2.0), (2.0, 2.0), (9.0, 10.0)]);
    }

    proptest! {
        #[test]
        fn words_are_in_order_in_their_segment_and_inside_one_stretch_of_speech(
            times in prop::collection::vec((-2.0_f64..12.0, -2.0_f64..12.0), 0..20),
            spoken in prop::collection::vec((0_usize..300, 1_usize..40), 0..6),
        ) {
            let frames: Vec<_> = spoken.iter().map(|(at, length)| *at..(at + length).min(313)).collect();
            let speech = track(&frames);
            let mut last = 0.0;
            for (start, end) in settled(&times, &speech) {
                prop_assert!(last <= start && start <= end && end <= 10.0);
                last = end;
                // Neither in silence nor across it: the edges of frames belong to both sides.
                let silent = speech.pauses(start, end, LEAST_SILENCE);
                prop_assert!(silent.is_empty(), "{start}..{end} over {silent:?}");
                if !frames.is_empty() {
                    // Gaps that are too short for a silence belong to the stretch around them.
                    let margin = LEAST_SILENCE / 2.0 + 1e-6;
                    for moment in [start, end] {
                        let near = speech.seconds_of_speech(moment - margin, moment + margin);
                        prop_assert!(near > Some(0.0), "{moment} is in a silence");
                    }
                }
            }
        }
    }
}
