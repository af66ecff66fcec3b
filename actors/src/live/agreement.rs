//! Which text of a growing utterance may be sent: the words on which two successive passes agree.
//!
//! Each pass transcribes the utterance from its start to the present. Its last words are uncertain, because their audio
//! is incomplete; words that the next pass confirms are sent and never taken back. This is the method LocalAgreement-2
//! (Liu et al. 2020, "Low-latency sequence-to-sequence speech recognition and translation by partial hypothesis
//! selection").

/// The passes over one part.
#[derive(Debug, Default)]
pub struct Agreement {
    previous: Vec<String>,
    /// Number of words that were sent.
    sent: usize,
}

impl Agreement {
    /// Takes the text of the next pass. Returns the text that two passes agree on and that was not sent before.
    pub fn hear(&mut self, text: &str) -> Option<String> {
        let words = words(text);
        let same = (self.previous.iter().zip(&words))
            .take_while(|(before, now)| key(before) == key(now))
            .count();
        // Whether a comma or a full stop follows the last word is still open.
        let agreed = same.min(words.len().saturating_sub(1));
        let new = (agreed > self.sent).then(|| words[self.sent..agreed].concat());
        self.sent = self.sent.max(agreed);
        self.previous = words;
        new
    }

    /// The rest of the final text.
    pub fn finish(self, text: &str) -> String {
        let words = words(text);
        words.get(self.sent..).unwrap_or_default().concat()
    }
}

/// A word without case and punctuation.
fn key(word: &str) -> String {
    let letters = word.chars().filter(|c| c.is_alphanumeric());
    letters.flat_map(char::to_lowercase).collect()
}

/// The words of a text, each with the space before it. In scripts without spaces, every character is a word.
fn words(text: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut after = None;
    for character in text.chars() {
        let begins = match after {
            None => true,
            Some(before) if is_spaceless(character) || is_spaceless(before) => {
                character.is_alphanumeric()
            }
            Some(before) => character.is_whitespace() && !before.is_whitespace(),
        };
        match words.last_mut() {
            Some(word) if !begins => word.push(character),
            Some(_) | None => words.push(character.to_string()),
        }
        after = Some(character);
    }
    words
}

/// Whether a character is of a script that has no spaces between words: Chinese, Japanese, Thai, Lao, Burmese, Khmer.
fn is_spaceless(character: char) -> bool {
    matches!(character,
        '\u{0e00}'..='\u{0eff}' | '\u{1000}'..='\u{109f}' | '\u{1780}'..='\u{17ff}'
        | '\u{3000}'..='\u{30ff}' | '\u{3400}'..='\u{9fff}' | '\u{f900}'..='\u{faff}'
        | '\u{ff00}'..='\u{ff9f}' | '\u{20000}'..='\u{3ffff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_sent_when_two_passes_agree_and_never_taken_back() {
        let mut agreement = Agreement::default();
        assert_eq!(agreement.hear(" Turn on the"), None);
        assert_eq!(
            agreement.hear(" Turn on the lights."),
            Some(" Turn on the".into())
        );
        assert_eq!(agreement.hear(" Turn on the light in"), None);
        assert_eq!(
            agreement.hear(" Turn on the light in the kitchen"),
            Some(" light in".into())
        );
        assert_eq!(
            agreement.finish(" Turn on the light in the kitchen."),
            " the kitchen."
        );
    }

    #[test]
    fn the_last_word_waits_for_its_punctuation() {
        let mut agreement = Agreement::default();
        agreement.hear(" Yes.");
        assert_eq!(agreement.hear(" Yes."), None);
        assert_eq!(agreement.hear(" Yes, please"), Some(" Yes,".into()));
        assert_eq!(agreement.hear(" Yes, please do"), Some(" please".into()));
    }

    #[test]
    fn a_final_text_that_changed_early_words_continues_after_those_that_were_sent() {
        let mut agreement = Agreement::default();
        agreement.hear(" I scream now");
        agreement.hear(" I scream now and");
        assert_eq!(agreement.finish(" Ice cream now and then"), " and then");
        let mut agreement = Agreement::default();
        agreement.hear(" one two three");
        agreement.hear(" one two three");
        assert_eq!(agreement.finish(" one"), "");
    }

    #[test]
    fn characters_are_words_where_there_are_no_spaces() {
        assert_eq!(words("打开灯。"), ["打", "开", "灯。"]);
        assert_eq!(words(" Turn on, please"), [" Turn", " on,", " please"]);
        let mut agreement = Agreement::default();
        agreement.hear("打开");
        assert_eq!(agreement.hear("打开灯"), Some("打开".into()));
        assert_eq!(agreement.finish("打开灯。"), "灯。");
    }
}
