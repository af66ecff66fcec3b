//! A short command, repeated one at a time: on an idle system, and while the system transcribes a long file.
//! This is the delay that a voice command suffers from another user's long recording.

use std::time::Duration;

use tokio::task::JoinSet;

use super::client::Target;
use super::run::Run;
use super::sample::{Outcome, Quantity};

/// Number of commands on an idle system.
const IDLE_COMMANDS: usize = 20;
/// Maximum number of commands during the long file.
const BUSY_COMMANDS: usize = 60;
/// Time between the long file and the first command, so that the system is already transcribing the file.
const HEAD_START: Duration = Duration::from_millis(500);

/// Measures one system after the other.
pub async fn measure(run: &mut Run) {
    let steps = run.order(0).len() * 2;
    run.progress
        .begin("commands, idle and during a long file", steps);
    for index in run.order(0) {
        let command = run.recordings.command.clone();
        for round in 0..IDLE_COMMANDS {
            let answer = run.ask(index, &command).await;
            run.keep(index, &command, Quantity::IdleCommandSeconds, round, answer);
        }
        run.progress.step();
        during_a_long_file(run, index).await;
        run.progress.step();
    }
}

/// Sends commands until the long file is done. A command in progress at the end counts, because it was sent
/// before the end.
async fn during_a_long_file(run: &mut Run, index: usize) {
    let (long, command) = (run.recordings.long.clone(), run.recordings.command.clone());
    let (target, limit) = (
        Target::of(&run.systems[index], &run.client),
        run.extent.limit,
    );
    let mut running = JoinSet::new();
    let long_target = target.clone();
    running.spawn(async move { long_target.ask(&long, limit).await });
    let mut long_answer = tokio::time::timeout(HEAD_START, running.join_next())
        .await
        .ok();
    let mut stuck = false;
    for round in 0..BUSY_COMMANDS {
        if long_answer.is_none() {
            long_answer = running.try_join_next().map(Some);
        }
        if long_answer.is_some() || stuck {
            break;
        }
        let answer = target.ask(&command, limit).await;
        stuck = matches!(answer.outcome, Outcome::MoreThan(_));
        run.keep(index, &command, Quantity::BusyCommandSeconds, round, answer);
    }
    if !stuck && long_answer.is_none() {
        long_answer = Some(running.join_next().await);
    }
    let answer = long_answer.flatten().and_then(Result::ok);
    match answer.map(|answer| answer.outcome) {
        Some(Outcome::Measured(_)) => {}
        Some(Outcome::Failed(reason)) => {
            run.progress.say(&format!(
                "{}: the long file failed: {reason}",
                run.systems[index].name()
            ));
        }
        Some(Outcome::MoreThan(_)) | None => run.restart(index).await,
    }
}
