//! A recording that a server is asked about: one that is built in, or a file of the user's.

use std::path::Path;

use anyhow::{Context, ensure};
use bytes::Bytes;
use serde::Serialize;

use super::speech::Speech;
use super::word_error_rate::Score;

/// Small models mishear a word now and then. A transcript of something else is far beyond this.
const MOST_WRONG_WORDS: f64 = 0.34;

/// A recording and what is said in it.
#[derive(Clone, Debug, Serialize)]
pub struct Recording {
    /// The file's name, by which systems may tell its format.
    pub name: String,
    /// ISO 639-1; `None`: to be detected.
    pub language: Option<String>,
    /// Its length in seconds; 0 where nobody told.
    pub seconds: f64,
    /// The words that are spoken, where they are known.
    #[serde(skip)]
    pub text: Option<String>,
    /// The file.
    #[serde(skip)]
    pub audio: Bytes,
}

impl Recording {
    /// A file of the user's, of which nothing is known.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn of_file(path: &Path) -> anyhow::Result<Self> {
        let audio = std::fs::read(path).with_context(|| path.display().to_string())?;
        let name = path.file_name().context("a file is expected")?;
        Ok(Self {
            name: name.to_string_lossy().into_owned(),
            language: None,
            seconds: 0.0,
            text: None,
            audio: audio.into(),
        })
    }

    /// Fails unless a text has the recording's words; where they are unknown, unless it has any.
    ///
    /// # Errors
    /// It has others.
    pub fn ensure_heard(&self, text: &str) -> anyhow::Result<()> {
        if let Some(reference) = &self.text {
            return ensure_words(text, reference, &self.name);
        }
        ensure!(!text.trim().is_empty(), "nothing is heard in {}", self.name);
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

/// Fails unless a text has these words, or nearly.
///
/// # Errors
/// It has others.
pub fn ensure_words(text: &str, reference: &str, name: &str) -> anyhow::Result<()> {
    let rate = Score::of(reference, text).rate();
    let shown: String = text.chars().take(120).collect();
    ensure!(
        rate <= MOST_WRONG_WORDS,
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
        assert_eq!(error.to_string(), "nothing is heard in en-command.wav");
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        let error = Recording::of_file(Path::new("/no/such/file.wav")).unwrap_err();
        assert!(format!("{error:#}").starts_with("/no/such/file.wav: "));
    }
}
