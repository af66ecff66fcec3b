//! A recording to send to a server: a built-in one, or the user's file.

use std::path::Path;

use anyhow::{Context, ensure};
use bytes::Bytes;
use serde::Serialize;

use super::speech::Speech;
use super::word_error_rate::Score;

/// Maximum word error rate of an acceptable transcript. Small models mishear single words; the transcript of
/// other audio is far above this limit.
const MAX_WORD_ERROR_RATE: f64 = 0.34;

/// A recording and the text spoken in it.
#[derive(Clone, Debug, Serialize)]
pub struct Recording {
    /// File name, from which a server may detect the format.
    pub name: String,
    /// ISO 639-1 code; `None`: the server detects the language.
    pub language: Option<String>,
    /// Length in seconds; 0 if unknown.
    pub seconds: f64,
    /// The spoken text, if known.
    #[serde(skip)]
    pub text: Option<String>,
    /// Content of the file.
    #[serde(skip)]
    pub audio: Bytes,
}

impl Recording {
    /// Reads the user's file, whose text and language are unknown.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn of_file(path: &Path) -> anyhow::Result<Self> {
        let audio = std::fs::read(path).with_context(|| path.display().to_string())?;
        let name = path.file_name().context("not a file")?;
        Ok(Self {
            name: name.to_string_lossy().into_owned(),
            language: None,
            seconds: 0.0,
            text: None,
            audio: audio.into(),
        })
    }

    /// Checks that a transcript matches the recording's text, or that it is not empty if the text is unknown.
    ///
    /// # Errors
    /// The transcript does not match.
    pub fn ensure_heard(&self, text: &str) -> anyhow::Result<()> {
        if let Some(reference) = &self.text {
            return ensure_words(text, reference, &self.name);
        }
        ensure!(
            !text.trim().is_empty(),
            "the transcript of {} is empty",
            self.name
        );
        Ok(())
    }
}

impl From<Speech> for Recording {
    fn from(speech: Speech) -> Self {
        Self {
            name: speech.name.to_owned(),
            language: Some(speech.language.to_owned()),
            seconds: speech.seconds,
            text: Some(speech.text.to_owned()),
            audio: speech.bytes(),
        }
    }
}

/// Checks that a transcript matches a reference, apart from a few misheard words.
///
/// # Errors
/// The transcript does not match.
pub fn ensure_words(text: &str, reference: &str, name: &str) -> anyhow::Result<()> {
    let rate = Score::of(reference, text).rate();
    let shown: String = text.chars().take(120).collect();
    ensure!(
        rate <= MAX_WORD_ERROR_RATE,
        "{shown:?} is not what is said in {name}"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::speech::COMMAND;
    use super::*;

    #[test]
    fn a_word_may_be_wrong_but_not_the_text() {
        let known = Recording::from(COMMAND);
        known.ensure_heard("turn on the kitchen lights").unwrap();
        known.ensure_heard("Thanks for watching!").unwrap_err();
        known.ensure_heard("").unwrap_err();
        let unknown = Recording {
            text: None,
            ..known
        };
        unknown.ensure_heard("Thanks for watching!").unwrap();
        let error = unknown.ensure_heard(" \n").unwrap_err();
        assert_eq!(
            error.to_string(),
            "the transcript of en-command.wav is empty"
        );
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        let error = Recording::of_file(Path::new("/no/such/file.wav")).unwrap_err();
        assert!(format!("{error:#}").starts_with("/no/such/file.wav: "));
    }
}
