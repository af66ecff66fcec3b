//! Tokens: the ids with a special meaning, and the texts of the others.

use crate::file::ModelFile;

/// A token's number.
pub type Token = u32;

/// Tokens of time stamps: 0.00 s to 30.00 s in steps of 20 ms.
pub const TIMESTAMPS: u32 = 1501;
/// Vocabulary of multilingual models with 99 languages. Smaller ones are English only, larger ones have more languages.
const MULTILINGUAL: usize = 51_865;

/// The special tokens of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Special {
    /// Ends the text. All smaller tokens are text.
    pub end: Token,
    /// Begins the transcript.
    pub start: Token,
    /// Number of languages. Their tokens follow [`Self::start`].
    pub languages: u32,
    /// Asks for a translation into English.
    pub translate: Token,
    /// Asks for a transcript.
    pub transcribe: Token,
    /// Separates a prompt from the transcript.
    pub previous: Token,
    /// Its probability at the first position is that of silence.
    pub no_speech: Token,
    /// Asks for text without time stamps.
    pub no_timestamps: Token,
    /// The time stamp 0.00 s.
    pub first_timestamp: Token,
    /// Whether the model knows languages other than English.
    pub multilingual: bool,
}

impl Special {
    /// The special tokens of a model with this vocabulary. Every version orders them in the same way.
    pub fn of(vocabulary: usize) -> Self {
        let multilingual = vocabulary >= MULTILINGUAL;
        let end = if multilingual { 50_257 } else { 50_256 };
        let start = end + 1;
        let more = vocabulary.saturating_sub(MULTILINGUAL) as u32;
        let languages = 99 + if multilingual { more } else { 0 };
        let translate = start + 1 + languages;
        Self {
            end,
            start,
            languages,
            translate,
            transcribe: translate + 1,
            previous: translate + 3,
            no_speech: translate + 4,
            no_timestamps: translate + 5,
            first_timestamp: translate + 6,
            multilingual,
        }
    }

    /// The token of a language, by its place in Whisper's list.
    pub fn language(&self, place: u32) -> Option<Token> {
        (place < self.languages).then(|| self.start + 1 + place)
    }

    /// The time that a time-stamp token stands for, in steps of 20 ms.
    pub fn timestamp(&self, token: Token) -> Option<u32> {
        token.checked_sub(self.first_timestamp)
    }
}

/// The texts of a model's tokens.
#[derive(Debug)]
pub struct Vocabulary {
    /// The special tokens.
    pub special: Special,
    texts: Vec<Vec<u8>>,
}

impl Vocabulary {
    /// The vocabulary of a model file.
    pub fn of(file: &ModelFile) -> Self {
        Self {
            special: Special::of(file.dimensions.vocabulary),
            texts: file.texts.clone(),
        }
    }

    /// The bytes of a token of text; nothing for special tokens. A character may be spread over several tokens.
    pub fn bytes(&self, token: Token) -> &[u8] {
        if token >= self.special.end {
            return &[];
        }
        self.texts.get(token as usize).map_or(&[], Vec::as_slice)
    }

    /// The text of tokens. Incomplete characters are replaced.
    pub fn text(&self, tokens: &[Token]) -> String {
        let bytes: Vec<u8> = (tokens.iter())
            .flat_map(|token| self.bytes(*token))
            .copied()
            .collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Tokens that are not speech, which OpenAI's implementation suppresses: brackets, notes and other symbols.
    pub fn non_speech(&self) -> Vec<Token> {
        (0..self.special.end)
            .filter(|token| is_non_speech(self.bytes(*token)))
            .collect()
    }
}

/// Symbols that OpenAI's `tokenizer.non_speech_tokens` lists, alone or after a space.
const SYMBOLS: &str = "\"#()*+/:;<=>@[\\]^_`{|}~「」『』";
/// Longer ones of that list.
const LONG_SYMBOLS: [&str; 19] = [
    "<<", ">>", "<<<", ">>>", "--", "---", "-(", "-[", "('", "(\"", "((", "))", "(((", ")))", "[[",
    "]]", "{{", "}}", "♪♪",
];

fn is_non_speech(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return false;
    };
    // A hyphen or an apostrophe is suppressed at the beginning of a word only.
    if text == " -" || text == " '" {
        return true;
    }
    let bare = text.strip_prefix(' ').unwrap_or(text);
    let mut letters = bare.chars();
    let single = letters.next().filter(|_| letters.next().is_none());
    let is_note = |letter| ('♩'..='♯').contains(&letter);
    single.is_some_and(|letter| SYMBOLS.contains(letter) || is_note(letter))
        || LONG_SYMBOLS.contains(&bare)
        || bare == "♪♪♪"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_tokens_are_those_of_the_published_models() {
        let english = Special::of(51_864);
        assert_eq!(
            (english.end, english.start, english.no_timestamps),
            (50_256, 50_257, 50_362)
        );
        let many = Special::of(51_865);
        assert_eq!(
            (many.transcribe, many.no_speech, many.first_timestamp),
            (50_359, 50_362, 50_364)
        );
        let large = Special::of(51_866);
        assert_eq!((large.languages, large.first_timestamp), (100, 50_365));
        for special in [english, many, large] {
            let all = special.first_timestamp + TIMESTAMPS;
            assert_eq!(
                all,
                51_864 + u32::from(special.multilingual) + (special.languages - 99)
            );
        }
    }
}
