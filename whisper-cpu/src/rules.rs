//! Which tokens may come next: the rules of OpenAI's implementation (`decoding.py`).

use crate::kernels::{log_sum_exp, maximum};
use crate::vocabulary::{TIMESTAMPS, Token, Vocabulary};

/// The latest time at which the first segment may begin, in time-stamp tokens: 1 s.
const LATEST_BEGIN: u32 = 50;

/// The rules for one model.
#[derive(Debug)]
pub struct Rules {
    end: usize,
    first_timestamp: usize,
    vocabulary: usize,
    /// Never allowed.
    suppressed: Vec<Token>,
    /// Not allowed at the beginning.
    blank: Vec<Token>,
}

impl Rules {
    /// The rules for a vocabulary.
    pub fn new(vocabulary: &Vocabulary) -> Self {
        let special = vocabulary.special;
        let mut suppressed = vocabulary.non_speech();
        // All special tokens except the end of the text and the time stamps.
        suppressed.extend(special.start..special.first_timestamp);
        let space = (0..special.end).filter(|token| vocabulary.bytes(*token) == b" ");
        Self {
            end: special.end as usize,
            first_timestamp: special.first_timestamp as usize,
            vocabulary: (special.first_timestamp + TIMESTAMPS) as usize,
            suppressed,
            blank: space.chain([special.end]).collect(),
        }
    }

    /// Forbids tokens that may not follow `tokens`, the text so far with its time stamps, by setting their scores to
    /// −∞. Without `timestamps`, time stamps are forbidden.
    pub fn apply(&self, scores: &mut [f32], tokens: &[Token], timestamps: bool) {
        for token in &self.suppressed {
            forbid(scores, *token as usize..*token as usize + 1);
        }
        if tokens.is_empty() {
            for token in &self.blank {
                forbid(scores, *token as usize..*token as usize + 1);
            }
        }
        if timestamps {
            self.apply_to_timestamps(scores, tokens);
        } else {
            forbid(scores, self.first_timestamp..self.vocabulary);
        }
    }

    /// Time stamps come in pairs, except at the end of the text; they never go back.
    fn apply_to_timestamps(&self, scores: &mut [f32], tokens: &[Token]) {
        let is_timestamp = |token: &Token| *token as usize >= self.first_timestamp;
        let Some(last) = tokens.last() else {
            // A time stamp comes first, and not a late one.
            forbid(scores, 0..self.first_timestamp);
            let latest = self.first_timestamp + LATEST_BEGIN as usize;
            forbid(scores, latest + 1..self.vocabulary);
            return;
        };
        let before = tokens
            .len()
            .checked_sub(2)
            .and_then(|place| tokens.get(place));
        let in_a_pair = before.is_none_or(is_timestamp);
        if is_timestamp(last) {
            if in_a_pair {
                forbid(scores, self.first_timestamp..self.vocabulary);
            } else {
                forbid(scores, 0..self.end);
            }
        }
        if let Some(latest) = tokens.iter().rev().find(|token| is_timestamp(token)) {
            let closes = is_timestamp(last) && !in_a_pair;
            // A segment has a length, but the next one may begin where it ends.
            let from = *latest as usize + usize::from(!closes);
            forbid(scores, self.first_timestamp..from.min(self.vocabulary));
        }
        // If all time stamps together are more likely than any other token, it is one of them.
        let (texts, times) = scores.split_at(self.first_timestamp);
        if log_sum_exp(times) > maximum(texts) {
            forbid(scores, 0..self.first_timestamp);
        }
    }
}

fn forbid(scores: &mut [f32], tokens: std::ops::Range<usize>) {
    let end = tokens.end.min(scores.len());
    if tokens.start < end {
        scores[tokens.start..end].fill(f32::NEG_INFINITY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const END: usize = 4;
    const FIRST: usize = 10;

    /// Four tokens of text, of which 3 is a symbol and 2 a space; special tokens 4 to 9; then the time stamps.
    fn rules() -> Rules {
        Rules {
            end: END,
            first_timestamp: FIRST,
            vocabulary: FIRST + TIMESTAMPS as usize,
            suppressed: vec![3, 5, 6, 7, 8, 9],
            blank: vec![2, END as u32],
        }
    }

    fn allowed(tokens: &[Token], timestamps: bool) -> Vec<usize> {
        let rules = rules();
        let mut scores = vec![0.0; rules.vocabulary];
        // Text is likely, so that the rule of the sum does not apply.
        scores[..FIRST].fill(20.0);
        rules.apply(&mut scores, tokens, timestamps);
        (0..scores.len())
            .filter(|token| scores[*token].is_finite())
            .collect()
    }

    fn time(step: u32) -> Token {
        FIRST as u32 + step
    }

    #[test]
    fn without_time_stamps_only_text_is_allowed_and_it_does_not_begin_with_a_space_or_the_end() {
        assert_eq!(allowed(&[], false), [0, 1]);
        assert_eq!(allowed(&[0], false), [0, 1, 2, END]);
    }

    #[test]
    fn a_time_stamp_of_the_first_second_comes_first() {
        assert_eq!(allowed(&[], true), (FIRST..=FIRST + 50).collect::<Vec<_>>());
    }

    #[test]
    fn text_follows_the_time_stamp_that_opens_a_segment() {
        assert_eq!(allowed(&[time(3)], true), [0, 1, 2, END]);
        assert_eq!(
            allowed(&[time(3), 0, time(9), time(9)], true),
            [0, 1, 2, END]
        );
    }

    #[test]
    fn the_end_or_the_next_segment_follows_the_time_stamp_that_closes_one() {
        let found = allowed(&[time(3), 0, time(9)], true);
        assert_eq!(found[..2], [END, FIRST + 9]);
        assert_eq!(found.len(), 1 + TIMESTAMPS as usize - 9);
    }

    #[test]
    fn a_segment_has_a_length() {
        let found = allowed(&[time(3), 0], true);
        assert_eq!(found[..5], [0, 1, 2, END, FIRST + 4]);
    }

    #[test]
    fn a_time_stamp_is_chosen_if_all_together_are_the_most_likely() {
        let rules = rules();
        let mut scores = vec![0.0; rules.vocabulary];
        rules.apply(&mut scores, &[time(0), 0], true);
        assert!(scores[..FIRST].iter().all(|score| score.is_infinite()));
    }
}
