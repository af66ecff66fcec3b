//! Decides the language of a request's chunks.
//!
//! Unless the client gives a language, the first chunk with speech decides. The other chunks wait until
//! its language is detected, which is long before its text is there. If the probability is too low, they
//! wait for the text: a chunk without text decides nothing, and the next chunk is tried.

use crate::domain::ids::ChunkIndex;
use crate::ports::DetectedLanguage;

/// From this probability on, a detected language is accepted before there is any text.
const CONVINCING: f32 = 0.8;
/// After this many chunks without text, the most probable language so far is accepted.
const MOST_TRIES: usize = 4;

/// The language of one request.
#[derive(Debug)]
pub(crate) enum LanguageHold {
    /// Given by the client, or decided.
    Known(String),
    /// Detected for each chunk separately.
    PerChunk,
    /// Not decided yet.
    Open {
        /// The chunk that decides; the others wait.
        by: Option<ChunkIndex>,
        /// Chunks without text so far.
        tries: usize,
        /// The most probable language of those chunks.
        best: Option<DetectedLanguage>,
        /// From this probability on, a detected language is accepted before there is any text.
        convincing: f32,
    },
}

impl LanguageHold {
    /// `given`: the language, if the client gives it or the model supports only one. `multilingual`:
    /// chunks may differ in language. `least`: a lower bound for the probability from which a language is
    /// accepted before there is any text.
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

    /// Whether this chunk may be transcribed now. If the language is open and no chunk decides it yet,
    /// this one does.
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

    /// The language for the next chunk; `None`: it is to be detected.
    pub(crate) fn code(&self) -> Option<&str> {
        match self {
            Self::Known(code) => Some(code),
            Self::PerChunk | Self::Open { .. } => None,
        }
    }

    /// Handles the detected language of a chunk, before its text is there. Returns the language if this
    /// decides it.
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

    /// Handles a finished chunk. Returns the language if this decides it. Otherwise, if this chunk was to
    /// decide, the next chunk may.
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
    fn the_first_chunk_decides_as_soon_as_its_language_is_detected() {
        let mut hold = LanguageHold::new(None, false, 0.0);
        assert!(hold.may_go(Whole(0)) && !hold.may_go(Whole(1)));
        assert_eq!(hold.heard(Whole(1), detected("nn", 0.99)), None);
        assert_eq!(
            hold.heard(Whole(0), detected("es", 0.9)),
            Some(detected("es", 0.9))
        );
        assert!(hold.may_go(Whole(1)));
        assert_eq!(hold.code(), Some("es"));
        // A retry of the first chunk may detect another language: the decision stays.
        assert_eq!(hold.heard(Whole(0), detected("pt", 0.9)), None);
        assert_eq!(hold.chunk_done(Whole(0), detected("pt", 0.9), true), None);
    }

    #[test]
    fn an_improbable_language_waits_for_the_text_and_silence_decides_nothing() {
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
    fn after_some_chunks_without_text_the_most_probable_language_is_accepted() {
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
    fn with_a_given_language_or_mixed_languages_no_chunk_waits() {
        let mut given = LanguageHold::new(Some("de".to_owned()), true, 0.0);
        assert!(given.may_go(Whole(0)) && given.may_go(Whole(1)));
        assert_eq!(given.code(), Some("de"));
        let mut mixed = LanguageHold::new(None, true, 0.0);
        assert!(mixed.may_go(Whole(0)) && mixed.may_go(Whole(1)));
        assert_eq!(mixed.heard(Whole(0), detected("de", 1.0)), None);
        assert_eq!(mixed.code(), None);
    }
}
