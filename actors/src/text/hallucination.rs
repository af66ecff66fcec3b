//! Removes hallucinated text: found by whisper's own probabilities, by repetition, and by a lack of
//! speech.
//!
//! Whisper writes text for every window, and for silence it often writes what ends videos. The
//! thresholds on its probabilities are those of its reference implementation (`no_speech_threshold`,
//! `logprob_threshold`, `compression_ratio_threshold`). Doubtful text is removed only where there is
//! hardly any speech. Where there is speech the text stays, however unlikely; only loops are shortened.
//! The speech beside a segment counts as well, because whisper's times are rough, unless whisper itself
//! doubts the text and hears no speech: then the speech of the segments before and after is theirs alone.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::LazyLock;

use crate::domain::chunk::SpeechTrack;
use crate::domain::transcript::{ChunkTranscript, Reason, Removed, Segment};
use crate::text::loops::{drop_equal_runs, shorten_loop};

/// Above this probability of "no speech", whisper's estimate counts.
const NO_SPEECH_THRESHOLD: f32 = 0.6;
/// Mean log-probability below which text is a guess.
const LOGPROB_THRESHOLD: f32 = -1.0;
/// Mean log-probability below which text is doubtful if whisper also hears no speech.
const DOUBTFUL_LOGPROB: f32 = -0.7;
/// Compression ratio above which text repeats itself.
pub(super) const COMPRESSION_THRESHOLD: f32 = 2.4;
/// Less speech than this, in seconds, is hardly any: it is shorter than the shortest word.
const HARDLY_ANY_SPEECH: f64 = 0.2;
/// The error of whisper's times, in seconds.
const TIME_TOLERANCE: f64 = 0.3;
/// Removes hallucinated text from a chunk's transcript. Returns the removed text, with times that count
/// from the chunk's first sample. `speech` is the speech track of the chunk.
pub fn guard(transcript: &mut ChunkTranscript, speech: &SpeechTrack) -> Vec<Removed> {
    let mut removed = Vec::new();
    let mut kept: Vec<Segment> = Vec::new();
    let all = std::mem::take(&mut transcript.segments);
    let ends: Vec<f64> = all.iter().map(|segment| segment.end).collect();
    let starts: Vec<f64> = all.iter().map(|segment| segment.start).collect();
    for (number, mut segment) in all.into_iter().enumerate() {
        let before = number.checked_sub(1).map_or(0.0, |before| ends[before]);
        let after = starts.get(number + 1).copied().unwrap_or(f64::INFINITY);
        if let Some(reason) = judge(&segment, speech, &(before..after)) {
            removed.push(Removed::of(&segment, segment.text.clone(), reason));
            continue;
        }
        if let Some(repeated) = shorten_loop(&mut segment) {
            removed.push(Removed::of(&segment, repeated, Reason::Repetition));
        }
        kept.push(segment);
    }
    drop_equal_runs(&mut kept, &mut removed);
    transcript.segments = kept;
    removed
}

/// `between`: the end of the segment before, and the start of the one after.
fn judge(segment: &Segment, speech: &SpeechTrack, between: &Range<f64>) -> Option<Reason> {
    let (start, end) = (segment.start - TIME_TOLERANCE, segment.end + TIME_TOLERANCE);
    let spoken = speech.seconds_of_possible_speech(start, end);
    // Without a speech track, whisper's own probability decides.
    let silent_to_whisper = segment.no_speech_prob > NO_SPEECH_THRESHOLD;
    let hardly_spoken = spoken.map_or(silent_to_whisper, |spoken| spoken < HARDLY_ANY_SPEECH);
    let is_guess = segment.avg_logprob < LOGPROB_THRESHOLD;
    let is_doubtful = silent_to_whisper && segment.avg_logprob < DOUBTFUL_LOGPROB;
    if is_doubtful && is_in_a_gap(segment, speech, between) {
        Some(Reason::NoSpeech)
    } else if !hardly_spoken {
        None
    } else if silent_to_whisper && (is_guess || spoken.is_some()) {
        Some(Reason::NoSpeech)
    } else if is_guess {
        Some(Reason::LowLogprob)
    } else if segment.compression_ratio > COMPRESSION_THRESHOLD {
        Some(Reason::Compression)
    } else if is_known(&segment.text) {
        Some(Reason::KnownPhrase)
    } else {
        None
    }
}

/// Whether there is hardly any speech in a segment's time, without that of the segments before and after.
fn is_in_a_gap(segment: &Segment, speech: &SpeechTrack, between: &Range<f64>) -> bool {
    let start = (segment.start - TIME_TOLERANCE).max(between.start.min(segment.start));
    let end = (segment.end + TIME_TOLERANCE).min(between.end.max(segment.end));
    let spoken = speech.seconds_of_speech(start, end);
    spoken.is_some_and(|spoken| spoken < HARDLY_ANY_SPEECH)
}

/// Whether this is a phrase that whisper often hallucinates, or a description of a sound.
fn is_known(text: &str) -> bool {
    static KNOWN: LazyLock<HashSet<&str>> = LazyLock::new(|| {
        let lines = include_str!("known_phrases.txt").lines();
        lines.filter(|line| !line.starts_with('#')).collect()
    });
    is_description(text) || KNOWN.contains(plain(text).as_str())
}

/// For example `[Music]`, `(wind blowing)`, `*sigh*` or notes.
fn is_description(text: &str) -> bool {
    let text = text.trim();
    let enclosed = |open, close| text.starts_with(open) && text.ends_with(close);
    let bracketed = [('[', ']'), ('(', ')'), ('*', '*'), ('♪', '♪'), ('（', '）')];
    bracketed
        .into_iter()
        .any(|(open, close)| enclosed(open, close))
        || !text.chars().any(char::is_alphanumeric)
}

/// Normalizes a text: lower case, only letters, digits and apostrophes, one space between words.
pub(super) fn plain(text: &str) -> String {
    let lower = text.to_lowercase().replace('’', "'");
    let kept = lower.replace(|c: char| !c.is_alphanumeric() && c != '\'', " ");
    let words: Vec<&str> = kept.split_whitespace().collect();
    words.join(" ")
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::text) fn segment(text: &str) -> Segment {
        Segment::said(0.0, 2.0, text)
    }

    /// A track of eight seconds, all speech or all silence.
    pub(in crate::text) fn track(spoken: bool) -> SpeechTrack {
        SpeechTrack::new(vec![if spoken { 250 } else { 3 }; 250])
    }

    pub(in crate::text) fn reasons(
        segments: Vec<Segment>,
        speech: &SpeechTrack,
    ) -> (Vec<&'static str>, String) {
        let mut transcript = ChunkTranscript {
            segments,
            ..ChunkTranscript::default()
        };
        let removed = guard(&mut transcript, speech);
        let left: String = transcript
            .segments
            .iter()
            .map(|s| s.text.as_str())
            .collect();
        (removed.iter().map(|r| r.reason.as_str()).collect(), left)
    }

    #[test]
    fn a_known_phrase_is_removed_in_silence_and_kept_in_speech() {
        for phrase in [
            " Thank you.",
            " Thanks for watching!",
            " [Music]",
            " ♪♪",
            " ...",
            " ご視聴ありがとうございました",
        ] {
            let (silent, left) = reasons(vec![segment(phrase)], &track(false));
            assert_eq!(
                (silent.as_slice(), left.as_str()),
                (&["known_phrase"][..], ""),
                "{phrase}"
            );
            let (spoken, left) = reasons(vec![segment(phrase)], &track(true));
            assert_eq!((spoken.len(), left.as_str()), (0, phrase));
        }
        let (other, _) = reasons(vec![segment(" Turn on the light.")], &track(false));
        assert!(other.is_empty());
    }

    #[test]
    fn whispers_own_probabilities_count_in_silence() {
        let doubtful = |no_speech_prob, avg_logprob, compression_ratio| Segment {
            avg_logprob,
            compression_ratio,
            no_speech_prob,
            ..segment(" Well then")
        };
        let one = |segment: Segment, spoken| reasons(vec![segment], &track(spoken)).0;
        assert!(one(doubtful(0.9, -1.2, 1.0), true).is_empty());
        assert!(one(doubtful(0.9, -0.5, 1.0), true).is_empty());
        assert!(one(doubtful(0.1, -1.5, 2.8), true).is_empty());
        assert_eq!(one(doubtful(0.9, -0.5, 1.0), false), ["no_speech"]);
        // Quiet speech over a bad line, and whisper's times are off.
        let mut faint = vec![3; 250];
        faint[64..74].fill(60);
        let faint = SpeechTrack::new(faint);
        assert!(reasons(vec![segment(" Okay.")], &faint).0.is_empty());
        assert_eq!(one(doubtful(0.1, -1.5, 1.0), false), ["low_logprob"]);
        assert_eq!(one(doubtful(0.1, -0.5, 2.8), false), ["compression"]);
    }

    #[test]
    fn a_doubtful_text_in_a_short_gap_is_removed_although_there_is_speech_on_both_sides() {
        // Speech, 0.24 s of silence, and speech again.
        let mut values = vec![250; 250];
        values[100..108].fill(3);
        let speech = SpeechTrack::new(values);
        let between = |text: &str, start, end, no_speech_prob, avg_logprob| {
            let doubtful = Segment {
                avg_logprob,
                no_speech_prob,
                ..Segment::said(start, end, text)
            };
            let first = Segment::said(0.0, start, " The train leaves at half past eight.");
            let last = Segment::said(end, 8.0, " Please bring a warm coat.");
            let (reasons, left) = reasons(vec![first, doubtful, last], &speech);
            (reasons, left.contains(text))
        };
        let removed = (vec!["no_speech"], false);
        let kept = (vec![], true);
        assert_eq!(between(" Thank you.", 3.2, 3.44, 0.84, -0.94), removed);
        assert_eq!(
            between(" Untertitel von Stephanie", 3.2, 3.44, 0.84, -0.94),
            removed
        );
        // Whisper's times are off, and reach a little into the speech.
        assert_eq!(between(" Thank you.", 3.1, 3.5, 0.84, -0.94), removed);
        // Either of whisper's probabilities supports the text, or there is speech at that time.
        assert_eq!(between(" Thank you.", 3.2, 3.44, 0.4, -0.94), kept);
        assert_eq!(between(" Thank you.", 3.2, 3.44, 0.84, -0.4), kept);
        assert_eq!(between(" Thank you.", 2.6, 3.3, 0.84, -0.94), kept);
    }

    #[test]
    fn a_doubtful_text_after_the_last_word_is_removed() {
        let mut values = vec![250; 250];
        values[150..].fill(3);
        let speech = SpeechTrack::new(values);
        let sentence = Segment::said(0.0, 4.8, " The train leaves at half past eight.");
        let doubtful = |start| Segment {
            no_speech_prob: 0.8,
            avg_logprob: -0.9,
            ..Segment::said(start, 7.0, " Bye.")
        };
        let said = |segments| reasons(segments, &speech);
        let (removed, _) = said(vec![sentence.clone(), doubtful(4.8)]);
        assert_eq!(removed, ["no_speech"]);
        let (removed, _) = said(vec![doubtful(4.7)]);
        assert_eq!(removed, [""; 0], "its own speech is not another segment's");
    }

    #[test]
    fn without_a_speech_track_whispers_own_probability_decides() {
        let unknown = SpeechTrack::default();
        let doubtful = Segment {
            no_speech_prob: 0.9,
            ..segment(" Thank you.")
        };
        assert_eq!(reasons(vec![doubtful], &unknown).0, ["known_phrase"]);
        let sure = segment(" Thank you.");
        assert!(reasons(vec![sure], &unknown).0.is_empty());
        let unsaid = Segment {
            no_speech_prob: 0.9,
            ..segment(" Turn on the light.")
        };
        assert!(reasons(vec![unsaid], &unknown).0.is_empty());
    }

    #[test]
    fn the_known_phrases_are_normalized() {
        for line in include_str!("known_phrases.txt").lines() {
            assert!(line.starts_with('#') || plain(line) == line, "{line}");
        }
    }
}
