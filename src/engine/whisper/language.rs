//! The language of a chunk: given, or detected.

use stt_actors::domain::transcript::Task;
use stt_actors::ports::CERTAIN_LANGUAGE;
use whisper_rs::WhisperState;

use super::callbacks::Watch;
use super::{Model, whisper_failed};
use crate::engine::protocol::Failure;

/// Vocabulary size of the models with 100 languages; models with smaller vocabularies have 99.
const VOCABULARY_WITH_100_LANGUAGES: i32 = 51_866;

/// What a request says about the language.
pub(super) struct Wanted<'a> {
    /// The language; `None`: detect.
    pub(super) language: Option<&'a str>,
    /// The languages among which the detection chooses; empty: all.
    pub(super) languages: &'a [String],
    /// The language to use if the detection is uncertain.
    pub(super) likely: Option<&'a str>,
}

/// The language of a chunk.
pub(super) struct Language {
    /// ISO 639-1.
    pub(super) code: String,
    /// The model's probability for it; `None`: it was not detected.
    pub(super) probability: Option<f32>,
}

impl Model {
    /// The wanted language, or the one that the model detects; if that is uncertain, the `likely` one.
    pub(super) fn language(
        &self,
        state: &mut WhisperState,
        samples: &[f32],
        window: usize,
        wanted: &Wanted,
    ) -> Result<Language, Failure> {
        if let Some(code) = self.forced_language(wanted.language)? {
            return Ok(Language {
                code,
                probability: None,
            });
        }
        self.detect_language(state, samples, window, wanted)
    }

    /// The language that needs no detection: the client's, or English for an English-only model. Whisper
    /// itself accepts unknown languages silently.
    fn forced_language(&self, wanted: Option<&str>) -> Result<Option<String>, Failure> {
        if !self.is_multilingual() {
            return Ok(Some("en".to_owned()));
        }
        let Some(code) = wanted else { return Ok(None) };
        let clean = !code.contains('\0');
        match clean.then(|| whisper_rs::get_lang_id(code)).flatten() {
            Some(id) if (id as usize) < self.language_count() => Ok(Some(code.to_owned())),
            Some(_) | None => Err(Failure::Engine(format!(
                "this model does not support the language {code:?}"
            ))),
        }
    }

    /// Number of languages that the model has tokens for. Whisper's table has one more entry than most
    /// models, for which that entry would be the token for "translate".
    fn language_count(&self) -> usize {
        if self.context.n_vocab() >= VOCABULARY_WITH_100_LANGUAGES {
            100
        } else {
            99
        }
    }

    /// Detects the language with one encoder pass over the window that the transcription uses. Whisper's own
    /// "auto" uses the window that the last call left behind.
    fn detect_language(
        &self,
        state: &mut WhisperState,
        samples: &[f32],
        window: usize,
        wanted: &Wanted,
    ) -> Result<Language, Failure> {
        let mut parameters = self.parameters("en", Task::Transcribe, 0.0);
        parameters.set_audio_ctx(window as i32);
        // Sets the window and the spectrogram, and stops before the encoder.
        Watch::stop_before_encoder(&mut parameters);
        state.full(parameters, samples).map_err(whisper_failed)?;
        let threads = self.options.threads as usize;
        let (_, probabilities) = state.lang_detect(0, threads).map_err(whisper_failed)?;
        let mut known = probabilities[..probabilities.len().min(self.language_count())].to_vec();
        restrict(&mut known, wanted.languages);
        match choose(&known, wanted.likely.and_then(whisper_rs::get_lang_id)) {
            Some((code, probability)) => Ok(Language {
                code: code.to_owned(),
                probability: Some(probability),
            }),
            None => Err(Failure::Engine("no language was detected".to_owned())),
        }
    }
}

/// Leaves the probabilities of these languages only, which then add up to 1. Changes nothing if there are none that the
/// model knows.
pub(in crate::engine) fn restrict(probabilities: &mut [f32], languages: &[String]) {
    let ids = languages.iter().filter_map(|code| id_of(code));
    let ids: Vec<usize> = ids.filter(|id| *id < probabilities.len()).collect();
    let total: f32 = ids.iter().map(|id| probabilities[*id]).sum();
    if total > 0.0 {
        for (id, probability) in probabilities.iter_mut().enumerate() {
            *probability = if ids.contains(&id) {
                *probability / total
            } else {
                0.0
            };
        }
    }
}

/// The number of a language in Whisper's list.
pub(in crate::engine) fn id_of(code: &str) -> Option<usize> {
    let clean = !code.contains('\0');
    let id = clean.then(|| whisper_rs::get_lang_id(code)).flatten()?;
    usize::try_from(id).ok()
}

/// The most probable language, from the probabilities by whisper's numbers; if it is uncertain, the `likely` one.
fn choose(probabilities: &[f32], likely: Option<i32>) -> Option<(&'static str, f32)> {
    let numbered = probabilities.iter().copied().enumerate();
    let (best, probability) = numbered.max_by(|(_, a), (_, b)| a.total_cmp(b))?;
    let likely = likely.and_then(|id| usize::try_from(id).ok());
    let likely = likely.filter(|_| probability < CERTAIN_LANGUAGE);
    let likely = likely.and_then(|id| Some((id, *probabilities.get(id)?)));
    let (id, probability) = likely.unwrap_or((best, probability));
    Some((whisper_rs::get_lang_str(id as i32)?, probability))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_detection_chooses_among_the_languages_that_are_allowed() {
        let id = |code| id_of(code).expect("known");
        let mut all = vec![0.0; 99];
        (all[id("en")], all[id("de")], all[id("nl")]) = (0.7, 0.06, 0.24);
        for (allowed, expected) in [
            (vec!["de", "nl"], ("nl", 0.8)),
            (vec!["de"], ("de", 1.0)),
            // Unknown to the model, or to everybody.
            (vec!["yue", "xx", "e\0n"], ("en", 0.7)),
            (vec![], ("en", 0.7)),
        ] {
            let mut left = all.clone();
            let allowed: Vec<String> = allowed.into_iter().map(str::to_owned).collect();
            restrict(&mut left, &allowed);
            let (code, probability) = choose(&left, None).expect("one");
            assert_eq!(code, expected.0, "{allowed:?}");
            assert!(
                (probability - expected.1).abs() < 1e-6,
                "{allowed:?}: {probability}"
            );
        }
        // Whisper is certain that it is none of them.
        let mut none = vec![0.0; 99];
        none[id("en")] = 1.0;
        restrict(&mut none, &["de".to_owned()]);
        assert_eq!(choose(&none, None), Some(("en", 1.0)));
    }

    #[test]
    fn an_uncertain_language_gives_way_to_the_likely_one_and_a_certain_one_does_not() {
        let id = |code| whisper_rs::get_lang_id(code).expect("known");
        let mut probabilities = vec![0.0; 99];
        probabilities[id("en") as usize] = 0.4;
        probabilities[id("de") as usize] = 0.1;
        assert_eq!(choose(&probabilities, None), Some(("en", 0.4)));
        assert_eq!(choose(&probabilities, Some(id("de"))), Some(("de", 0.1)));
        // A language that the model does not know.
        assert_eq!(choose(&probabilities, Some(99)), Some(("en", 0.4)));
        probabilities[id("en") as usize] = 0.6;
        assert_eq!(choose(&probabilities, Some(id("de"))), Some(("en", 0.6)));
        assert_eq!(choose(&[], None), None);
    }
}
