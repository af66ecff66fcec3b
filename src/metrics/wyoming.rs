//! Series of the Wyoming protocol.

use metrics::{counter, describe_counter};

const UTTERANCES: &str = "uttera_stt_wyoming_utterances_total";

/// How an utterance ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// With a transcript, which may be empty.
    Completed,
    /// With an error.
    Failed,
    /// The client left before.
    Abandoned,
}

impl Outcome {
    const ALL: [Self; 3] = [Self::Completed, Self::Failed, Self::Abandoned];

    fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Abandoned => "abandoned",
        }
    }
}

/// Records the end of an utterance.
pub fn record_utterance(outcome: Outcome) {
    counter!(UTTERANCES, "outcome" => outcome.as_str()).increment(1);
}

pub(super) fn describe() {
    describe_counter!(UTTERANCES, "Utterances over Wyoming, by outcome.");
}

pub(super) fn register() {
    for outcome in Outcome::ALL {
        let _ = counter!(UTTERANCES, "outcome" => outcome.as_str());
    }
}
