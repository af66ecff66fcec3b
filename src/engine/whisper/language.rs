//! The language of a chunk: given, or detected.

use stt_actors::domain::transcript::Task;
use stt_actors::ports::CERTAIN_LANGUAGE;
use whisper_rs::WhisperState;

use super::callbacks::Watch;
use super::{Model, whisper_failed};
use crate::engine::protocol::Failure;

/// Vocabulary size of the models with 100 languages; models with smaller vocabularies have 99.
const VOCABULARY_WITH_100_LANGUAGES: i32 = 51_866;

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
        wanted: Option<&str>,
        likely: Option<&str>,
    ) -> Result<Language, Failure> {
        if let Some(code) = self.forced_language(wanted)? {
            return Ok(Language {
                code,
                probability: None,
            });
        }
        self.detect_language(state, samples, window, likely)
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
        likely: Option<&str>,
    ) -> Result<Language, Failure> {
        let mut parameters = self.parameters("en", Task::Transcribe, 0.0);
        parameters.set_audio_ctx(window as i32);
        // Sets the window and the spectrogram, and stops before the encoder.
        Watch::stop_before_encoder(&mut parameters);
        state.full(parameters, samples).map_err(whisper_failed)?;
        let threads = self.options.threads as usize;
        let (_, probabilities) = state.lang_detect(0, threads).map_err(whisper_failed)?;
        let known = &probabilities[..probabilities.len().min(self.language_count())];
        match choose(known, likely.and_then(whisper_rs::get_lang_id)) {
            Some((code, probability)) => Ok(Language {
                code: code.to_owned(),
                probability: Some(probability),
            }),
            None => Err(Failure::Engine("no language was detected".to_owned())),
        }
    }
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
