//! The language of a request: the one that its chunks get, and the one that is reported to the client.
//!
//! Unless the client names a language, the first chunk with speech decides, and the other chunks wait until its
//! language is detected, long before its text is complete. If the detection is uncertain, they wait for the
//! text: a chunk without words decides nothing, and the next chunk may decide instead.
//!
//! If the audio may contain several languages, every chunk has its own. A chunk then waits until the language of the
//! chunk before it is known: if its own detection is uncertain, as with a single word, it gets that language. So the
//! result does not depend on how many lanes there are and how fast they are.

use crate::domain::ids::ChunkIndex;
use crate::domain::transcript::ChunkTranscript;
use crate::ports::{CERTAIN_LANGUAGE, DetectedLanguage};

/// The language of audio without speech, if none is given: whisper's own default.
const LANGUAGE_OF_SILENCE: &str = "en";
/// A language with at least this probability is accepted before its text is complete.
const CONVINCING: f32 = 0.8;
/// Chunks without words before the likeliest guess is accepted.
const MOST_TRIES: usize = 4;

/// A language as it is reported to the client.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ReportedLanguage {
    /// ISO 639-1 code.
    pub(crate) code: String,
    /// Its probability, if it was detected.
    pub(crate) probability: Option<f32>,
}

impl ReportedLanguage {
    fn of(text: &ChunkTranscript) -> Self {
        Self {
            code: text.language.clone(),
            probability: text.language_probability,
        }
    }
}

/// Decides and reports the language of one request.
#[derive(Debug)]
pub(crate) struct RequestLanguage {
    /// The language that the client gave.
    given: Option<String>,
    hold: LanguageHold,
    /// The language that was reported to the client.
    reported: Option<ReportedLanguage>,
}

impl RequestLanguage {
    /// `given`: by the client. `known`: without a detection, because the model supports no other language or an
    /// earlier equal request decided. `multilingual`: each chunk's language is detected separately. `least`: a
    /// lower bound for the probability from which a language is accepted before there is any text.
    pub(crate) fn new(
        given: Option<String>,
        known: Option<String>,
        multilingual: bool,
        least: f32,
    ) -> Self {
        Self {
            hold: LanguageHold::new(given.clone().or(known), multilingual, least),
            given,
            reported: None,
        }
    }

    /// Whether this chunk may be transcribed now; if the language is open, this chunk decides it.
    pub(crate) fn may_go(&mut self, index: ChunkIndex) -> bool {
        self.hold.may_go(index)
    }

    /// The language that chunks get; `None`: to be detected.
    pub(crate) fn code(&self) -> Option<&str> {
        self.hold.code()
    }

    /// The language that a chunk gets that may go now, if its own detection is uncertain.
    pub(crate) fn likely(&self) -> Option<&str> {
        match &self.hold {
            LanguageHold::PerChunk { likely, .. } => likely.as_deref(),
            LanguageHold::Known(_) | LanguageHold::Open { .. } => None,
        }
    }

    /// Records the language of a chunk, detected before its text is complete. Returns it if that decides.
    pub(crate) fn detected(
        &mut self,
        index: ChunkIndex,
        language: DetectedLanguage,
    ) -> Option<DetectedLanguage> {
        self.hold.heard(index, language)
    }

    /// Records the language of a chunk with its text. Returns the language to report to the client, if this
    /// decides it. The engine's language counts even if another one was known: a model of one language
    /// detects no other.
    pub(crate) fn learn(
        &mut self,
        index: ChunkIndex,
        text: &ChunkTranscript,
    ) -> Option<ReportedLanguage> {
        let says_something = !text.segments.is_empty() && !text.language.is_empty();
        match &self.hold {
            LanguageHold::Open { .. } => {
                let silence = || DetectedLanguage {
                    code: LANGUAGE_OF_SILENCE.to_owned(),
                    probability: 0.0,
                };
                let detected = if text.language.is_empty() {
                    silence()
                } else {
                    DetectedLanguage {
                        code: text.language.clone(),
                        probability: text.language_probability.unwrap_or(1.0),
                    }
                };
                let decided = self.hold.chunk_done(index, detected, says_something)?;
                let probability = text.language_probability.and(Some(decided.probability));
                self.report(ReportedLanguage {
                    code: decided.code,
                    probability,
                })
            }
            LanguageHold::Known(_) => self.report(ReportedLanguage::of(text)),
            LanguageHold::PerChunk { .. } => {
                self.hold.next_may_go(
                    index,
                    &text.language,
                    text.language_probability.unwrap_or(0.0),
                );
                says_something.then(|| self.report(ReportedLanguage::of(text)))?
            }
        }
    }

    /// Records the fallback's language for a chunk. `own`: this node's text of the chunk, if there is one.
    /// Returns the language to report to the client, if this decides it.
    pub(crate) fn correct(
        &mut self,
        index: ChunkIndex,
        own: Option<&ChunkTranscript>,
        text: &ChunkTranscript,
    ) -> Option<ReportedLanguage> {
        let detected_here = own.is_some_and(|own| own.language_probability.is_some());
        match self.hold {
            LanguageHold::Open { .. } => self.learn(index, text),
            LanguageHold::Known(_) if detected_here && !text.segments.is_empty() => {
                self.reported = Some(ReportedLanguage::of(text));
                None
            }
            LanguageHold::PerChunk { .. } if own.is_none() => self.learn(index, text),
            LanguageHold::Known(_) | LanguageHold::PerChunk { .. } => None,
        }
    }

    /// Returns the language for the client the first time; afterwards, or without a language, `None`.
    pub(crate) fn report(&mut self, language: ReportedLanguage) -> Option<ReportedLanguage> {
        if self.reported.is_some() || language.code.is_empty() {
            return None;
        }
        self.reported = Some(language.clone());
        Some(language)
    }

    /// The language to give to the fallback. One that was detected in this very chunk is not passed on: the
    /// fallback detects it itself.
    pub(crate) fn for_fallback(&self, own: Option<&ChunkTranscript>) -> Option<String> {
        let detected_here = own.is_some_and(|text| text.language_probability.is_some());
        let held = self.hold.code().filter(|_| !detected_here);
        self.given.clone().or_else(|| held.map(str::to_owned))
    }

    /// The language of the transcript: the reported one, the given one, or that of silence.
    pub(crate) fn finish(&mut self) -> ReportedLanguage {
        self.reported.take().unwrap_or_else(|| ReportedLanguage {
            code: self.hold.code().unwrap_or(LANGUAGE_OF_SILENCE).to_owned(),
            probability: None,
        })
    }
}

/// Decides the language that chunks get.
#[derive(Debug)]
enum LanguageHold {
    /// Given by the client, or decided.
    Known(String),
    /// Every chunk has its own.
    PerChunk {
        /// The chunk whose language comes next; the later ones wait.
        by: Option<ChunkIndex>,
        /// The language of the speech so far, if it is certain.
        likely: Option<String>,
    },
    /// Not decided yet.
    Open {
        /// The chunk that decides; the others wait.
        by: Option<ChunkIndex>,
        /// Chunks without text so far.
        tries: usize,
        /// The most probable language of those chunks.
        best: Option<DetectedLanguage>,
        /// A language with at least this probability is accepted before the text is complete.
        convincing: f32,
    },
}

impl LanguageHold {
    fn new(given: Option<String>, multilingual: bool, least: f32) -> Self {
        match given {
            Some(code) => Self::Known(code),
            None if multilingual => Self::PerChunk {
                by: None,
                likely: None,
            },
            None => Self::Open {
                by: None,
                tries: 0,
                best: None,
                convincing: CONVINCING.max(least),
            },
        }
    }

    fn may_go(&mut self, index: ChunkIndex) -> bool {
        match self {
            Self::Known(_) => true,
            Self::Open { by: Some(_), .. } | Self::PerChunk { by: Some(_), .. } => false,
            Self::Open { by, .. } | Self::PerChunk { by, .. } => {
                *by = Some(index);
                true
            }
        }
    }

    fn code(&self) -> Option<&str> {
        match self {
            Self::Known(code) => Some(code),
            Self::PerChunk { .. } | Self::Open { .. } => None,
        }
    }

    /// Of several languages, records that of a chunk, and lets the next chunk go.
    fn next_may_go(&mut self, index: ChunkIndex, code: &str, probability: f32) {
        if let Self::PerChunk { by, likely } = self
            && *by == Some(index)
        {
            *by = None;
            if probability >= CERTAIN_LANGUAGE {
                *likely = Some(code.to_owned());
            }
        }
    }

    /// A chunk's language before its text. Returns it if that decides.
    fn heard(&mut self, index: ChunkIndex, heard: DetectedLanguage) -> Option<DetectedLanguage> {
        let convincing = match self {
            Self::Open {
                by: Some(by),
                convincing,
                ..
            } if *by == index => *convincing,
            Self::PerChunk { .. } => {
                self.next_may_go(index, &heard.code, heard.probability);
                return None;
            }
            Self::Known(_) | Self::Open { .. } => return None,
        };
        (heard.probability >= convincing).then(|| self.decide(heard))
    }

    /// A chunk's language with its text. Returns it if that decides; otherwise the next chunk may go, if this
    /// was the deciding one.
    fn chunk_done(
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
    use crate::domain::transcript::Segment;
    use ChunkIndex::Whole;

    fn detected(code: &str, probability: f32) -> DetectedLanguage {
        DetectedLanguage {
            code: code.to_owned(),
            probability,
        }
    }

    fn text(said: &str, language: &str, probability: Option<f32>) -> ChunkTranscript {
        let segments = if said.is_empty() {
            Vec::new()
        } else {
            vec![Segment::said(0.0, 1.0, said)]
        };
        ChunkTranscript {
            segments,
            language: language.to_owned(),
            language_probability: probability,
            ..ChunkTranscript::default()
        }
    }

    fn reported(code: &str, probability: Option<f32>) -> ReportedLanguage {
        ReportedLanguage {
            code: code.to_owned(),
            probability,
        }
    }

    const FIRST: ChunkIndex = ChunkIndex::Whole(0);
    const SECOND: ChunkIndex = ChunkIndex::Whole(1);

    #[test]
    fn the_client_hears_of_one_language_once() {
        let mut language = RequestLanguage::new(None, None, false, 0.0);
        assert!(language.may_go(FIRST));
        let first = language.learn(FIRST, &text("hola", "es", Some(0.6)));
        assert_eq!(first, Some(reported("es", Some(0.6))));
        assert_eq!(language.learn(SECOND, &text("hello", "en", None)), None);
        assert_eq!(language.report(reported("fr", None)), None);
        assert_eq!(language.finish(), reported("es", Some(0.6)));
    }

    #[test]
    fn silence_has_the_given_language_or_the_default() {
        let mut given = RequestLanguage::new(Some("de".to_owned()), None, false, 0.0);
        assert_eq!(given.learn(FIRST, &text("", "", None)), None);
        assert_eq!(given.finish(), reported("de", None));
        let mut open = RequestLanguage::new(None, None, false, 0.0);
        assert!(open.may_go(FIRST));
        assert_eq!(open.learn(FIRST, &text("", "", None)), None);
        assert_eq!(open.finish(), reported("en", None));
    }

    #[test]
    fn the_fallback_gets_a_given_language_and_detects_one_that_this_chunk_decided() {
        let given = RequestLanguage::new(Some("de".to_owned()), None, false, 0.0);
        let own = text("hallo", "de", Some(0.5));
        assert_eq!(given.for_fallback(Some(&own)).as_deref(), Some("de"));
        let mut detected = RequestLanguage::new(None, None, false, 0.0);
        assert!(detected.may_go(FIRST));
        detected.learn(FIRST, &own);
        assert_eq!(detected.for_fallback(Some(&own)), None);
        // Another chunk's language was given to this one.
        let later = text("welt", "de", None);
        assert_eq!(detected.for_fallback(Some(&later)).as_deref(), Some("de"));
        assert_eq!(detected.for_fallback(None).as_deref(), Some("de"));
    }

    #[test]
    fn the_fallback_corrects_the_language_of_the_chunk_that_decided_it() {
        let mut language = RequestLanguage::new(None, None, false, 0.0);
        assert!(language.may_go(FIRST));
        let own = text("hallo", "nl", Some(0.75));
        assert!(language.learn(FIRST, &own).is_some());
        // The client has received a language already; only the transcript contains the better one.
        assert_eq!(
            language.correct(FIRST, Some(&own), &text("hallo", "de", Some(0.9))),
            None
        );
        let other = text("welt", "nl", None);
        assert_eq!(
            language.correct(SECOND, Some(&other), &text("welt", "fr", None)),
            None
        );
        assert_eq!(language.finish(), reported("de", Some(0.9)));
    }

    #[test]
    fn mixed_languages_are_reported_by_the_first_chunk_with_words() {
        let mut language = RequestLanguage::new(None, None, true, 0.0);
        assert_eq!(language.learn(FIRST, &text("", "en", Some(0.3))), None);
        let second = language.learn(SECOND, &text("bonjour", "fr", Some(0.9)));
        assert_eq!(second, Some(reported("fr", Some(0.9))));
        assert_eq!(language.code(), None);
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
    fn with_a_given_language_no_chunk_waits() {
        let mut given = LanguageHold::new(Some("de".to_owned()), true, 0.0);
        assert!(given.may_go(Whole(0)) && given.may_go(Whole(1)));
        assert_eq!(given.code(), Some("de"));
    }

    #[test]
    fn of_several_languages_each_chunk_has_its_own_and_an_uncertain_one_that_of_the_chunk_before() {
        let mut mixed = RequestLanguage::new(None, None, true, 0.0);
        assert!(mixed.may_go(Whole(0)) && !mixed.may_go(Whole(1)));
        assert_eq!((mixed.code(), mixed.likely()), (None, None));
        assert_eq!(mixed.detected(Whole(0), detected("de", 0.9)), None);
        assert!(mixed.may_go(Whole(1)) && !mixed.may_go(Whole(2)));
        assert_eq!(mixed.likely(), Some("de"));
        // The late text of the first chunk, and a part of it, let no other chunk go.
        mixed.learn(Whole(0), &text("hallo", "de", Some(0.9)));
        mixed.learn(ChunkIndex::Part(0), &text("hallo", "de", Some(0.9)));
        assert!(!mixed.may_go(Whole(2)));
        // An uncertain chunk passes the earlier language on.
        assert_eq!(mixed.detected(Whole(1), detected("de", 0.2)), None);
        assert!(mixed.may_go(Whole(2)));
        assert_eq!(mixed.likely(), Some("de"));
        // A text that was reused comes without an early report.
        mixed.learn(Whole(2), &text("hello", "en", Some(0.8)));
        assert!(mixed.may_go(Whole(3)));
        assert_eq!((mixed.code(), mixed.likely()), (None, Some("en")));
    }
}
