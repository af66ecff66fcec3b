//! Joins tokens into words.

use stt_actors::domain::transcript::Word;

/// A token of text: UTF-8 that may end in the middle of a character.
#[derive(Clone, Copy, Debug)]
pub struct Token<'a> {
    pub id: i32,
    pub bytes: &'a [u8],
    /// In seconds.
    pub start: f64,
    /// In seconds.
    pub end: f64,
    pub logprob: f32,
}

/// Joins tokens into words. A word begins with a space, or with each character in scripts without spaces.
pub fn of_tokens<'a>(tokens: impl Iterator<Item = Token<'a>>) -> Vec<Word> {
    let mut words = Vec::new();
    let mut open: Option<(Vec<u8>, Word)> = None;
    for token in tokens {
        let begins_anew = open
            .as_ref()
            .is_none_or(|(bytes, _)| ends_before(bytes, token.bytes));
        if begins_anew {
            words.extend(open.take().map(close));
        }
        let (bytes, word) = open.get_or_insert_with(|| {
            let word = Word {
                text: String::new(),
                start: token.start,
                end: token.end,
                tokens: 0,
                logprob: 0.0,
            };
            (Vec::new(), word)
        });
        bytes.extend_from_slice(token.bytes);
        word.end = token.end;
        word.tokens += 1;
        word.logprob += token.logprob;
    }
    words.extend(open.map(close));
    words
}

/// Whether a word with these bytes ends before the next bytes.
fn ends_before(bytes: &[u8], next: &[u8]) -> bool {
    if next.starts_with(b" ") {
        return true;
    }
    // Not in the middle of a character.
    let text = std::str::from_utf8(bytes);
    text.is_ok_and(|text| text.chars().next_back().is_some_and(is_without_blanks))
}

/// Characters of Chinese, Japanese, Thai and other scripts without spaces.
fn is_without_blanks(letter: char) -> bool {
    matches!(letter, '\u{0e00}'..='\u{0eff}' | '\u{1000}'..='\u{109f}' | '\u{2e80}'..='\u{9fff}' | '\u{20000}'..)
}

fn close((bytes, word): (Vec<u8>, Word)) -> Word {
    Word {
        text: String::from_utf8_lossy(&bytes).into_owned(),
        ..word
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(tokens: &[&[u8]]) -> Vec<(String, usize)> {
        let tokens = tokens.iter().enumerate().map(|(place, bytes)| Token {
            id: 1,
            bytes,
            start: place as f64,
            end: place as f64 + 1.0,
            logprob: -0.5,
        });
        let words = of_tokens(tokens).into_iter();
        words.map(|word| (word.text, word.tokens)).collect()
    }

    #[test]
    fn a_space_begins_a_word_and_tokens_without_one_belong_to_it() {
        let found = words(&[b" Good", b" mor", b"ning", b",", b" you", b"'re", b"."]);
        let expected = [(" Good", 1), (" morning,", 3), (" you're.", 3)];
        assert_eq!(
            found,
            expected.map(|(text, tokens)| (text.to_owned(), tokens))
        );
        assert!(words(&[]).is_empty());
    }

    #[test]
    fn characters_of_several_tokens_stay_whole() {
        let bytes = "谢谢".as_bytes();
        let found = words(&[
            &bytes[..2],
            &bytes[2..3],
            &bytes[3..],
            "é".as_bytes(),
            b" oui",
        ]);
        let expected = [("谢", 2), ("谢", 1), ("é", 1), (" oui", 1)];
        assert_eq!(
            found,
            expected.map(|(text, tokens)| (text.to_owned(), tokens))
        );
    }

    #[test]
    fn a_words_times_and_probability_are_those_of_its_tokens() {
        let tokens = [(0.0, 0.2, -0.1), (0.2, 0.5, -0.3)].map(|(start, end, logprob)| Token {
            id: 1,
            bytes: b"x",
            start,
            end,
            logprob,
        });
        let word = &of_tokens(tokens.into_iter())[0];
        assert!((word.start - 0.0).abs() < 1e-9 && (word.end - 0.5).abs() < 1e-9);
        assert!((word.logprob + 0.4).abs() < 1e-6);
    }
}
