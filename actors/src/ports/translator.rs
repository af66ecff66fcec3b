//! The port to the server that translates transcripts.

use std::sync::Arc;

use async_trait::async_trait;

use crate::domain::error::TranslatorError;

/// Texts to translate, in one language.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TranslatorRequest {
    /// The client's request, for logs.
    pub request_id: Arc<str>,
    /// The texts; at least one, and none of them blank.
    pub texts: Vec<String>,
    /// Their language, as the translator's code; `None`: the translator detects it for each text.
    pub source: Option<String>,
    /// The language to translate to, as the translator's code.
    pub target: String,
}

/// Translates texts.
#[async_trait]
pub trait Translator: Send + Sync + 'static {
    /// The translator's code for a language that whisper names by `language`.
    fn source_code(&self, language: &str) -> String;

    /// Translates texts: as many as were given, in the same order. The tree limits the time; dropping
    /// the future cancels the call.
    ///
    /// # Errors
    /// The translator gave no translation, or not all of them.
    async fn translate(&self, request: TranslatorRequest) -> Result<Vec<String>, TranslatorError>;
}
