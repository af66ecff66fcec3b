//! Comparison with the results of an earlier run: the guard of a canary.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, ensure};
use serde::Deserialize;

use super::report::Report;
use crate::probe::counted;

/// The results of an earlier run, as far as they are compared.
#[derive(Debug, Deserialize)]
pub struct Baseline {
    recordings: Vec<BaselineRecording>,
    steps: Vec<BaselineStep>,
}

#[derive(Debug, PartialEq, Eq, Deserialize)]
struct BaselineRecording {
    name: String,
}

#[derive(Debug, Deserialize)]
struct BaselineStep {
    clients: usize,
    end_to_end_ms: Option<BaselineTimes>,
}

#[derive(Debug, Deserialize)]
struct BaselineTimes {
    p95: f64,
}

/// The result of a comparison.
#[derive(Debug, PartialEq, Eq)]
pub struct Comparison {
    /// One line for each step of both runs.
    pub text: String,
    /// Whether no step is slower than allowed.
    pub passed: bool,
}

impl Baseline {
    /// Reads the JSON of an earlier run.
    ///
    /// # Errors
    /// The file cannot be read, or is no such JSON.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        serde_json::from_str(&text)
            .with_context(|| format!("{} is not written by `load --json`", path.display()))
    }

    /// Compares the 95th percentiles of the steps with the same number of clients. A step without a transcript in the
    /// new run has failed.
    ///
    /// # Errors
    /// The runs are not comparable: other recordings, or no common step.
    pub fn compare(&self, report: &Report, most: f64) -> anyhow::Result<Comparison> {
        let recordings = (report.recordings.iter()).map(|recording| recording.name.as_str());
        ensure!(
            recordings.eq(self.recordings.iter().map(|known| known.name.as_str())),
            "the baseline was measured with other recordings"
        );
        let (mut text, mut passed, mut compared) = (String::new(), true, 0);
        for step in &report.steps {
            let before = self.steps.iter().find(|old| old.clients == step.clients);
            let Some(before) = before.and_then(|old| old.end_to_end_ms.as_ref()) else {
                continue;
            };
            compared += 1;
            let at = counted(step.clients, "client");
            let old = before.p95;
            let Some(now) = step.end_to_end_ms else {
                passed = false;
                // Writing to a string cannot fail.
                let _ = writeln!(
                    text,
                    "{at}: no transcript; the baseline's 95th percentile is {old:.0} ms"
                );
                continue;
            };
            let ratio = now.p95 / old.max(f64::MIN_POSITIVE);
            let slow = ratio > most;
            passed &= !slow;
            let verdict = if slow { "too slow" } else { "ok" };
            let _ = writeln!(
                text,
                "{at}, 95th percentile: {:.0} ms, {ratio:.2} times the baseline's {old:.0} ms (at most {most}): {verdict}",
                now.p95
            );
        }
        ensure!(
            compared > 0,
            "the baseline has no step with as many clients as one of this run"
        );
        Ok(Comparison { text, passed })
    }
}
