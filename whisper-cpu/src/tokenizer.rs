//! Splits text into tokens, for prompts.
//!
//! Byte pair encoding as GPT-2 has it: the text is split into words, numbers and symbols, and within each, the two
//! neighbours whose concatenation has the smallest token number are joined, again and again. A token's number is its
//! rank among the merges, so the vocabulary suffices.

use std::collections::HashMap;

use crate::vocabulary::{Token, Vocabulary};

/// Contractions that are parts of their own.
const CONTRACTIONS: [&str; 7] = ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d"];

/// Splits text into tokens.
#[derive(Debug)]
pub struct Tokenizer {
    tokens: HashMap<Vec<u8>, Token>,
}

impl Tokenizer {
    /// For a vocabulary.
    pub fn new(vocabulary: &Vocabulary) -> Self {
        let all = 0..vocabulary.special.end;
        Self {
            tokens: all
                .map(|token| (vocabulary.bytes(token).to_vec(), token))
                .collect(),
        }
    }

    /// The tokens of a text. Bytes that the vocabulary does not hold are left out.
    pub fn tokens(&self, text: &str) -> Vec<Token> {
        let mut tokens = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let (part, after) = rest.split_at(part_length(rest));
            self.encode(part.as_bytes(), &mut tokens);
            rest = after;
        }
        tokens
    }

    fn encode(&self, part: &[u8], tokens: &mut Vec<Token>) {
        if let Some(token) = self.tokens.get(part) {
            tokens.push(*token);
            return;
        }
        // The ends of the pieces, at first of single bytes.
        let mut ends: Vec<usize> = (1..=part.len()).collect();
        loop {
            let begin = |piece: usize| piece.checked_sub(1).map_or(0, |before| ends[before]);
            let joined = (0..ends.len().saturating_sub(1)).filter_map(|piece| {
                let both = &part[begin(piece)..ends[piece + 1]];
                self.tokens.get(both).map(|token| (*token, piece))
            });
            let Some((_, piece)) = joined.min() else {
                break;
            };
            ends.remove(piece);
        }
        let mut begin = 0;
        for end in ends {
            tokens.extend(self.tokens.get(&part[begin..end]));
            begin = end;
        }
    }
}

/// Length of the first part of a text: a contraction, a word, a number or symbols, each with the space before it; or
/// blanks.
fn part_length(text: &str) -> usize {
    if let Some(found) = CONTRACTIONS.iter().find(|part| text.starts_with(**part)) {
        return found.len();
    }
    let bare = text.strip_prefix(' ').unwrap_or(text);
    let space = text.len() - bare.len();
    let run = |belongs: fn(char) -> bool| {
        let end = bare
            .find(|letter: char| !belongs(letter))
            .unwrap_or(bare.len());
        space + end
    };
    match bare.chars().next() {
        Some(first) if first.is_alphabetic() => run(char::is_alphabetic),
        Some(first) if first.is_numeric() => run(char::is_numeric),
        Some(first) if !first.is_whitespace() => {
            run(|letter| !letter.is_alphabetic() && !letter.is_numeric() && !letter.is_whitespace())
        }
        _ => {
            let blanks = text
                .find(|letter: char| !letter.is_whitespace())
                .unwrap_or(text.len());
            let last = text[..blanks].chars().next_back().map_or(0, char::len_utf8);
            // The last blank belongs to what follows, if other blanks remain.
            if blanks < text.len() && blanks > last {
                blanks - last
            } else {
                blanks
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(text: &str) -> Vec<&str> {
        let mut parts = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let (part, after) = rest.split_at(part_length(rest));
            parts.push(part);
            rest = after;
        }
        parts
    }

    #[test]
    fn words_numbers_symbols_and_blanks_are_parts() {
        assert_eq!(
            parts("I'm here, 42 times!"),
            ["I", "'m", " here", ",", " 42", " times", "!"]
        );
        assert_eq!(parts("a   b \n"), ["a", "  ", " b", " \n"]);
        assert_eq!(parts("Grüße 你好"), ["Grüße", " 你好"]);
    }

    #[test]
    fn neighbours_with_the_smallest_number_are_joined_first() {
        let texts: [&[u8]; 7] = [b"a", b"b", b"c", b"bc", b"ab", b"abc", b" a"];
        let tokens = (0..).zip(texts).map(|(token, text)| (text.to_vec(), token));
        let tokenizer = Tokenizer {
            tokens: tokens.collect(),
        };
        // "bc" has a smaller number than "ab".
        assert_eq!(tokenizer.tokens("aabc"), [0, 5]);
        assert_eq!(tokenizer.tokens("abab"), [4, 4]);
        assert_eq!(tokenizer.tokens("ab a?"), [4, 6]);
    }
}
