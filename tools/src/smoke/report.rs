//! Results of the checks: a line each as soon as it is done, and all of them as JSON.

use anyhow::Context;
use serde::Serialize;

use crate::probe::outcome::{Counts, Outcome, one_line};
use crate::probe::transcript::{Endpoint, FallbackUse};

/// Maximum number of characters of a transcript in a line.
const SHOWN_CHARACTERS: usize = 60;

/// A check and its result.
#[derive(Clone, Debug, Serialize)]
pub struct Entry {
    /// Endpoint of a transcript; `None` for other checks.
    pub endpoint: Option<Endpoint>,
    /// Description of the check.
    #[serde(rename = "check")]
    pub name: String,
    /// `pass`, `fail` or `skip`.
    pub outcome: &'static str,
    /// Reason why it failed or does not apply.
    pub why: Option<String>,
    /// The server's text.
    pub heard: Option<String>,
    /// Duration of the check.
    pub seconds: f64,
}

impl Entry {
    /// Creates the entry of a finished check.
    pub fn new(
        endpoint: Option<Endpoint>,
        name: &str,
        outcome: &Outcome,
        heard: Option<String>,
        seconds: f64,
    ) -> Self {
        Self {
            endpoint,
            name: name.to_owned(),
            outcome: outcome.word(),
            why: outcome.why().map(str::to_owned),
            heard,
            seconds: (seconds * 1000.0).round() / 1000.0,
        }
    }

    /// The entry on one line, whatever the server's text contains.
    pub fn line(&self) -> String {
        let place = self.endpoint.map_or("", Endpoint::path);
        let what = format!("{place} {}", self.name);
        let told = match (&self.why, &self.heard) {
            (Some(why), _) => one_line(why),
            (None, Some(heard)) if self.endpoint.is_some() => format!("{:?}", shown(heard)),
            (None, Some(heard)) => shown(heard),
            (None, None) => String::new(),
        };
        let (outcome, seconds) = (self.outcome, self.seconds);
        let line = format!("{outcome}  {:<50}  {seconds:>7.2} s  {told}", what.trim());
        line.trim_end().to_owned()
    }
}

fn shown(text: &str) -> String {
    let text = one_line(text);
    if text.chars().count() <= SHOWN_CHARACTERS {
        return text;
    }
    let beginning: String = text.chars().take(SHOWN_CHARACTERS - 1).collect();
    beginning + "…"
}

fn fallback_line(fallback: FallbackUse) -> String {
    let FallbackUse { told, used, failed } = fallback;
    match fallback.percent() {
        None => "fallback: unknown, no answer has X-Fallback-Used".to_owned(),
        Some(percent) => format!(
            "fallback: asked for {used} of {told} transcripts ({percent:.0} %), {failed} failed"
        ),
    }
}

/// Results of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Version of this program.
    pub version: &'static str,
    /// Address of the server.
    pub url: String,
    /// The server's model, if it reports one.
    pub model: Option<String>,
    /// Number of checks by outcome.
    #[serde(flatten)]
    pub counts: Counts,
    /// Use of the fallback in all transcripts.
    pub fallback: FallbackUse,
    /// All checks.
    pub checks: Vec<Entry>,
}

impl Report {
    /// Creates the report of a finished run.
    pub fn of(url: &str, model: Option<String>, fallback: FallbackUse, checks: Vec<Entry>) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION"),
            url: url.to_owned(),
            model,
            counts: Counts::of(checks.iter().map(|check| check.outcome)),
            fallback,
            checks,
        }
    }

    /// The last lines of the output.
    pub fn summary(&self) -> String {
        let Self { url, counts, .. } = self;
        format!("{}\n{url}: {counts}\n", fallback_line(self.fallback))
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
    use crate::probe::outcome::Verdict;
    use crate::probe::transcript::Work;

    use super::*;

    fn entry(outcome: &Outcome, heard: &str) -> Entry {
        let endpoint = Some(Endpoint::Transcribe);
        Entry::new(endpoint, "short", outcome, Some(heard.to_owned()), 0.1234)
    }

    #[test]
    fn a_line_shows_the_transcript_or_what_is_wrong() {
        let long = format!("a\n\x1b[2J{}", "b".repeat(99));
        let line = entry(&Outcome::Pass, &long).line();
        assert!(line.starts_with("pass  /v1/transcribe short  "), "{line}");
        assert!(line.contains("  0.12 s  \"a [2Jb"), "{line}");
        assert!(line.ends_with("bb…\"") && !line.contains('\n'), "{line}");
        let line = entry(&Outcome::Fail("no\nway".to_owned()), "text").line();
        assert!(
            line.starts_with("fail  ") && line.ends_with(" s  no way"),
            "{line}"
        );
    }

    #[test]
    fn the_fallbacks_share_is_of_transcripts_that_report_it() {
        let mut fallback = FallbackUse::default();
        assert!(fallback_line(fallback).contains("no answer has X-Fallback-Used"));
        for used in [None, Some(true), Some(false), Some(false)] {
            fallback.add(&Work {
                fallback_used: used,
                ..Work::default()
            });
        }
        let line = "fallback: asked for 1 of 3 transcripts (33 %), 0 failed";
        assert_eq!(fallback_line(fallback), line);
    }

    #[test]
    fn one_failure_is_enough() {
        let report = |outcomes: &[Outcome]| {
            let checks = outcomes.iter().map(|outcome| entry(outcome, ""));
            Report::of("http://a", None, FallbackUse::default(), checks.collect())
        };
        let (pass, skip) = (Outcome::Pass, Outcome::Skip("none".to_owned()));
        let good = report(&[pass.clone(), skip.clone()]);
        assert_eq!(good.counts.verdict(), Verdict::Passed);
        let bad = report(&[pass, Outcome::Fail("no".to_owned()), skip]);
        assert_eq!(bad.counts.verdict(), Verdict::Failed);
        let end = "http://a: 1 passed, 1 failed, 1 skipped\n";
        assert!(bad.summary().ends_with(end), "{}", bad.summary());
    }
}
