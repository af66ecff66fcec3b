//! Which language a request's chunks are given: a plain decision.
//!
//! Unless the client names one, the first chunk with speech decides, and the others wait until its
//! language is heard, which is long before its text is. If that is less than likely, they wait for
//! the text: a chunk that turns out to say nothing decides nothing, and the next one has its turn.

use crate::domain::ids::ChunkIndex;
use crate::ports::DetectedLanguage;

/// A language as likely as this is believed before there is any text.
const CONVINCING: f32 = 0.8;
/// Chunks that may turn out to say nothing before the likeliest guess is taken.
const MOST_TRIES: usize = 4;

/// The language of one request.
#[derive(Debug)]
pub(crate) enum LanguageHold {
    /// Known: given by the client, or decided.
    Known(String),
    /// Each chunk's own.
    PerChunk,
    /// To be decided.
    Open {
        /// The chunk that may decide; the others wait.
        by: Option<ChunkIndex>,
        tries: usize,
        best: Option<DetectedLanguage>,
        /// As likely as this, it is believed before there is any text.
        convincing: f32,
    },
}

impl LanguageHold {
    /// `given`: by the client, or because the model knows no other. `multilingual`: no language
    /// holds for all chunks.
    /// `least`: what is less likely is not believed at once, whatever else holds.
    pub(crate) fn new(given: Option<String>, multilingual: bool, least: f32) -> Self {
        match given {
            Some(code) => Self::Known(code),
            None if multilingual => Self::PerChunk,
            None => Self::Open {
                by: None,
                tries: 0,
                best: None,
                convincing: CONVINCING.max(least),
            },
        }
    }

    /// Whether this chunk may be worked on; if the language is open, it is the one to decide it.
    pub(crate) fn may_go(&mut self, index: ChunkIndex) -> bool {
        match self {
            Self::Known(_) | Self::PerChunk => true,
            Self::Open { by: Some(_), .. } => false,
            Self::Open { by, .. } => {
                *by = Some(index);
                true
            }
        }
    }

    /// The language that a chunk is given; `None`: it is to be detected.
    pub(crate) fn code(&self) -> Option<&str> {
        match self {
            Self::Known(code) => Some(code),
            Self::PerChunk | Self::Open { .. } => None,
        }
    }

    /// A chunk's language is heard, before its text. Gives it if that decides.
    pub(crate) fn heard(
        &mut self,
        index: ChunkIndex,
        heard: DetectedLanguage,
    ) -> Option<DetectedLanguage> {
        let convincing = match self {
            Self::Open {
                by: Some(by),
                convincing,
                ..
            } if *by == index => *convincing,
            Self::Known(_) | Self::PerChunk | Self::Open { .. } => return None,
        };
        (heard.probability >= convincing).then(|| self.decide(heard))
    }

    /// A chunk is done. Gives the language if that decides; otherwise the next chunk may go, if
    /// this was the one to decide.
    pub(crate) fn chunk_done(
        &mut self,
        index: ChunkIndex,
        detected: DetectedLanguage,
        says_something: bool,
    ) -> Option<DetectedLanguage> {
        let Self::Open {
            by, tries, best, ..
        } = self
        else {
            return None;
        };
        if *by != Some(index) {
            return None;
        }
        if says_something {
            return Some(self.decide(detected));
        }
        *by = None;
        *tries += 1;
        let better = (best.as_ref()).is_none_or(|best| detected.probability > best.probability);
        if better {
            *best = Some(detected);
        }
        if *tries < MOST_TRIES {
            return None;
        }
        let best = best.take();
        best.map(|best| self.decide(best))
    }

    fn decide(&mut self, language: DetectedLanguage) -> DetectedLanguage {
        *self = Self::Known(language.code.clone());
        language
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ChunkIndex::Whole;

    fn detected(code: &str, probability: f32) -> DetectedLanguage {
        DetectedLanguage {
            code: code.to_owned(),
            probability,
        }
    }

    #[test]
    fn the_first_chunk_decides_as_soon_as_it_is_heard() {
        let mut hold = LanguageHold::new(None, false, 0.0);
        assert!(hold.may_go(Whole(0)) && !hold.may_go(Whole(1)));
        assert_eq!(hold.heard(Whole(1), detected("nn", 0.99)), None);
        assert_eq!(
            hold.heard(Whole(0), detected("es", 0.9)),
            Some(detected("es", 0.9))
        );
        assert!(hold.may_go(Whole(1)));
        assert_eq!(hold.code(), Some("es"));
        // A retry of the first chunk may hear something else: it is decided.
        assert_eq!(hold.heard(Whole(0), detected("pt", 0.9)), None);
        assert_eq!(hold.chunk_done(Whole(0), detected("pt", 0.9), true), None);
    }

    #[test]
    fn an_unlikely_language_waits_for_the_text_and_silence_decides_nothing() {
        let mut hold = LanguageHold::new(None, false, 0.0);
        assert!(hold.may_go(Whole(0)));
        assert_eq!(hold.heard(Whole(0), detected("nn", 0.3)), None);
        assert!(!hold.may_go(Whole(1)));
        assert_eq!(hold.chunk_done(Whole(0), detected("nn", 0.3), false), None);
        assert!(hold.may_go(Whole(1)) && !hold.may_go(Whole(2)));
        assert_eq!(hold.heard(Whole(1), detected("fr", 0.4)), None);
        let decided = hold.chunk_done(Whole(1), detected("fr", 0.4), true);
        assert_eq!(decided, Some(detected("fr", 0.4)));
        assert_eq!(hold.code(), Some("fr"));
    }

    #[test]
    fn after_some_chunks_without_a_word_the_likeliest_guess_is_taken() {
        let mut hold = LanguageHold::new(None, false, 0.0);
        for (index, probability) in [0.2, 0.4, 0.1].into_iter().enumerate() {
            assert!(hold.may_go(Whole(index)));
            let guess = detected(&format!("l{index}"), probability);
            assert_eq!(hold.chunk_done(Whole(index), guess, false), None);
        }
        assert!(hold.may_go(Whole(3)));
        let decided = hold.chunk_done(Whole(3), detected("l3", 0.3), false);
        assert_eq!(decided, Some(detected("l1", 0.4)));
    }

    #[test]
    fn a_given_language_and_mixed_ones_hold_nobody_back() {
        let mut given = LanguageHold::new(Some("de".to_owned()), true, 0.0);
        assert!(given.may_go(Whole(0)) && given.may_go(Whole(1)));
        assert_eq!(given.code(), Some("de"));
        let mut mixed = LanguageHold::new(None, true, 0.0);
        assert!(mixed.may_go(Whole(0)) && mixed.may_go(Whole(1)));
        assert_eq!(mixed.heard(Whole(0), detected("de", 1.0)), None);
        assert_eq!(mixed.code(), None);
    }
}
