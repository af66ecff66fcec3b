//! Single measurements, all of which are kept.

use clap::ValueEnum;
use serde::Serialize;

use crate::probe::word_error_rate::Score;

/// The scenarios, in the order in which they run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Scenario {
    /// From the start of a process to its first transcript.
    Start,
    /// Clips of 1 to 12 seconds, one at a time.
    Short,
    /// Short clips while another program keeps a core busy.
    Contended,
    /// A file of several minutes.
    Long,
    /// Many concurrent requests.
    Burst,
    /// A command on an idle server, and during the transcription of the long file.
    Command,
    /// Voice commands over the Wyoming protocol, as they are spoken.
    Live,
    /// Memory, idle and at the peak of a burst.
    Memory,
}

/// The measured quantity.
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
    /// Peak memory during a burst, in MiB.
    PeakMebibytes,
    /// Seconds for a command on an idle system.
    IdleCommandSeconds,
    /// Seconds for a command sent during the transcription of the long file.
    BusyCommandSeconds,
    /// Seconds from the end of a spoken command of about two seconds until its text.
    LiveShortSeconds,
    /// The same with a command of about six seconds.
    LiveLongSeconds,
    /// The same with both, during the transcription of the long file.
    LiveBusySeconds,
}

/// How a measurement ended.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It has this value.
    Measured(f64),
    /// It exceeded this limit.
    MoreThan(f64),
    /// It failed with this error.
    Failed(String),
}

/// One measurement of one system.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Sample {
    /// The measured quantity.
    pub quantity: Quantity,
    /// Name of the system.
    pub system: String,
    /// Name of the recording.
    pub item: String,
    /// Number of the repetition, from 0.
    pub round: usize,
    /// The value, or why there is none.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// The system's transcript.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Word errors of the transcript.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score: Option<Score>,
    /// Failed requests within a burst.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failures: Option<Failures>,
}

/// Failed requests.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Failures {
    /// Number of failed requests.
    pub count: usize,
    /// Error of the first one.
    pub first: String,
}

impl Sample {
    /// A sample without a transcript.
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
