//! Results of a run.

use anyhow::Context;
use serde::Serialize;

use super::knee::{Bound, Knee, knee};
use super::run::Run;
use super::step::Step;
use crate::probe::counted;
use crate::probe::recording::Recording;
use crate::probe::transcript::Endpoint;

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// All steps are done.
    Finished,
    /// Too many requests failed.
    TooManyFailures,
    /// A signal ended the run; the step in progress is not in the report.
    Signal,
}

/// Results of a run.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Version of this program.
    pub version: &'static str,
    /// When the run ended, in UTC.
    pub date: String,
    /// Address of the server.
    pub url: String,
    /// The tested endpoint.
    pub endpoint: Endpoint,
    /// The server's model, if it reports one.
    pub model: Option<String>,
    /// The recordings that were sent.
    pub recordings: Vec<Recording>,
    /// How the run ended.
    pub ended: Ended,
    /// The steps.
    pub steps: Vec<Step>,
    /// The knee of the latency curve.
    pub knee: Option<Knee>,
}

impl Report {
    /// Creates the report of a finished run.
    pub fn of(run: Run, model: Option<String>, by_signal: bool) -> Self {
        let curve: Vec<_> = run.steps.iter().filter_map(Step::point).collect();
        let ended = match run.steps.last() {
            _ if by_signal => Ended::Signal,
            Some(step) if step.stopped => Ended::TooManyFailures,
            Some(_) | None => Ended::Finished,
        };
        Self {
            version: env!("CARGO_PKG_VERSION"),
            date: crate::probe::now(),
            url: run.server.shown_url(),
            endpoint: run.endpoint,
            model,
            recordings: run.recordings,
            ended,
            knee: knee(&curve),
            steps: run.steps,
        }
    }

    /// The summary, with a recommendation for `MAX_CONCURRENCY`.
    pub fn advice(&self) -> String {
        let Some(Knee { clients, bound }) = self.knee else {
            return "no knee: it requires two steps with transcripts".to_owned();
        };
        let knee = format!("the knee is at {}", counted(clients, "client"));
        match bound {
            Bound::Within => format!("{knee}: MAX_CONCURRENCY={clients}"),
            Bound::AtMost => format!(
                "{knee}, the first step: it may be lower, so begin with fewer (--concurrency 1,…)"
            ),
            Bound::AtLeast if self.ended == Ended::Finished => format!(
                "{knee}, the last step: MAX_CONCURRENCY={clients} at least; more may be better \
                 (--concurrency …,{})",
                clients * 2
            ),
            Bound::AtLeast => {
                format!(
                    "{knee}, the last step without too many failures: MAX_CONCURRENCY={clients} at least"
                )
            }
        }
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
