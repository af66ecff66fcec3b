//! What is measured: every single sample, as it comes.

use clap::ValueEnum;
use serde::Serialize;

use crate::probe::word_error_rate::Score;

/// What can be measured, in the order in which it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Scenario {
    /// From the start of a process to its first transcript.
    Start,
    /// Clips of 1 to 12 seconds, one at a time.
    Short,
    /// The same, while another program keeps a core busy.
    Contended,
    /// A file of minutes.
    Long,
    /// Many requests at once.
    Burst,
    /// A command, on an idle server and while the long file is transcribed.
    Command,
    /// Resident memory, idle and during the burst.
    Memory,
}

/// What a sample is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Quantity {
    /// Seconds from the start of a process to its first transcript.
    StartSeconds,
    /// Memory of an idle system after its first transcript, in MiB.
    IdleMebibytes,
    /// Seconds for one short clip.
    ShortSeconds,
    /// Seconds for one short clip beside a busy program.
    ContendedSeconds,
    /// Seconds for the long file.
    LongSeconds,
    /// Seconds for all requests of a burst.
    BurstSeconds,
    /// The most memory during a burst, in MiB.
    PeakMebibytes,
    /// Seconds for a command on an idle system.
    IdleCommandSeconds,
    /// Seconds for a command sent while the long file was transcribed.
    BusyCommandSeconds,
}

/// How a measurement ended.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// With this value.
    Measured(f64),
    /// Not within this limit.
    MoreThan(f64),
    /// With an error.
    Failed(String),
}

/// One measurement of one system.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Sample {
    /// What is measured.
    pub quantity: Quantity,
    /// The system's name.
    pub system: String,
    /// The recording.
    pub item: String,
    /// Which repetition, from 0.
    pub round: usize,
    /// The value, or why there is none.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// What the system wrote.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// The word errors in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score: Option<Score>,
    /// Of a burst: what failed in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failures: Option<Failures>,
}

/// Requests that failed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Failures {
    /// How many.
    pub count: usize,
    /// Why the first of them did.
    pub first: String,
}

impl Sample {
    /// One without a text.
    pub fn new(
        quantity: Quantity,
        system: &str,
        item: &str,
        round: usize,
        outcome: Outcome,
    ) -> Self {
        Self {
            quantity,
            system: system.to_owned(),
            item: item.to_owned(),
            round,
            outcome,
            text: None,
            score: None,
            failures: None,
        }
    }

    /// The value, if it was measured.
    pub fn value(&self) -> Option<f64> {
        match self.outcome {
            Outcome::Measured(value) => Some(value),
            Outcome::MoreThan(_) | Outcome::Failed(_) => None,
        }
    }
}
