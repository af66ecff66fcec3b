//! Recordings with known text.

use std::path::PathBuf;

use crate::{repository, wer};

/// A file of the repository's samples.
pub fn sample(name: &str) -> PathBuf {
    repository().join("samples").join(name)
}

/// The corpus of real speech, if it is available.
pub fn corpus() -> Option<PathBuf> {
    std::env::var_os("STT_CORPUS")
        .filter(|path| !path.is_empty())
        .map(PathBuf::from)
}

/// Lower-case words without punctuation, for the comparison of two transcripts.
pub fn words(text: &str) -> Vec<String> {
    wer::normalise(text)
}

/// The known text of a sample.
pub fn sample_text(name: &str) -> String {
    let table = std::fs::read_to_string(sample("samples.tsv")).expect("the table");
    let row = table
        .lines()
        .find(|line| line.starts_with(name))
        .expect("a row");
    row.split('\t').nth(2).expect("a text").to_owned()
}
