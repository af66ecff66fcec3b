//! Utterances of a long file, which are the units of the bootstrap.

use std::path::Path;

use measurement_support::corpus::Pair;
use uttera_stt_tools::probe::word_error_rate::{align, normalise};

/// A known utterance of a long file, with its times if they are known.
pub struct Utterance {
    /// Start in seconds, or NaN.
    pub start: f64,
    /// End in seconds, or NaN.
    pub end: f64,
    /// Normalised words.
    pub words: Vec<String>,
}

/// Number of words of a unit of the bootstrap, if the utterances are not known.
const UNIT: usize = 20;

/// Reads the utterances of a long file from `segments.json`, or makes units of the text if there is none.
pub fn utterances(path: &Path, text: &str) -> anyhow::Result<Vec<Utterance>> {
    let Ok(json) = std::fs::read(path.with_extension("segments.json")) else {
        let words = normalise(text);
        let units = words.chunks(UNIT).map(|words| Utterance {
            start: f64::NAN,
            end: f64::NAN,
            words: words.to_vec(),
        });
        return Ok(units.collect());
    };
    let rows: Vec<(f64, f64, String, String)> = serde_json::from_slice(&json)?;
    let rows = rows.into_iter().map(|(start, end, _, text)| Utterance {
        start,
        end,
        words: normalise(&text),
    });
    Ok(rows.collect())
}

/// Errors of two texts of a long file, by utterance.
pub fn by_utterance(utterances: &[Utterance], texts: &[String; 2]) -> Vec<Pair> {
    let reference: Vec<String> = utterances.iter().flat_map(|u| u.words.clone()).collect();
    let errors = texts
        .each_ref()
        .map(|text| align(&reference, &normalise(text)));
    let mut at = 0;
    let mut pairs = Vec::new();
    for utterance in utterances {
        let range = at..at + utterance.words.len();
        pairs.push(Pair {
            words: utterance.words.len(),
            errors: errors
                .each_ref()
                .map(|errors| errors[range.clone()].iter().sum()),
        });
        at = range.end;
    }
    pairs
}
