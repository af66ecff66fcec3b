//! Word error rate: edits divided by words of the reference.

use serde::Serialize;

/// Lower-cases a text, keeps letters, digits and apostrophes, and splits it into words.
pub fn normalise(text: &str) -> Vec<String> {
    let lower = text.to_lowercase().replace('’', "'");
    let kept: String = lower
        .chars()
        .map(|c| {
            if c.is_alphanumeric() || c == '\'' {
                c
            } else {
                ' '
            }
        })
        .collect();
    kept.split_whitespace().map(str::to_owned).collect()
}

/// Edits and words, which can be summed over many clips.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Score {
    /// Inserted, deleted and substituted words.
    pub edits: usize,
    /// Words of the reference.
    pub words: usize,
}

impl Score {
    /// Scores one text.
    pub fn of(reference: &str, hypothesis: &str) -> Self {
        let mut score = Self::default();
        score.add(reference, hypothesis);
        score
    }

    /// Adds the score of another text.
    pub fn add(&mut self, reference: &str, hypothesis: &str) {
        let (reference, hypothesis) = (normalise(reference), normalise(hypothesis));
        self.edits += distance(&reference, &hypothesis);
        self.words += reference.len();
    }

    /// Edits per word of the reference.
    pub fn rate(self) -> f64 {
        self.edits as f64 / self.words.max(1) as f64
    }
}

/// Levenshtein distance in words.
fn distance(a: &[String], b: &[String]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, word) in a.iter().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, other) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(word != other);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// Assigns each edit between the reference and the transcript to a word of the reference. The result has one
/// entry per word of the reference; an inserted word counts for the word before it.
pub fn align(reference: &[String], said: &[String]) -> Vec<usize> {
    let cost = alignment_costs(reference, said);
    let columns = said.len() + 1;
    let mut errors = vec![0; reference.len()];
    let (mut row, mut column) = (reference.len(), said.len());
    while row > 0 || column > 0 {
        let here = cost[row * columns + column];
        if row > 0 && column > 0 {
            let differs = u32::from(reference[row - 1] != said[column - 1]);
            if cost[(row - 1) * columns + column - 1] + differs == here {
                errors[row - 1] += differs as usize;
                (row, column) = (row - 1, column - 1);
                continue;
            }
        }
        if row > 0 && cost[(row - 1) * columns + column] + 1 == here {
            errors[row - 1] += 1;
            row -= 1;
        } else {
            if let Some(error) = errors.get_mut(row.saturating_sub(1)) {
                *error += 1;
            }
            column -= 1;
        }
    }
    errors
}

/// Costs of the cheapest alignment up to each pair of positions, row by row of the reference.
fn alignment_costs(reference: &[String], said: &[String]) -> Vec<u32> {
    let (rows, columns) = (reference.len() + 1, said.len() + 1);
    let mut cost = vec![0_u32; rows * columns];
    for row in 0..rows {
        for column in 0..columns {
            cost[row * columns + column] = match (row, column) {
                (0, _) => column as u32,
                (_, 0) => row as u32,
                _ => {
                    let differs = u32::from(reference[row - 1] != said[column - 1]);
                    let diagonal = cost[(row - 1) * columns + column - 1] + differs;
                    let up = cost[(row - 1) * columns + column] + 1;
                    diagonal.min(up).min(cost[row * columns + column - 1] + 1)
                }
            };
        }
    }
    cost
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_are_counted_in_words() {
        let mut score = Score::default();
        score.add("the cat sat", "The cat, sat down!");
        score.add("hello world", "help");
        assert_eq!((score.edits, score.words), (3, 5));
    }

    #[test]
    fn edits_are_assigned_to_words_of_the_reference() {
        let aligned = |reference: &str, said: &str| align(&normalise(reference), &normalise(said));
        assert_eq!(aligned("a b c", "a b c"), [0, 0, 0]);
        assert_eq!(aligned("a b c", "a x c"), [0, 1, 0]);
        assert_eq!(aligned("a b c", "a c"), [0, 1, 0]);
        assert_eq!(aligned("a b c", "a b d e c"), [0, 2, 0]);
        assert_eq!(aligned("a b", ""), [1, 1]);
        assert!(aligned("", "a b").is_empty());
    }

    #[test]
    fn alignment_and_distance_agree() {
        let (reference, said) = (
            "one two three four five six",
            "two one three for for five six ten",
        );
        let errors: usize = align(&normalise(reference), &normalise(said)).iter().sum();
        assert_eq!(errors, Score::of(reference, said).edits);
    }
}
