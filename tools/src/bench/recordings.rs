//! The recordings for the systems to transcribe: a folder of recordings with their texts, or the built-in
//! ones.

use std::path::Path;

use anyhow::Context;
use serde::Serialize;

pub use crate::probe::recording::Recording;
use crate::probe::speech::{COMMAND, GERMAN, LONG, SENTENCE, SPANISH, Speech};

/// Lengths of short clips, in seconds.
const SHORT_SECONDS: std::ops::RangeInclusive<f64> = 1.0..=12.0;
/// Preferred length of a command, in seconds.
const COMMAND_SECONDS: f64 = 2.0;
/// Languages of the clips taken from a folder; the models are known to support them well.
const LANGUAGES: [&str; 3] = ["en", "es", "fr"];

/// The recordings of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Recordings {
    /// Description of their origin, for people.
    pub source: String,
    /// Short clips.
    pub short: Vec<Recording>,
    /// A file of several minutes.
    pub long: Recording,
    /// A command of about two seconds.
    pub command: Recording,
}

/// Which recordings to use.
pub struct Choice<'a> {
    /// The folder; `None`: the built-in recordings.
    pub corpus: Option<&'a Path>,
    /// Number of short clips.
    pub clips: usize,
    /// The long file; `None`: the first one of the folder.
    pub long: Option<&'a Path>,
    /// Whether the model supports only English.
    pub english_only: bool,
}

impl Recordings {
    /// Loads the recordings.
    pub fn load(choice: &Choice) -> anyhow::Result<Self> {
        let mut recordings = match choice.corpus {
            Some(folder) => from_folder(folder, choice)?,
            None => built_in(choice),
        };
        if let Some(file) = choice.long {
            recordings.long = long_file(file, choice.corpus)?;
        }
        Ok(recordings)
    }
}

/// A row of a table of recordings.
#[derive(Clone, Debug, PartialEq)]
struct Row {
    path: String,
    language: String,
    seconds: f64,
    text: String,
}

/// Parses a table. Its first line has the column names; its first four columns are path, language, length and
/// text.
fn table(text: &str) -> Vec<Row> {
    let row = |line: &str| {
        let mut columns = line.split('\t');
        Some(Row {
            path: columns.next()?.to_owned(),
            language: columns.next()?.to_owned(),
            seconds: columns.next()?.parse().ok()?,
            text: columns.next()?.trim_matches('"').to_owned(),
        })
    };
    text.lines().skip(1).filter_map(row).collect()
}

/// Takes `count` elements, evenly spread over all; all of them if there are fewer.
fn spread<T: Clone>(all: &[T], count: usize) -> Vec<T> {
    let count = count.min(all.len());
    (0..count)
        .map(|n| all[n * all.len() / count].clone())
        .collect()
}

/// The element whose length is nearest to the preferred length of a command.
fn nearest_to_a_command<T>(all: &[T], seconds: impl Fn(&T) -> f64) -> Option<&T> {
    let off = |item: &&T| (seconds(item) - COMMAND_SECONDS).abs();
    all.iter().min_by(|a, b| off(a).total_cmp(&off(b)))
}

fn read_table(folder: &Path, name: &str) -> anyhow::Result<Vec<Row>> {
    let path = folder.join(name);
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    Ok(table(&text))
}

fn read(folder: &Path, row: &Row) -> anyhow::Result<Recording> {
    let path = folder.join(&row.path);
    let audio = std::fs::read(&path).with_context(|| path.display().to_string())?;
    Ok(Recording {
        name: row.path.clone(),
        language: Some(row.language.clone()),
        seconds: row.seconds,
        text: Some(row.text.clone()),
        audio: audio.into(),
    })
}

fn from_folder(folder: &Path, choice: &Choice) -> anyhow::Result<Recordings> {
    let languages = if choice.english_only {
        &LANGUAGES[..1]
    } else {
        &LANGUAGES
    };
    let mut rows = read_table(folder, "speech.tsv")?;
    rows.retain(|row| {
        languages.contains(&row.language.as_str()) && SHORT_SECONDS.contains(&row.seconds)
    });
    let command = nearest_to_a_command(&rows, |row| row.seconds);
    let command =
        command.context("speech.tsv has no clip of 1 to 12 s in English, Spanish or French")?;
    let long = read_table(folder, "long.tsv")?;
    let long = long.first().context("long.tsv has no recording")?;
    let short = spread(&rows, choice.clips);
    Ok(Recordings {
        source: "recordings from a folder (--corpus)".to_owned(),
        short: short
            .iter()
            .map(|row| read(folder, row))
            .collect::<Result<_, _>>()?,
        long: read(folder, long)?,
        command: read(folder, command)?,
    })
}

/// A file of the user. Its text is known only if the folder's table contains the file.
fn long_file(file: &Path, corpus: Option<&Path>) -> anyhow::Result<Recording> {
    let known = match corpus {
        Some(folder) => read_table(folder, "long.tsv")?,
        None => Vec::new(),
    };
    let row = known.iter().find(|row| file.ends_with(&row.path));
    Ok(Recording {
        language: row.map(|row| row.language.clone()),
        seconds: row.map_or(0.0, |row| row.seconds),
        text: row.map(|row| row.text.clone()),
        ..Recording::of_file(file)?
    })
}

/// The built-in short clips.
const SHORT_SAMPLES: [Speech; 4] = [COMMAND, SENTENCE, SPANISH, GERMAN];

fn built_in(choice: &Choice) -> Recordings {
    let short: Vec<Recording> = SHORT_SAMPLES
        .iter()
        .filter(|speech| !choice.english_only || speech.language == "en")
        .map(|speech| Recording::from(*speech))
        .collect();
    Recordings {
        source: "the built-in recordings (synthetic voices)".to_owned(),
        command: COMMAND.into(),
        short: repeated(&short, choice.clips),
        long: LONG.into(),
    }
}

/// Repeats a few recordings until there are `count`.
fn repeated(few: &[Recording], count: usize) -> Vec<Recording> {
    if count <= few.len() {
        return spread(few, count);
    }
    few.iter().cycle().take(count).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(corpus: Option<&Path>, clips: usize) -> Choice<'_> {
        Choice {
            corpus,
            clips,
            long: None,
            english_only: false,
        }
    }

    #[test]
    fn clips_are_spread_over_the_table() {
        assert_eq!(spread(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9], 5), [0, 2, 4, 6, 8]);
        assert_eq!(spread(&[0, 1, 2], 2), [0, 1]);
        assert_eq!(spread(&[0, 1], 5), [0, 1]);
        assert_eq!(spread(&Vec::<u8>::new(), 5), Vec::<u8>::new());
    }

    #[test]
    fn the_built_in_recordings_have_their_texts_and_lengths() {
        let found = Recordings::load(&choice(None, 4)).unwrap();
        assert_eq!(found.short.len(), 4);
        assert_eq!(
            found.command.text.as_deref(),
            Some("Turn on the kitchen light.")
        );
        for clip in &found.short {
            let reader = hound::WavReader::new(clip.audio.as_ref()).unwrap();
            let seconds = f64::from(reader.duration()) / f64::from(reader.spec().sample_rate);
            assert!(
                (seconds - clip.seconds).abs() < 0.01,
                "{}: {seconds}",
                clip.name
            );
        }
        assert_eq!(Recordings::load(&choice(None, 9)).unwrap().short.len(), 9);
    }

    #[test]
    fn an_english_only_model_gets_only_english_clips() {
        let english = Choice {
            english_only: true,
            ..choice(None, 3)
        };
        let found = Recordings::load(&english).unwrap();
        assert!(
            found
                .short
                .iter()
                .all(|clip| clip.language.as_deref() == Some("en"))
        );
    }

    #[test]
    fn a_folder_is_read_by_its_tables() {
        let folder = tempfile::tempdir().unwrap();
        let head = "path\tlanguage\tduration_s\ttext\tsource\n";
        let rows =
            "a.wav\ten\t5\tA\t\nb.wav\tes\t2.1\tB\t\nc.wav\tru\t2\tC\t\nd.wav\ten\t40\tD\t\n";
        std::fs::write(folder.path().join("speech.tsv"), format!("{head}{rows}")).unwrap();
        let long = format!("{head}long.ogg\tfr\t400\t\"L M\"\t\n");
        std::fs::write(folder.path().join("long.tsv"), long).unwrap();
        for name in ["a.wav", "b.wav", "long.ogg"] {
            std::fs::write(folder.path().join(name), name).unwrap();
        }
        let found = Recordings::load(&choice(Some(folder.path()), 60)).unwrap();
        let names: Vec<&str> = found.short.iter().map(|clip| clip.name.as_str()).collect();
        assert_eq!(names, ["a.wav", "b.wav"]);
        assert_eq!(found.command.name, "b.wav");
        assert_eq!(found.long.text.as_deref(), Some("L M"));
        let own = folder.path().join("mine.mp3");
        std::fs::write(&own, "x").unwrap();
        let found = Recordings::load(&Choice {
            long: Some(&own),
            ..choice(Some(folder.path()), 1)
        });
        let found = found.unwrap();
        assert_eq!(
            (found.long.name.as_str(), found.long.text),
            ("mine.mp3", None)
        );
    }

    #[test]
    fn the_error_for_a_missing_table_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let error = Recordings::load(&choice(Some(folder.path()), 1)).unwrap_err();
        assert!(format!("{error:#}").contains("speech.tsv"), "{error:#}");
    }
}
