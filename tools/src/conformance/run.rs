//! Executes the checks one after the other.

use std::sync::Arc;
// Measures another process, so that the clock must be the real one.
use std::time::{Duration, Instant};

use super::Group;
use super::check::{Check, Skip};
use super::report::Result;
use super::target::Target;
use crate::probe::outcome::{MAX_TIMEOUTS, Outcome, too_slow};
use crate::probe::progress::Progress;

/// Runs all checks of these groups. A check that exceeds the limit or panics does not end the run.
pub async fn run(target: &Arc<Target>, groups: &[Group], limit: Duration) -> Vec<Result> {
    let mut progress = Progress::default();
    let mut results = Vec::new();
    let mut timeouts = 0;
    for &group in groups {
        let checks = group.checks();
        progress.begin(&group.name(), checks.len());
        for check in checks {
            let name = check.name.clone();
            // Wall-clock time of another program's answers.
            let begin = Instant::now();
            let (outcome, timed_out) = if timeouts < MAX_TIMEOUTS {
                ask(check, target, limit).await
            } else {
                (too_slow(), false)
            };
            timeouts += usize::from(timed_out);
            results.push(Result {
                group,
                name,
                outcome,
                seconds: begin.elapsed().as_secs_f64(),
            });
            progress.step();
        }
    }
    progress.end();
    results
}

/// Runs a check and returns its outcome and whether it timed out.
async fn ask(check: Check, target: &Arc<Target>, limit: Duration) -> (Outcome, bool) {
    // A separate task confines a panic to this check, which then counts as failed.
    let task = tokio::spawn(check.ask(Arc::clone(target)));
    let abort = task.abort_handle();
    match tokio::time::timeout(limit, task).await {
        Ok(Ok(Ok(()))) => (Outcome::Pass, false),
        Ok(Ok(Err(error))) => match error.downcast_ref::<Skip>() {
            Some(Skip(why)) => (Outcome::Skip((*why).to_owned()), false),
            None => (Outcome::Fail(format!("{error:#}")), false),
        },
        Ok(Err(_)) => (Outcome::Fail("the check itself panicked".to_owned()), false),
        Err(_) => {
            abort.abort();
            let seconds = limit.as_secs();
            let why = format!("not finished within {seconds} s");
            (Outcome::Fail(why), true)
        }
    }
}
