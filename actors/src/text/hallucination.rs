//! Removes hallucinated text: found by whisper's own probabilities, by repetition, and by a lack of
//! speech.
//!
//! Whisper writes text for every window, and for silence it often writes what ends videos. The
//! thresholds on its probabilities are those of its reference implementation (`no_speech_threshold`,
//! `logprob_threshold`, `compression_ratio_threshold`). Doubtful text is removed only where there is
//! hardly any speech. Where there is speech the text stays, however unlikely; only loops are shortened.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::LazyLock;

use crate::domain::chunk::SpeechTrack;
use crate::domain::transcript::{
    ChunkTranscript, Reason, Removed, Segment, Word, compression_ratio, letters,
};

/// Above this probability of "no speech", whisper's estimate counts.
const NO_SPEECH_THRESHOLD: f32 = 0.6;
/// Mean log-probability below which text is a guess.
const LOGPROB_THRESHOLD: f32 = -1.0;
/// Compression ratio above which text repeats itself.
const COMPRESSION_THRESHOLD: f32 = 2.4;
/// Less speech than this, in seconds, is hardly any: it is shorter than the shortest word.
const HARDLY_ANY_SPEECH: f64 = 0.2;
/// The error of whisper's times, in seconds.
const TIME_TOLERANCE: f64 = 0.3;
/// A phrase that is repeated this often in a row is a loop.
const LOOP_TIMES: usize = 6;
/// Minimum length of a loop in characters: a shorter one may be laughter.
const LOOP_CHARACTERS: usize = 40;
/// Maximum length of the repeated phrase, in characters.
const LONGEST_PERIOD: usize = 120;
/// Minimum letters of a repeated segment: speakers do repeat single words.
const LEAST_LOOPED: f64 = 8.0;
/// This many equal segments in a row are a loop.
const EQUAL_SEGMENTS: usize = 4;

/// Removes hallucinated text from a chunk's transcript. Returns the removed text, with times that count
/// from the chunk's first sample. `speech` is the speech track of the chunk.
pub fn guard(transcript: &mut ChunkTranscript, speech: &SpeechTrack) -> Vec<Removed> {
    let mut removed = Vec::new();
    let mut kept: Vec<Segment> = Vec::new();
    for mut segment in std::mem::take(&mut transcript.segments) {
        if let Some(reason) = judge(&segment, speech) {
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

fn judge(segment: &Segment, speech: &SpeechTrack) -> Option<Reason> {
    let (start, end) = (segment.start - TIME_TOLERANCE, segment.end + TIME_TOLERANCE);
    let spoken = speech.seconds_of_possible_speech(start, end);
    // Without a speech track, whisper's own probability decides.
    let silent_to_whisper = segment.no_speech_prob > NO_SPEECH_THRESHOLD;
    let hardly_spoken = spoken.map_or(silent_to_whisper, |spoken| spoken < HARDLY_ANY_SPEECH);
    let is_guess = segment.avg_logprob < LOGPROB_THRESHOLD;
    if !hardly_spoken {
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
fn plain(text: &str) -> String {
    let lower = text.to_lowercase().replace('’', "'");
    let kept = lower.replace(|c: char| !c.is_alphanumeric() && c != '\'', " ");
    let words: Vec<&str> = kept.split_whitespace().collect();
    words.join(" ")
}

/// Reduces a loop in a segment's text to one repetition. Returns the removed text.
fn shorten_loop(segment: &mut Segment) -> Option<String> {
    if segment.compression_ratio <= COMPRESSION_THRESHOLD {
        return None;
    }
    let text: Vec<char> = segment.text.chars().collect();
    let found = longest_loop(&text)?;
    let taken = found.start + found.period..found.end;
    if let Some(words) = words_of(segment, &taken) {
        return Some(take_out_words(segment, words));
    }
    let repeated = text[taken.clone()].iter().collect();
    segment.text = text[..taken.start]
        .iter()
        .chain(&text[taken.end..])
        .collect();
    segment.compression_ratio = compression_ratio(&segment.text);
    // These belong to the text with the loop.
    segment.words.clear();
    segment.tokens.clear();
    segment.logprobs.clear();
    Some(repeated)
}

/// The words that begin in a range of the text's characters; `None` if the words do not add up to the
/// text.
fn words_of(segment: &Segment, characters: &Range<usize>) -> Option<Range<usize>> {
    let mut so_far = 0;
    let mut begin = Vec::with_capacity(segment.words.len());
    let mut text = String::new();
    for word in &segment.words {
        begin.push(so_far);
        so_far += word.text.chars().count();
        text += &word.text;
    }
    let before = |end: usize| begin.iter().filter(|begin| **begin < end).count();
    let words = before(characters.start)..before(characters.end);
    (text == segment.text && !words.is_empty()).then_some(words)
}

/// Removes words with their tokens. Returns their text.
fn take_out_words(segment: &mut Segment, words: Range<usize>) -> String {
    let tokens = |words: &[Word]| words.iter().map(|word| word.tokens).sum::<usize>();
    let first = tokens(&segment.words[..words.start]).min(segment.tokens.len());
    let end = (first + tokens(&segment.words[words.clone()])).min(segment.tokens.len());
    segment.tokens.drain(first..end);
    let logprobs = segment.logprobs.len();
    segment
        .logprobs
        .drain(first.min(logprobs)..end.min(logprobs));
    let text = |words: &[Word]| {
        words
            .iter()
            .map(|word| word.text.as_str())
            .collect::<String>()
    };
    let taken: Vec<Word> = segment.words.drain(words).collect();
    segment.text = text(&segment.words);
    segment.compression_ratio = compression_ratio(&segment.text);
    let logprob: f32 = segment.words.iter().map(|word| word.logprob).sum();
    segment.avg_logprob = logprob / tokens(&segment.words).max(1) as f32;
    text(&taken)
}

struct Loop {
    start: usize,
    period: usize,
    end: usize,
}

/// The longest loop in the text: one phrase, repeated without anything between.
fn longest_loop(text: &[char]) -> Option<Loop> {
    let mut longest: Option<Loop> = None;
    for period in 1..=LONGEST_PERIOD.min(text.len() / LOOP_TIMES) {
        let mut start = 0;
        for end in period..=text.len() {
            if end < text.len() && text[end] == text[end - period] {
                continue;
            }
            let length = end - start;
            let times = length / period;
            let whole = times * period;
            let is_loop = times >= LOOP_TIMES && whole >= LOOP_CHARACTERS;
            let known = longest.as_ref().map_or(0, |known| known.end - known.start);
            // The first of several equally long ones, which has the shortest period.
            if is_loop && whole > known {
                longest = Some(Loop {
                    start,
                    period,
                    end: start + whole,
                });
            }
            start = end + 1 - period;
        }
    }
    longest
}

/// Keeps one of many equal segments in a row.
fn drop_equal_runs(kept: &mut Vec<Segment>, removed: &mut Vec<Removed>) {
    let mut segments = std::mem::take(kept).into_iter().peekable();
    while let Some(first) = segments.next() {
        let said = plain(&first.text);
        let mut again = Vec::new();
        while let Some(next) = segments.next_if(|next| plain(&next.text) == said) {
            again.push(next);
        }
        let is_loop = again.len() + 1 >= EQUAL_SEGMENTS && letters(&said) >= LEAST_LOOPED;
        kept.push(first);
        if is_loop {
            let taken = again.iter();
            removed.extend(taken.map(|s| Removed::of(s, s.text.clone(), Reason::Repetition)));
        } else {
            kept.append(&mut again);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::transcript::TokenLogprob;

    fn segment(text: &str) -> Segment {
        Segment::said(0.0, 2.0, text)
    }

    /// A track of eight seconds, all speech or all silence.
    fn track(spoken: bool) -> SpeechTrack {
        SpeechTrack::new(vec![if spoken { 250 } else { 3 }; 250])
    }

    fn reasons(segments: Vec<Segment>, speech: &SpeechTrack) -> (Vec<&'static str>, String) {
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
    fn a_loop_is_shortened_to_one_repetition_and_the_text_around_it_stays() {
        let looping = Segment {
            compression_ratio: 9.0,
            ..segment(&format!(
                " Well,{} and so on.",
                " thank you so much.".repeat(12)
            ))
        };
        let (why, left) = reasons(vec![looping], &track(true));
        assert_eq!(why, ["repetition"]);
        assert_eq!(left, " Well, thank you so much. and so on.");
        let chinese = Segment {
            compression_ratio: 9.0,
            ..segment(&"谢谢大家".repeat(20))
        };
        assert_eq!(reasons(vec![chinese], &track(true)).1, "谢谢大家");
    }

    #[test]
    fn the_words_and_tokens_of_a_loop_are_removed_with_its_text() {
        let thanks = [[" thank", " you."]; 12].concat();
        let texts = std::iter::once(" Well,").chain(thanks).chain([" Bye."]);
        let words: Vec<Word> = texts
            .map(|text| Word {
                text: text.to_owned(),
                start: 0.0,
                end: 1.0,
                tokens: 1,
                logprob: -0.3,
            })
            .collect();
        let logprob = |word: &Word| TokenLogprob {
            bytes: word.text.clone().into_bytes(),
            logprob: word.logprob,
        };
        let text: String = words.iter().map(|word| word.text.as_str()).collect();
        let looping = Segment {
            compression_ratio: 9.0,
            tokens: (0..words.len() as i32).collect(),
            logprobs: words.iter().map(logprob).collect(),
            words,
            ..segment(&text)
        };
        let mut transcript = ChunkTranscript {
            segments: vec![looping],
            ..ChunkTranscript::default()
        };
        let removed = guard(&mut transcript, &track(true));
        let left = &transcript.segments[0];
        assert_eq!(left.text, " Well, thank you. Bye.");
        assert_eq!(removed[0].text, " thank you.".repeat(11));
        assert_eq!(left.tokens, [0, 1, 2, 25]);
        assert_eq!((left.words.len(), left.logprobs.len()), (4, 4));
        assert!(left.compression_ratio < 2.0 && (left.avg_logprob + 0.3).abs() < 1e-6);
    }

    #[test]
    fn a_few_repetitions_are_kept() {
        for text in [
            " No, no, no, no, no, no!",
            " ha ha ha ha ha ha ha ha ha",
            " One two three. One two three. One two three.",
        ] {
            let said = Segment {
                compression_ratio: 2.6,
                ..segment(text)
            };
            let (why, left) = reasons(vec![said], &track(true));
            assert_eq!((why.len(), left.as_str()), (0, text));
        }
        let three = vec![segment(" I said it."); 3];
        assert!(reasons(three, &track(true)).0.is_empty());
    }

    #[test]
    fn many_equal_segments_in_a_row_leave_one() {
        let mut segments = vec![segment(" Before.")];
        segments.extend(vec![segment(" I don't know."); 5]);
        segments.push(segment(" After."));
        let (why, left) = reasons(segments, &track(true));
        assert_eq!(why, ["repetition"; 4]);
        assert_eq!(left, " Before. I don't know. After.");
    }

    #[test]
    fn the_known_phrases_are_normalized() {
        for line in include_str!("known_phrases.txt").lines() {
            assert!(line.starts_with('#') || plain(line) == line, "{line}");
        }
    }
}
