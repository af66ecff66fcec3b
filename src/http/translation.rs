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
/// No LibreTranslate server is configured, and the target is not English, or the model knows English only.
pub fn check_supported(state: &AppState, target: &TargetLanguage) -> Result<(), ApiError> {
    if state.stt.has_translator() {
        return Ok(());
    }
    if !target.is_english() {
        return Err(ApiError::unsupported_language(
            "to_language",
            format!(
                "translating to {:?} needs a LibreTranslate server (LIBRETRANSLATE_URL); without it, only \"en\" works",
                target.code
            ),
        ));
    }
    let Some(engine) = state.stt.snapshot().last_engine else {
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
    pub fn of(state: &AppState, form: &AudioForm, request_id: Arc<str>) -> Self {
        let options = &form.options;
        if options.task == Task::Transcribe {
            return Self::None;
        }
        match state.stt.expect_translation() {
            Some(pending) => Self::LibreTranslate {
                request_id,
                pending,
                target: form.target.clone(),
                mixed: options.multilingual && options.language.is_none(),
            },
            None => Self::Native,
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
