//! Turns of live sessions.

use metrics::{counter, describe_counter};

const TURNS: &str = "uttera_stt_live_turns_total";
/// Values of the label `outcome`.
const OUTCOMES: [&str; 2] = ["completed", "failed"];

/// Records a turn that has a text, or none because it failed.
pub fn record_turn(is_completed: bool) {
    let [completed, failed] = OUTCOMES;
    let outcome = if is_completed { completed } else { failed };
    counter!(TURNS, "outcome" => outcome).increment(1);
}

pub(super) fn describe() {
    describe_counter!(TURNS, "Turns of live sessions, by outcome.");
}

/// Creates every series.
pub(super) fn register() {
    for outcome in OUTCOMES {
        let _ = counter!(TURNS, "outcome" => outcome);
    }
}
