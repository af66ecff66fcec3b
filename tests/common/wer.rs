//! Word error rate: edits over words of the reference.

/// Lower case, letters and digits and apostrophes only, split into words.
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

/// Edits and words, to be summed over many clips.
#[derive(Clone, Copy, Debug, Default)]
pub struct Score {
    pub edits: usize,
    pub words: usize,
}

impl Score {
    pub fn add(&mut self, reference: &str, hypothesis: &str) {
        let (reference, hypothesis) = (normalise(reference), normalise(hypothesis));
        self.edits += distance(&reference, &hypothesis);
        self.words += reference.len();
    }

    pub fn rate(self) -> f64 {
        self.edits as f64 / self.words.max(1) as f64
    }
}

/// Levenshtein's distance in words.
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

#[test]
fn edits_are_counted_in_words() {
    let mut score = Score::default();
    score.add("the cat sat", "The cat, sat down!");
    score.add("hello world", "help");
    assert_eq!((score.edits, score.words), (3, 5));
}
