//! Results of one check and of a whole run.

use std::fmt;

use serde::Serialize;

/// Result of one check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The server keeps the promise.
    Pass,
    /// The server does not keep the promise, for this reason.
    Fail(String),
    /// The check does not apply to this server, for this reason.
    Skip(String),
}

impl Outcome {
    /// The word for tables and files.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail(_) => "fail",
            Self::Skip(_) => "skip",
        }
    }

    /// The reason why the check failed or does not apply.
    pub fn why(&self) -> Option<&str> {
        match self {
            Self::Pass => None,
            Self::Fail(why) | Self::Skip(why) => Some(why),
        }
    }
}

/// After so many timeouts, the remaining checks are skipped, because they would time out as well.
pub const MAX_TIMEOUTS: usize = 3;

/// The outcome of a check that is not run because too many earlier checks timed out.
pub fn too_slow() -> Outcome {
    Outcome::Fail(format!(
        "not tried: {MAX_TIMEOUTS} checks before this one timed out"
    ))
}

/// Result of the whole run; it determines the program's exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every check passed or did not apply.
    Passed,
    /// At least one check failed.
    Failed,
    /// The server cannot be reached.
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

/// Number of checks by outcome.
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
    /// Counts the words of outcomes.
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

    /// Whether the server passed.
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

/// Puts a server's text on one line without control characters, so that it cannot break the table or control
/// the terminal.
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
    fn a_servers_text_stays_on_one_line() {
        assert_eq!(one_line("a\n\x1b[2J  b\t"), "a [2J b");
    }
}
