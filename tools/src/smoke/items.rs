//! The recordings of a smoke test: short and long built-in speech, or the user's files.

use std::path::PathBuf;

use anyhow::ensure;

use crate::probe::recording::Recording;
use crate::probe::speech::{COMMAND, SENTENCE, SPANISH, Speech, silence_samples, wav};

/// How often the long recording repeats its sentences; enough to be cut into several chunks.
const LONG_REPEATS: usize = 6;
/// Pause between two sentences.
const PAUSE_SECONDS: f64 = 0.6;

/// A transcript to request.
#[derive(Clone, Debug)]
pub struct Item {
    /// Description of the item.
    pub name: String,
    /// Recording to send. If it has a language, the request names it.
    pub recording: Recording,
    /// Code of the language that the reply must report.
    pub expected_language: Option<String>,
}

impl Item {
    /// An item whose request names the language.
    fn forced(name: impl Into<String>, recording: Recording) -> Self {
        Self {
            name: name.into(),
            expected_language: recording.language.clone(),
            recording,
        }
    }

    /// An item whose language the server detects.
    fn detected(name: impl Into<String>, recording: Recording) -> Self {
        Self {
            name: name.into(),
            expected_language: recording.language.clone(),
            recording: Recording {
                language: None,
                ..recording
            },
        }
    }
}

/// The built-in items; only English ones if the model supports only English.
pub fn built_in(english_only: bool) -> Vec<Item> {
    let spanish = Item::forced("language forced, Spanish", SPANISH.into());
    let mut items = vec![
        Item::forced("language forced", SENTENCE.into()),
        Item::detected("language detected", SENTENCE.into()),
        Item::forced("short", COMMAND.into()),
        Item::detected("long", long()),
    ];
    if !english_only {
        items.insert(1, spanish);
    }
    items
}

/// Items for the user's files: each with its language forced, if it is given, and detected.
///
/// # Errors
/// A file cannot be read or is empty.
pub fn of_files(files: &[PathBuf], language: Option<&str>) -> anyhow::Result<Vec<Item>> {
    let mut items = Vec::new();
    for file in files {
        let recording = Recording::of_file(file)?;
        ensure!(!recording.audio.is_empty(), "{} is empty", file.display());
        let named = |what: &str| format!("{}, language {what}", recording.name);
        if let Some(code) = language {
            let recording = Recording {
                language: Some(code.to_owned()),
                ..recording.clone()
            };
            items.push(Item::forced(named("forced"), recording));
        }
        items.push(Item::detected(named("detected"), recording.clone()));
    }
    Ok(items)
}

/// Two of the samples, repeated.
fn long() -> Recording {
    let parts = [SENTENCE, COMMAND];
    let pause = silence_samples(PAUSE_SECONDS);
    let mut samples = Vec::new();
    for speech in parts.iter().cycle().take(LONG_REPEATS * parts.len()) {
        samples.extend_from_slice(&speech.samples());
        samples.extend_from_slice(&pause);
    }
    let length = |speech: &Speech| speech.seconds + PAUSE_SECONDS;
    let once = parts.map(|speech| speech.text).join(" ");
    Recording {
        name: "en-repeated.wav".to_owned(),
        language: Some("en".to_owned()),
        seconds: parts.iter().map(length).sum::<f64>() * LONG_REPEATS as f64,
        text: Some(vec![once; LONG_REPEATS].join(" ")),
        audio: wav(&samples),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_long_recording_is_a_file_of_its_length() {
        let long = long();
        let reader = hound::WavReader::new(long.audio.as_ref()).unwrap();
        let seconds = f64::from(reader.duration()) / 16_000.0;
        assert!((seconds - long.seconds).abs() < 0.1, "{seconds}");
        assert!(seconds > 60.0, "{seconds}");
    }

    #[test]
    fn an_english_only_model_gets_only_english_items() {
        let spoken = |english_only| -> Vec<Option<String>> {
            let items = built_in(english_only).into_iter();
            items.map(|item| item.expected_language).collect()
        };
        assert!(
            spoken(true)
                .iter()
                .all(|code| code.as_deref() == Some("en"))
        );
        assert!(spoken(false).contains(&Some("es".to_owned())));
    }

    #[test]
    fn a_file_is_forced_only_where_its_language_is_given() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.wav");
        std::fs::write(&file, "x").unwrap();
        let names = |language| -> Vec<String> {
            let items = of_files(std::slice::from_ref(&file), language).unwrap();
            items.into_iter().map(|item| item.name).collect()
        };
        assert_eq!(names(None), ["a.wav, language detected"]);
        assert_eq!(
            names(Some("de")),
            ["a.wav, language forced", "a.wav, language detected"]
        );
        std::fs::write(&file, "").unwrap();
        of_files(&[file], None).unwrap_err();
    }
}
