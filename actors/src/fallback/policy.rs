//! Decides which texts are doubtful and are escalated to the fallback.
//!
//! Three tests: the confidence of the text, the probability of its language if that was detected, and the
//! number of words. A chunk without text had no speech, and is not tested.

use crate::domain::transcript::{ChunkTranscript, Weaknesses, confidence};

/// Languages that are written without spaces between words: each character counts as a word.
const WITHOUT_SPACES: [&str; 7] = ["zh", "yue", "ja", "th", "lo", "km", "my"];

/// The thresholds below which a text is doubtful.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EscalationPolicy {
    /// Minimum confidence of a text, 0 to 1 (`CONF_LOGPROB_THRESHOLD`).
    pub min_confidence: f32,
    /// Minimum probability of a detected language, 0 to 1 (`CONF_LANGPROB_THRESHOLD`).
    pub min_language_probability: f32,
    /// Minimum number of words in a whole request (`MIN_WORDS_FOR_CONF`).
    pub min_words: usize,
}

impl EscalationPolicy {
    /// The tests that a text fails. `few_words`: the whole request has fewer words than `min_words`.
    pub fn weaknesses(&self, text: &ChunkTranscript, few_words: bool) -> Weaknesses {
        if words(text) == 0 {
            return Weaknesses::default();
        }
        let confidence = confidence(&text.segments);
        Weaknesses {
            logprob: confidence.is_some_and(|confidence| confidence < self.min_confidence),
            langprob: self.doubts_language(text),
            min_words: few_words,
        }
    }

    /// Whether the language of a text was detected with too low a probability.
    pub fn doubts_language(&self, text: &ChunkTranscript) -> bool {
        let detected = text.language_probability;
        detected.is_some_and(|probability| probability < self.min_language_probability)
            && words(text) > 0
    }
}

/// Number of words of a text.
pub fn words(text: &ChunkTranscript) -> usize {
    let by_character = WITHOUT_SPACES.contains(&text.language.as_str());
    let joined: String = text.segments.iter().map(|s| s.text.as_str()).collect();
    if by_character {
        return joined.chars().filter(|c| c.is_alphanumeric()).count();
    }
    let words = joined.split_whitespace();
    words
        .filter(|word| word.chars().any(char::is_alphanumeric))
        .count()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::transcript::Segment;

    const POLICY: EscalationPolicy = EscalationPolicy {
        min_confidence: 0.55,
        min_language_probability: 0.7,
        min_words: 3,
    };

    fn text(said: &str, confidence: f32, language_probability: Option<f32>) -> ChunkTranscript {
        ChunkTranscript {
            segments: vec![Segment {
                avg_logprob: confidence.ln(),
                ..Segment::said(0.0, 1.0, said)
            }],
            language: "en".to_owned(),
            language_probability,
            ..ChunkTranscript::default()
        }
    }

    #[test]
    fn each_test_applies_independently() {
        let cases: [(f32, Option<f32>, bool, &[&str]); 6] = [
            (0.9, None, false, &[]),
            (0.5, None, false, &["logprob"]),
            (0.9, Some(0.7), false, &[]),
            (0.9, Some(0.69), false, &["langprob"]),
            (0.9, Some(0.9), true, &["min_words"]),
            (0.1, Some(0.1), true, &["logprob", "langprob", "min_words"]),
        ];
        for (confidence, language, few_words, expected) in cases {
            let text = text(" one two three", confidence, language);
            let found = POLICY.weaknesses(&text, few_words).names();
            assert_eq!(found, expected, "{confidence} {language:?} {few_words}");
        }
    }

    #[test]
    fn words_are_counted_by_script() {
        let counted = |language: &str, said: &str| {
            let language = language.to_owned();
            words(&ChunkTranscript {
                language,
                ..text(said, 1.0, None)
            })
        };
        assert_eq!(counted("en", " Well - it's 9:30, José!"), 4);
        assert_eq!(counted("en", " ... -"), 0);
        assert_eq!(counted("zh", "你好,世界。"), 4);
        assert_eq!(counted("en", ""), 0);
    }

    proptest! {
        /// A given language never fails the test of languages, and a text without words fails no test.
        #[test]
        fn tests_that_do_not_apply_do_not_fail(confidence in 0.01_f32..1.0, few in any::<bool>()) {
            let given = text(" a b c", confidence, None);
            prop_assert!(!POLICY.weaknesses(&given, few).langprob);
            let silence = text(" ...", confidence, Some(0.0));
            prop_assert!(POLICY.weaknesses(&silence, few).is_empty());
        }
    }
}
