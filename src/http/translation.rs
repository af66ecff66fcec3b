//! How a request's text gets into the language that it asks for: not at all, by whisper itself, or
//! by LibreTranslate.

use stt_actors::transcript::{Task, Transcript};

use crate::http::AppState;
use crate::http::body::form::AudioForm;
use crate::http::reply::error::ApiError;
use crate::libretranslate::{LibreTranslate, Target, TranslationError};

/// One request's way.
pub enum Translation {
    /// The text stays as it was said.
    None,
    /// Whisper writes English.
    Native,
    /// Whisper writes down what was said, LibreTranslate translates that.
    LibreTranslate {
        /// The server.
        server: LibreTranslate,
        /// What to translate to.
        target: Target,
        /// Whether each segment may be in a language of its own.
        mixed: bool,
    },
}

impl Translation {
    /// What the form asks for and this server can do: LibreTranslate's work wherever there is one.
    ///
    /// # Errors
    /// Whisper itself translates to English and nothing else.
    pub fn of(state: &AppState, form: &AudioForm) -> Result<Self, ApiError> {
        let options = &form.options;
        match (options.task, &state.translator) {
            (Task::Transcribe, _) => Ok(Self::None),
            (Task::Translate, Some(server)) => Ok(Self::LibreTranslate {
                server: server.clone(),
                target: form.target.clone(),
                mixed: options.multilingual && options.language.is_none(),
            }),
            (Task::Translate, None) if form.target.is_english() => Ok(Self::Native),
            (Task::Translate, None) => Err(ApiError::unsupported_language(
                "to_language",
                format!(
                    "translating to {:?} needs a LibreTranslate server (LIBRETRANSLATE_URL); without it, only \"en\" works",
                    form.target.code()
                ),
            )),
        }
    }

    /// What whisper has to do for it.
    pub fn engine_task(&self) -> Task {
        match self {
            Self::None | Self::LibreTranslate { .. } => Task::Transcribe,
            Self::Native => Task::Translate,
        }
    }

    /// Whether LibreTranslate answers for the text, be it that nothing was left for it to do.
    pub fn is_libretranslates(&self) -> bool {
        matches!(self, Self::LibreTranslate { .. })
    }

    /// From what whisper wrote to what the client wants. The transcript's language becomes that of
    /// its text, as in OpenAI's translations.
    pub async fn finish(&self, mut transcript: Transcript) -> Result<Transcript, TranslationError> {
        match self {
            Self::None => Ok(transcript),
            Self::Native => {
                Target::default()
                    .language()
                    .clone_into(&mut transcript.language);
                Ok(transcript)
            }
            Self::LibreTranslate {
                server,
                target,
                mixed,
            } => server.translate(transcript, target, *mixed).await,
        }
    }
}
