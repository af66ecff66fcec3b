//! The figures on word errors: of all short clips together, and of the long file.

use super::figures::{Figure, Kind, Names, Row, Unit, left_out, series};
use super::recordings::Recording;
use super::sample::{Quantity, Sample, Scenario};
use super::statistics::{Comparison, word_error_difference};
use crate::probe::word_error_rate::{Score, align, normalise};

/// The long file is one text, so that the bootstrap draws stretches of this number of words.
const STRETCH_WORDS: usize = 25;

/// The figure of the clips that both systems answered.
pub fn of_clips(names: &Names, samples: &[Sample]) -> Option<Figure> {
    let units = |name: &str| -> Vec<(usize, Score)> {
        let all = series(samples, Quantity::ShortSeconds, name).0;
        all.iter()
            .filter_map(|sample| Some((sample.round, sample.score?)))
            .collect()
    };
    figure(names, Scenario::Short, "words wrong, short clips", units)
}

/// The figure of the long file, from its first round only: further rounds of the same text are no further
/// evidence.
pub fn of_long(names: &Names, samples: &[Sample], long: &Recording) -> Option<Figure> {
    let reference = normalise(long.text.as_deref()?);
    let units = |name: &str| -> Vec<(usize, Score)> {
        let answers = series(samples, Quantity::LongSeconds, name).0;
        let Some(text) = answers.iter().find_map(|sample| sample.text.as_ref()) else {
            return Vec::new();
        };
        let errors = align(&reference, &normalise(text));
        let scores = errors.chunks(STRETCH_WORDS).map(|stretch| Score {
            edits: stretch.iter().sum(),
            words: stretch.len(),
        });
        scores.enumerate().collect()
    };
    figure(names, Scenario::Long, "words wrong, the long file", units)
}

/// `units` returns a system's scores, keyed by the scored unit.
fn figure(
    names: &Names,
    scenario: Scenario,
    name: &str,
    units: impl Fn(&str) -> Vec<(usize, Score)>,
) -> Option<Figure> {
    let ours = units(&names.all[names.ours]);
    let row = |(index, system): (usize, &String)| {
        let theirs = units(system);
        let value = rate(&theirs);
        let comparison = (index != names.ours)
            .then(|| compare(&ours, &theirs))
            .flatten();
        Row {
            system: system.clone(),
            value,
            more_than: false,
            comparison,
            note: left_out(names, system, value),
        }
    };
    let rows: Vec<Row> = names.all.iter().enumerate().map(row).collect();
    rows.iter().any(|row| row.value.is_some()).then(|| Figure {
        scenario,
        name: name.to_owned(),
        unit: Unit::Percent,
        kind: Kind::BootstrapPoints,
        rows,
    })
}

fn rate(units: &[(usize, Score)]) -> Option<f64> {
    let mut sum = Score::default();
    for (_, score) in units {
        sum.edits += score.edits;
        sum.words += score.words;
    }
    (sum.words > 0).then(|| 100.0 * sum.rate())
}

fn compare(ours: &[(usize, Score)], theirs: &[(usize, Score)]) -> Option<Comparison> {
    let of_ours = |unit: usize| ours.iter().find(|(known, _)| *known == unit);
    let pair = |(unit, their): &(usize, Score)| Some((of_ours(*unit)?.1, *their));
    let pairs: Vec<(Score, Score)> = theirs.iter().filter_map(pair).collect();
    word_error_difference(&pairs)
}
