//! Results of the checks: a table for people, JSON for programs.

use std::fmt::Write;

use anyhow::Context;
use serde::{Serialize, Serializer};

use super::Group;
use crate::probe::outcome::{Counts, Outcome, one_line};

/// A check and its result.
#[derive(Clone, Debug)]
pub struct Result {
    /// Group of the check.
    pub group: Group,
    /// The promise that was checked.
    pub name: String,
    /// Result of the check.
    pub outcome: Outcome,
    /// Duration of the check.
    pub seconds: f64,
}

impl Serialize for Result {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serde_json::json!({
            "group": self.group,
            "check": self.name,
            "outcome": self.outcome.word(),
            "why": self.outcome.why(),
            "seconds": (self.seconds * 1000.0).round() / 1000.0,
        })
        .serialize(serializer)
    }
}

/// Results of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Version of this program.
    pub version: &'static str,
    /// Address of the server.
    pub url: String,
    /// Number of checks by outcome.
    #[serde(flatten)]
    pub counts: Counts,
    /// All checks.
    pub checks: Vec<Result>,
}

impl Report {
    /// Creates the report of a finished run.
    pub fn of(url: &str, checks: Vec<Result>) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION"),
            url: url.to_owned(),
            counts: Counts::of(checks.iter().map(|check| check.outcome.word())),
            checks,
        }
    }

    /// A block of lines per group, and a summary.
    pub fn table(&self) -> String {
        let mut out = String::new();
        let names = self.checks.iter().map(|check| check.name.chars().count());
        let width = names.max().unwrap_or(0);
        let mut last = None;
        for check in &self.checks {
            // Writing to a string cannot fail.
            if last != Some(check.group) {
                let _ = writeln!(out, "{}", check.group.name());
                last = Some(check.group);
            }
            let (word, why) = (check.outcome.word(), check.outcome.why());
            let line = format!(
                "  {word}  {:<width$}  {}",
                check.name,
                one_line(why.unwrap_or_default())
            );
            let _ = writeln!(out, "{}", line.trim_end());
        }
        let _ = writeln!(out, "{}: {}", self.url, self.counts);
        out
    }

    /// Returns the report as JSON.
    ///
    /// # Errors
    /// The report cannot be serialised.
    pub fn json(&self) -> anyhow::Result<String> {
        let json = serde_json::to_string_pretty(self).context("cannot serialise the report")?;
        Ok(json + "\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::outcome::Verdict;

    fn result(name: &str, outcome: Outcome) -> Result {
        Result {
            group: Group::Models,
            name: name.to_owned(),
            outcome,
            seconds: 0.1234,
        }
    }

    #[test]
    fn the_table_says_what_failed_and_why_on_one_line_each() {
        let report = Report::of(
            "http://a",
            vec![
                result("the list", Outcome::Pass),
                result("one", Outcome::Fail("a\n\x1b[2Jb".to_owned())),
                result("other", Outcome::Skip("no key".to_owned())),
            ],
        );
        assert_eq!(report.counts.verdict(), Verdict::Failed);
        assert_eq!(
            report.table(),
            "models\n  pass  the list\n  fail  one       a [2Jb\n  skip  other     no key\n\
             http://a: 1 passed, 1 failed, 1 skipped\n"
        );
        let json: serde_json::Value = serde_json::from_str(&report.json().unwrap()).unwrap();
        assert_eq!(json["checks"][1]["outcome"], "fail");
        assert_eq!(json["checks"][0]["why"], serde_json::Value::Null);
    }
}
