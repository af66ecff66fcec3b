//! A translation job and its target language.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::transcript::Transcript;

/// A language to translate to. A translator may support languages that whisper does not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetLanguage {
    /// The translator's code.
    pub code: String,
    /// Whisper's code if whisper supports the language, else the translator's.
    pub language: String,
}

impl TargetLanguage {
    /// Whether this is English, the only language that whisper itself translates to.
    pub fn is_english(&self) -> bool {
        self.code == "en"
    }
}

impl Default for TargetLanguage {
    /// English, as in OpenAI's API.
    fn default() -> Self {
        Self {
            code: "en".to_owned(),
            language: "en".to_owned(),
        }
    }
}

/// A transcript to translate.
#[derive(Clone, Debug)]
pub struct TranslationJob {
    /// The client's request, for logs.
    pub request_id: Arc<str>,
    /// The transcript in the language spoken.
    pub transcript: Transcript,
    /// The language to translate to.
    pub target: TargetLanguage,
    /// Whether each segment may be in a language of its own.
    pub mixed: bool,
}
