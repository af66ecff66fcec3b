//! From the start of a process to its first transcript.

// Measures another process, so that the clock must be the real one.
use std::time::Instant;

use super::run::Run;
use super::sample::{Outcome, Quantity, Sample};

/// Starts a new process of each system repeatedly, while no other system runs. The first round does not
/// count, because programs and models may still have to be read from the disk or downloaded.
pub async fn measure(run: &mut Run) {
    let (rounds, systems) = (run.extent.repeat + 1, run.systems.len());
    run.progress
        .begin("start to first transcript", rounds * systems);
    for turn in 0..rounds {
        for index in run.order(turn) {
            one(run, index, turn.checked_sub(1)).await;
            run.progress.step();
        }
    }
}

async fn one(run: &mut Run, index: usize, round: Option<usize>) {
    let command = run.recordings.command.clone();
    if !run.systems[index].is_started_here() {
        return;
    }
    let begin = Instant::now();
    let started = run.systems[index].start(&run.client).await;
    let outcome = match started {
        Ok(()) => run.ask(index, &command).await.outcome,
        Err(error) => Outcome::Failed(format!("{error:#}")),
    };
    let outcome = match outcome {
        Outcome::Measured(_) => Outcome::Measured(begin.elapsed().as_secs_f64()),
        other => other,
    };
    if let Outcome::Failed(reason) = &outcome {
        let reason = reason.clone();
        run.leave_out(index, &reason);
    }
    run.systems[index].stop().await;
    if let Some(round) = round {
        let name = run.systems[index].name();
        let sample = Sample::new(Quantity::StartSeconds, name, &command.name, round, outcome);
        run.samples.push(sample);
    }
}
