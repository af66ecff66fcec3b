//! The tables of a corpus, and the error rates of two ways of transcribing it.

use std::path::Path;

/// Number of resamplings of the bootstrap.
const RESAMPLINGS: usize = 10_000;

/// A recording and its text.
pub struct Row {
    /// Path within the folder of the corpus.
    pub path: String,
    /// ISO 639-1 code.
    pub language: String,
    /// The spoken text.
    pub text: String,
}

/// Reads every n-th row of a table, out of the rows in these languages.
///
/// # Errors
/// The table cannot be read.
pub fn rows(
    corpus: &Path,
    table: &str,
    languages: &[&str],
    every: usize,
) -> anyhow::Result<Vec<Row>> {
    let table = std::fs::read_to_string(corpus.join(table))?;
    let rows = table.lines().skip(1).filter_map(|line| {
        let columns: Vec<&str> = line.split('\t').collect();
        let row = Row {
            path: (*columns.first()?).to_owned(),
            language: (*columns.get(1)?).to_owned(),
            text: (*columns.get(3)?).to_owned(),
        };
        languages.contains(&row.language.as_str()).then_some(row)
    });
    Ok(rows.step_by(every).collect())
}

/// Number of words of one unit of the bootstrap, and the errors of A and B in it.
pub struct Pair {
    /// Words of the reference.
    pub words: usize,
    /// Word errors of A and B.
    pub errors: [usize; 2],
}

/// Prints how many recordings there were, the error rates of A and B by their names, and their difference.
///
/// # Errors
/// There was no recording.
pub fn print_difference(pairs: &[Pair], names: [&str; 2]) -> anyhow::Result<()> {
    anyhow::ensure!(!pairs.is_empty(), "no recordings in these languages");
    let (rates, interval) = difference(pairs);
    println!(
        "{} recordings: {} {:.2} % errors, {} {:.2} %: {:+.2} points ({:+.2} to {:+.2})",
        pairs.len(),
        names[0],
        rates[0],
        names[1],
        rates[1],
        rates[1] - rates[0],
        interval[0],
        interval[1]
    );
    Ok(())
}

/// The error rates of A and B in percent, and the 95 % interval of their difference in points, by a
/// bootstrap over the pairs.
pub fn difference(pairs: &[Pair]) -> ([f64; 2], [f64; 2]) {
    let rate = |pairs: &[&Pair], which: usize| {
        let errors: usize = pairs.iter().map(|pair| pair.errors[which]).sum();
        let words: usize = pairs.iter().map(|pair| pair.words).sum();
        100.0 * errors as f64 / words.max(1) as f64
    };
    let all: Vec<&Pair> = pairs.iter().collect();
    let mut state = 1_u64;
    let mut next = || {
        // A linear congruential generator; its upper half is random enough for drawing clips.
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 33) as usize
    };
    let mut differences: Vec<f64> = (0..RESAMPLINGS)
        .map(|_| {
            let drawn: Vec<&Pair> = (0..pairs.len())
                .map(|_| &pairs[next() % pairs.len()])
                .collect();
            rate(&drawn, 1) - rate(&drawn, 0)
        })
        .collect();
    differences.sort_by(f64::total_cmp);
    let percentile = |share: f64| differences[(RESAMPLINGS as f64 * share) as usize];
    (
        [rate(&all, 0), rate(&all, 1)],
        [percentile(0.025), percentile(0.975)],
    )
}
