//! Finds speech without text: the parts of a chunk to transcribe again.
//!
//! Whisper sometimes skips sentences: it ends a window early, continues after a pause as if there had
//! been no speech, or stretches the times of one sentence over the next, above all if the next one is the same
//! sentence again. Where there is speech and no text, or far less text than speech of that length has, that range
//! is transcribed again on its own, with other cuts.

use std::ops::Range;

use crate::domain::chunk::AudioChunk;
use crate::domain::transcript::{Removed, Segment, letters};
use crate::text::segment_split;

/// Minimum speech without text, in seconds, that is worth a second pass.
const LEAST_MISSED: f64 = 1.5;
/// Minimum speech in a segment, in seconds, for judging its text too short: a short sentence, twice.
const LEAST_JUDGED: f64 = 3.0;
/// Fewer letters per second of speech are probably too few: speakers say 10 to 20. If they are not, the second pass
/// finds no more text, and the first one stays.
const SLOWEST_SPEECH: f64 = 8.0;
/// The same for a part of a segment between two pauses, of which it is uncertain which words belong to it.
const SLOWEST_PART: f64 = 5.0;
/// Shortest pause near the middle to split at, in seconds.
const SHORTEST_PAUSE: f64 = 0.09;
/// By how much shorter a pause may be for each second that it is nearer to the middle, in seconds.
const DISTANCE_PENALTY: f64 = 0.1;
/// Audio before and after the missed speech that is transcribed with it, in seconds.
const MARGIN: f64 = 0.2;
/// A gap with at least this share of the chunk's speech is not transcribed again: the model would get
/// nearly the same audio and give the same result.
const MOST_OF_THE_SPEECH: f64 = 0.9;

/// Parts of a chunk to transcribe again.
#[derive(Clone, Debug, PartialEq)]
pub struct Again {
    /// Times in the chunk, in seconds.
    pub parts: Vec<Range<f64>>,
    /// The index of the segment that the new text replaces if it is longer; `None`: the new text is added.
    pub instead_of: Option<usize>,
}

/// Finds the speech without text in a chunk. `segments` are in order of time. Gaps from which text was
/// removed are skipped: whisper would hallucinate the same text again.
pub fn find(chunk: &AudioChunk, segments: &[Segment], removed: &[Removed]) -> Vec<Again> {
    let was_removed = |gap: &Range<f64>| {
        let mut removed = removed.iter();
        removed.any(|removed| removed.start < gap.end && removed.end > gap.start)
    };
    let gaps = gaps(chunk, segments).into_iter();
    let gaps = gaps.filter(|gap| !was_removed(gap)).map(|gap| Again {
        parts: vec![gap],
        instead_of: None,
    });
    let short = segments.iter().enumerate();
    let short = short.filter_map(|(number, segment)| {
        Some(Again {
            parts: halves(chunk, segment)?,
            instead_of: Some(number),
        })
    });
    gaps.chain(short).collect()
}

/// Gaps between segments that contain speech.
fn gaps(chunk: &AudioChunk, segments: &[Segment]) -> Vec<Range<f64>> {
    let duration = chunk.duration_seconds();
    let (first_word, last_word) = chunk.speech.tightened(0.0, duration);
    let mut gaps = Vec::new();
    let mut end_of_text = 0.0;
    let after_the_last = std::iter::once((duration, duration));
    let segments = segments.iter().map(|segment| (segment.start, segment.end));
    for (start, end) in segments.chain(after_the_last) {
        let gap = end_of_text..start;
        end_of_text = end.max(end_of_text);
        let spoken = chunk.speech.seconds_of_speech(gap.start, gap.end);
        if gap.end <= gap.start || spoken.is_none_or(|spoken| spoken < LEAST_MISSED) {
            continue;
        }
        let (start, end) = chunk.speech.tightened(gap.start, gap.end);
        if end - start < MOST_OF_THE_SPEECH * (last_word - first_word) {
            gaps.push((start - MARGIN).max(0.0)..(end + MARGIN).min(duration));
        }
    }
    gaps
}

/// If a segment's text is too short for its speech: its two halves, split at its longest pause. A pause near the middle
/// comes first, since a sentence that is said twice has one there.
fn halves(chunk: &AudioChunk, segment: &Segment) -> Option<Vec<Range<f64>>> {
    let (start, end) = (segment.start, segment.end);
    let rate = |segment: &Segment, least: f64| {
        let spoken = (chunk.speech).seconds_of_speech(segment.start, segment.end);
        let spoken = spoken.filter(|spoken| *spoken >= least)?;
        Some(letters(&segment.text) / spoken)
    };
    let is_slow = rate(segment, LEAST_JUDGED)? < SLOWEST_SPEECH;
    let has_slow_part = || {
        let parts = segment_split::split(segment.clone(), &chunk.speech);
        let mut rates = parts.iter().filter_map(|part| rate(part, LEAST_MISSED));
        parts.len() > 1 && rates.any(|rate| rate < SLOWEST_PART)
    };
    if !is_slow && !has_slow_part() {
        return None;
    }
    let middle_of = |range: &Range<f64>| f64::midpoint(range.start, range.end);
    let distance = |pause: &Range<f64>| (middle_of(pause) - middle_of(&(start..end))).abs();
    let score = |pause: &Range<f64>| pause.end - pause.start - DISTANCE_PENALTY * distance(pause);
    let pauses = chunk.speech.pauses(start, end, SHORTEST_PAUSE).into_iter();
    let in_the_middle = pauses
        .filter(|pause| distance(pause) < (end - start) / 4.0)
        .max_by(|a, b| score(a).total_cmp(&score(b)));
    // Not at the edges: a cut there would give the same audio again.
    let edge = LEAST_JUDGED / 4.0;
    let pause = in_the_middle.or_else(|| chunk.speech.longest_pause(start + edge, end - edge))?;
    let middle = middle_of(&pause);
    Some(vec![start..middle, middle..end])
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::domain::chunk::SpeechTrack;
    use crate::domain::transcript::Word;

    /// A chunk of 20 s with speech at these times.
    fn chunk(spoken: &[Range<f64>]) -> AudioChunk {
        let mut values = vec![0; 625];
        for range in spoken {
            values[(range.start / 0.032) as usize..(range.end / 0.032) as usize].fill(250);
        }
        AudioChunk {
            speech: SpeechTrack::new(values),
            ..AudioChunk::contiguous(0, 0, Arc::from(vec![0; 320_000]))
        }
    }

    fn segment(start: f64, end: f64, letters: usize) -> Segment {
        Segment::said(start, end, &"a".repeat(letters))
    }

    fn assert_near(found: &[Range<f64>], expected: &[Range<f64>]) {
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for (found, expected) in found.iter().zip(expected) {
            let near = (found.start - expected.start).abs() < 0.05;
            assert!(near && (found.end - expected.end).abs() < 0.05, "{found:?}");
        }
    }

    fn find(chunk: &AudioChunk, segments: &[Segment]) -> Vec<Again> {
        super::find(chunk, segments, &[])
    }

    #[test]
    fn a_gap_whose_text_was_removed_is_not_transcribed_again() {
        let chunk = chunk(&[1.0..4.0, 6.0..9.0, 12.0..19.0]);
        let loops = Removed {
            start: 12.0,
            end: 19.0,
            text: " thank you".to_owned(),
            reason: crate::domain::transcript::Reason::Repetition,
        };
        let found = super::find(&chunk, &[segment(6.0, 9.0, 40)], &[loops]);
        assert_eq!(found.len(), 1, "{found:?}");
    }

    #[test]
    fn a_chunk_with_text_for_all_speech_is_not_transcribed_again() {
        let chunk = chunk(&[1.0..6.0, 8.0..15.0]);
        let segments = [segment(0.9, 6.2, 60), segment(7.8, 15.2, 80)];
        assert!(find(&chunk, &segments).is_empty());
        // Whisper's times are off by up to a second.
        assert!(find(&chunk, &[segment(2.0, 5.5, 60), segment(8.9, 15.2, 80)]).is_empty());
    }

    #[test]
    fn speech_before_between_and_after_segments_is_transcribed_again() {
        let chunk = chunk(&[1.0..4.0, 6.0..9.0, 12.0..19.0]);
        let found = find(&chunk, &[segment(5.9, 9.1, 40)]);
        let parts: Vec<_> = found.iter().flat_map(|again| again.parts.clone()).collect();
        assert_near(&parts, &[0.8..4.2, 11.8..19.2]);
        assert!(found.iter().all(|again| again.instead_of.is_none()));
    }

    #[test]
    fn a_chunk_without_any_text_is_not_transcribed_again() {
        assert!(find(&chunk(&[0.5..19.5]), &[]).is_empty());
        assert!(find(&chunk(&[8.0..11.0]), &[]).is_empty());
        let unknown = AudioChunk::contiguous(0, 0, Arc::from(vec![0; 320_000]));
        assert!(find(&unknown, &[segment(0.0, 20.0, 3)]).is_empty());
    }

    #[test]
    fn a_segment_is_split_if_the_speech_after_a_pause_has_hardly_a_word() {
        // A sentence, and the beginning of the same one again, without text of its own.
        let chunk = chunk(&[0.5..4.5, 5.2..7.0]);
        let word = |text: &str, start| Word {
            text: text.to_owned(),
            start,
            end: start + 0.3,
            tokens: 1,
            logprob: -0.2,
        };
        let said = |last: &str| Segment {
            words: vec![
                word(" It leaves at half past", 0.5),
                word(" eight from the station,", 2.0),
                word(last, 6.5),
            ],
            ..Segment::said(
                0.5,
                7.0,
                &format!(" It leaves at half past eight from the station,{last}"),
            )
        };
        let found = find(&chunk, &[said(" please.")]);
        assert_eq!(found.len(), 1);
        assert_near(&found[0].parts, &[0.5..4.85, 4.85..7.0]);
        assert!(find(&chunk, &[said(" so bring a warm coat, please.")]).is_empty());
    }

    #[test]
    fn a_segment_with_too_little_text_is_split_at_its_pause() {
        let chunk = chunk(&[0.5..5.0, 5.6..19.0]);
        let found = find(&chunk, &[segment(0.5, 19.0, 50)]);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].instead_of, Some(0));
        assert_near(&found[0].parts, &[0.5..5.3, 5.3..19.0]);
        // Half of a sentence that is said twice, with a pause within it that is as long as the one in the middle.
        let twice = self::chunk(&[0.5..2.0, 2.4..5.0, 5.4..7.0, 7.4..10.0]);
        let found = find(&twice, &[segment(0.5, 10.0, 50)]);
        assert_near(&found[0].parts, &[0.5..5.2, 5.2..10.0]);
        let command = self::chunk(&[0.5..2.2, 2.5..4.2]);
        assert_eq!(find(&command, &[segment(0.5, 4.2, 20)]).len(), 1);
        // Slow speech is accepted, and a Chinese character counts as several letters.
        assert!(find(&chunk, &[segment(0.5, 19.0, 150)]).is_empty());
        let chinese = Segment {
            text: "说".repeat(60),
            ..segment(0.5, 19.0, 0)
        };
        assert!(find(&chunk, &[chinese]).is_empty());
    }
}
