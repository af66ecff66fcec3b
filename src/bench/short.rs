//! Short clips, one at a time: how long each takes, and how many of its words come out wrong.

use super::run::Run;
use super::sample::Quantity;

/// Every clip goes to every system before the next one does.
pub async fn measure(run: &mut Run) {
    let clips = run.recordings.short.clone();
    run.progress
        .begin("short clips", clips.len() * run.order(0).len());
    for (round, clip) in clips.iter().enumerate() {
        for index in run.order(round) {
            run.ask_and_keep(index, clip, Quantity::ShortSeconds, round)
                .await;
        }
    }
}
