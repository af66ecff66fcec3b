//! How a request's text gets into the language that it asks for: not at all, by Whisper itself, or by
//! LibreTranslate.

use std::sync::Arc;

use stt_actors::domain::transcript::{Task, Transcript};
use stt_actors::{PendingTranslation, TargetLanguage, TranslationError, TranslationJob};
use tracing::warn;

use crate::http::AppState;
use crate::http::body::form::AudioForm;
use crate::http::reply::error::ApiError;

/// Rejects a translation that neither LibreTranslate nor the served model can make.
///
/// # Errors
/// No LibreTranslate server is configured, and the model knows English only.
pub fn check_supported(state: &AppState) -> Result<(), ApiError> {
    let engine = state.stt.snapshot().last_engine;
    let Some(engine) = engine.filter(|_| !state.stt.has_translator()) else {
        return Ok(());
    };
    if !engine.multilingual {
        return Err(ApiError::translation_unsupported(&engine.model));
    }
    if engine.model.contains("turbo") {
        warn!(
            model = engine.model,
            "this model had little training in translation"
        );
    }
    Ok(())
}

/// How one request is translated.
pub enum Translation {
    /// The text stays in the spoken language.
    None,
    /// Whisper writes English.
    Native,
    /// Whisper writes the spoken language, and LibreTranslate translates it.
    LibreTranslate {
        request_id: Arc<str>,
        pending: PendingTranslation,
        target: TargetLanguage,
        /// Whether each segment may be in a language of its own.
        mixed: bool,
    },
}

impl Translation {
    /// Chooses LibreTranslate where it is configured, else Whisper.
    ///
    /// # Errors
    /// Whisper itself translates to English only.
    pub fn of(state: &AppState, form: &AudioForm, request_id: Arc<str>) -> Result<Self, ApiError> {
        let options = &form.options;
        if options.task == Task::Transcribe {
            return Ok(Self::None);
        }
        match state.stt.expect_translation() {
            Some(pending) => Ok(Self::LibreTranslate {
                request_id,
                pending,
                target: form.target.clone(),
                mixed: options.multilingual && options.language.is_none(),
            }),
            None if form.target.is_english() => Ok(Self::Native),
            None => Err(ApiError::unsupported_language(
                "to_language",
                format!(
                    "translating to {:?} needs a LibreTranslate server (LIBRETRANSLATE_URL); without it, only \"en\" works",
                    form.target.code
                ),
            )),
        }
    }

    /// The task that Whisper gets.
    pub fn engine_task(&self) -> Task {
        match self {
            Self::None | Self::LibreTranslate { .. } => Task::Transcribe,
            Self::Native => Task::Translate,
        }
    }

    /// Whether the text comes from LibreTranslate, even if it was empty or in the target language already.
    pub fn uses_libretranslate(&self) -> bool {
        matches!(self, Self::LibreTranslate { .. })
    }

    /// Turns Whisper's transcript into the one that the client asked for. Its language becomes the language
    /// of its text, as in OpenAI's translations.
    pub async fn finish(self, mut transcript: Transcript) -> Result<Transcript, TranslationError> {
        match self {
            Self::None => Ok(transcript),
            Self::Native => {
                transcript.language = TargetLanguage::default().language;
                Ok(transcript)
            }
            Self::LibreTranslate {
                request_id,
                pending,
                target,
                mixed,
            } => {
                let job = TranslationJob {
                    request_id,
                    transcript,
                    target,
                    mixed,
                };
                pending.translate(job).await
            }
        }
    }
}
