//! What came of a check, and of all of them.

use std::fmt;

use serde::Serialize;

/// What came of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The promise is kept.
    Pass,
    /// It is not, and this is what is wrong.
    Fail(String),
    /// It does not apply here, and this is why.
    Skip(String),
}

impl Outcome {
    /// As tables and files have it.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail(_) => "fail",
            Self::Skip(_) => "skip",
        }
    }

    /// What is wrong, or why it does not apply.
    pub fn why(&self) -> Option<&str> {
        match self {
            Self::Pass => None,
            Self::Fail(why) | Self::Skip(why) => Some(why),
        }
    }
}

/// A server that lets so many checks run out of time would do so with the rest.
pub const MOST_TIMEOUTS: usize = 3;

/// Of a check that comes after those.
pub fn too_slow() -> Outcome {
    Outcome::Fail(format!(
        "not tried: {MOST_TIMEOUTS} checks before this one ran out of time"
    ))
}

/// What came of it all; the program's exit status follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every check passed or did not apply.
    Passed,
    /// At least one failed.
    Failed,
    /// Nobody answers there.
    Unreachable,
}

impl From<Verdict> for std::process::ExitCode {
    fn from(verdict: Verdict) -> Self {
        Self::from(match verdict {
            Verdict::Passed => 0,
            Verdict::Failed => 1,
            Verdict::Unreachable => 2,
        })
    }
}

/// How many checks came out in which way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Checks that passed.
    pub passed: usize,
    /// Checks that failed.
    pub failed: usize,
    /// Checks that did not apply.
    pub skipped: usize,
}

impl Counts {
    /// Of these words of outcomes.
    pub fn of<'a>(words: impl Iterator<Item = &'a str>) -> Self {
        let mut counts = Self::default();
        for word in words {
            match word {
                "pass" => counts.passed += 1,
                "skip" => counts.skipped += 1,
                _ => counts.failed += 1,
            }
        }
        counts
    }

    /// Whether the server does what it should.
    pub fn verdict(&self) -> Verdict {
        if self.failed == 0 {
            Verdict::Passed
        } else {
            Verdict::Failed
        }
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            passed,
            failed,
            skipped,
        } = self;
        write!(out, "{passed} passed, {failed} failed, {skipped} skipped")
    }
}

/// A foreign server's words must not break the table, nor speak to the terminal.
pub fn one_line(text: &str) -> String {
    text.split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
        .chars()
        .filter(|character| !character.is_control())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_wrote_stays_on_its_line() {
        assert_eq!(one_line("a\n\x1b[2J  b\t"), "a [2J b");
    }
}
