//! What a run found, as it is kept.

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
    /// By a signal; the step that was under way is not told.
    Signal,
}

/// Everything about a run.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Of the program that asked.
    pub version: &'static str,
    /// When it ended, in UTC.
    pub date: String,
    /// The server.
    pub url: String,
    /// Where it was asked.
    pub endpoint: Endpoint,
    /// Its model, where it tells.
    pub model: Option<String>,
    /// What it was asked.
    pub recordings: Vec<Recording>,
    /// How it ended.
    pub ended: Ended,
    /// The steps.
    pub steps: Vec<Step>,
    /// Where more clients begin to cost more than they bring.
    pub knee: Option<Knee>,
}

impl Report {
    /// Of a run that is over.
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

    /// What to do about it.
    pub fn advice(&self) -> String {
        let Some(Knee { clients, bound }) = self.knee else {
            return "no knee: that takes two steps with transcripts".to_owned();
        };
        let knee = format!("the knee is at {}", counted(clients, "client"));
        match bound {
            Bound::Within => format!("{knee}: MAX_CONCURRENCY={clients}"),
            Bound::AtMost => format!(
                "{knee}, the first step: it may be lower, so begin with fewer (--concurrency 1,…)"
            ),
            Bound::AtLeast if self.ended == Ended::Finished => format!(
                "{knee}, the last step: MAX_CONCURRENCY={clients} at least; more may be better still \
                 (--concurrency …,{})",
                clients * 2
            ),
            Bound::AtLeast => {
                format!("{knee}, the last step that went well: MAX_CONCURRENCY={clients} at least")
            }
        }
    }

    /// # Errors
    /// None that is known of.
    pub fn json(&self) -> anyhow::Result<String> {
        let json = serde_json::to_string_pretty(self).context("the report is no JSON")?;
        Ok(json + "\n")
    }
}
