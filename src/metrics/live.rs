//! Turns of live sessions.

use metrics::{counter, describe_counter};

const TURNS: &str = "uttera_stt_live_turns_total";

/// How the audio of a turn came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Over OpenAI's realtime socket.
    Realtime,
    /// Over Wyoming.
    Wyoming,
}

impl Protocol {
    const ALL: [Self; 2] = [Self::Realtime, Self::Wyoming];

    fn as_str(self) -> &'static str {
        match self {
            Self::Realtime => "realtime",
            Self::Wyoming => "wyoming",
        }
    }
}

/// How a turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// With a text, which may be empty.
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

/// Records the end of a turn.
pub fn record_turn(protocol: Protocol, outcome: Outcome) {
    turns(protocol, outcome).increment(1);
}

fn turns(protocol: Protocol, outcome: Outcome) -> metrics::Counter {
    counter!(TURNS, "protocol" => protocol.as_str(), "outcome" => outcome.as_str())
}

pub(super) fn describe() {
    describe_counter!(TURNS, "Turns of live sessions, by protocol and outcome.");
}

/// Creates every series.
pub(super) fn register() {
    for protocol in Protocol::ALL {
        for outcome in Outcome::ALL {
            let _ = turns(protocol, outcome);
        }
    }
}
