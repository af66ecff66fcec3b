//! Shortens loops: a phrase within a segment, or a whole segment, that is repeated again and again.

use std::ops::Range;

use super::hallucination::{COMPRESSION_THRESHOLD, plain};
use crate::domain::transcript::{Reason, Removed, Segment, Word, compression_ratio, letters};

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

/// Reduces a loop in a segment's text to one repetition. Returns the removed text.
pub(super) fn shorten_loop(segment: &mut Segment) -> Option<String> {
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
pub(super) fn drop_equal_runs(kept: &mut Vec<Segment>, removed: &mut Vec<Removed>) {
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
    use super::super::hallucination::tests::{reasons, segment, track};
    use super::*;
    use crate::domain::transcript::{ChunkTranscript, TokenLogprob};
    use crate::text::hallucination::guard;

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
}
