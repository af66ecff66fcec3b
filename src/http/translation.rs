//! How a request's text gets into the requested language: it stays as it is, whisper translates it,
//! or the tree translates it through LibreTranslate.

use std::sync::Arc;

use stt_actors::domain::transcript::{Task, Transcript};
use stt_actors::{PendingTranslation, TargetLanguage, TranslationError, TranslationJob};

use crate::http::AppState;
use crate::http::body::form::AudioForm;
use crate::http::reply::error::ApiError;

/// The translation of one request.
pub enum Translation {
    /// The text stays in the language spoken.
    None,
    /// Whisper translates to English.
    Native,
    /// Whisper transcribes, LibreTranslate translates.
    LibreTranslate {
        /// The request, for logs.
        request_id: Arc<str>,
        /// Makes the call.
        pending: PendingTranslation,
        /// The language to translate to.
        target: TargetLanguage,
        /// Whether each segment may be in a language of its own.
        mixed: bool,
    },
}

impl Translation {
    /// The translation that a form asks for: by LibreTranslate if it is configured, else by whisper.
    ///
    /// # Errors
    /// Whisper cannot translate to this language.
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

    /// The task for whisper.
    pub fn engine_task(&self) -> Task {
        match self {
            Self::None | Self::LibreTranslate { .. } => Task::Transcribe,
            Self::Native => Task::Translate,
        }
    }

    /// Whether LibreTranslate is responsible for the text, even if no call is needed.
    pub fn is_libretranslates(&self) -> bool {
        matches!(self, Self::LibreTranslate { .. })
    }

    /// Turns whisper's transcript into the requested one. Its language becomes that of the text, as in
    /// OpenAI's translations.
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
