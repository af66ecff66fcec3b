//! A file of several minutes.

use super::run::Run;
use super::sample::Quantity;

/// Sends the file to one system after the other.
pub async fn measure(run: &mut Run) {
    let file = run.recordings.long.clone();
    let repeat = run.extent.repeat;
    run.progress
        .begin("a long file", repeat * run.order(0).len());
    for round in 0..repeat {
        for index in run.order(round) {
            run.ask_and_keep(index, &file, Quantity::LongSeconds, round)
                .await;
        }
    }
}
