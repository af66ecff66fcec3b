//! Jobs and their callbacks.

use std::sync::{Mutex, PoisonError};

use metrics::{counter, describe_counter, describe_gauge, gauge};

use crate::jobs::record::State;
use crate::jobs::store::Counts;

const JOBS: &str = "uttera_stt_jobs";
const ENDED: &str = "uttera_stt_jobs_total";
const CALLBACKS: &str = "uttera_stt_job_callbacks_total";

/// How a job ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// With a result.
    Done,
    /// With an error.
    Failed,
    /// Its client deleted it before.
    Cancelled,
    /// It was over, and its time has passed.
    Expired,
}

impl Outcome {
    const ALL: [Self; 4] = [Self::Done, Self::Failed, Self::Cancelled, Self::Expired];

    fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
        }
    }
}

/// What became of an attempt at a callback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallbackOutcome {
    /// The client's server accepted it.
    Delivered,
    /// It failed and is repeated.
    Retried,
    /// The last attempt failed.
    Failed,
    /// The address may not be called.
    Refused,
}

impl CallbackOutcome {
    const ALL: [Self; 4] = [Self::Delivered, Self::Retried, Self::Failed, Self::Refused];

    fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Retried => "retried",
            Self::Failed => "failed",
            Self::Refused => "refused",
        }
    }
}

/// Records the end of a job.
pub fn record_end(outcome: Outcome) {
    ended(outcome).increment(1);
}

/// Records an attempt at a callback.
pub fn record_callback(outcome: CallbackOutcome) {
    callbacks(outcome).increment(1);
}

/// The numbers that were set last.
static LAST: Mutex<Option<Counts>> = Mutex::new(None);

/// The numbers of stored jobs, as far as they are known; `None`: the store is not open.
pub fn last_counts() -> Option<Counts> {
    *LAST.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sets the numbers of stored jobs.
pub fn set_counts(counts: &Counts) {
    *LAST.lock().unwrap_or_else(PoisonError::into_inner) = Some(*counts);
    export(counts);
}

fn export(counts: &Counts) {
    for state in State::ALL {
        gauge!(JOBS, "state" => state.as_str()).set(counts.of(state) as f64);
    }
}

fn ended(outcome: Outcome) -> metrics::Counter {
    counter!(ENDED, "outcome" => outcome.as_str())
}

fn callbacks(outcome: CallbackOutcome) -> metrics::Counter {
    counter!(CALLBACKS, "outcome" => outcome.as_str())
}

pub(super) fn describe() {
    describe_gauge!(JOBS, "Stored jobs, by state.");
    describe_counter!(ENDED, "Jobs that ended, by outcome.");
    describe_counter!(CALLBACKS, "Attempts at callbacks of jobs, by outcome.");
}

/// Creates every series.
pub(super) fn register() {
    export(&Counts::default());
    for outcome in Outcome::ALL {
        let _ = ended(outcome);
    }
    for outcome in CallbackOutcome::ALL {
        let _ = callbacks(outcome);
    }
}
