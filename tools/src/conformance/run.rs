//! Taking a server through the checks, one after the other.

use std::sync::Arc;
// What is measured is another process: its clock is the real one.
use std::time::{Duration, Instant};

use super::Group;
use super::check::{Check, Skip};
use super::report::Result;
use super::target::Target;
use crate::probe::outcome::{MOST_TIMEOUTS, Outcome, too_slow};
use crate::probe::progress::Progress;

/// Runs all checks of these groups; none takes longer than the limit, and none ends the run.
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
            let (outcome, timed_out) = if timeouts < MOST_TIMEOUTS {
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

/// What came of a check, and whether it ran out of time.
async fn ask(check: Check, target: &Arc<Target>, limit: Duration) -> (Outcome, bool) {
    // A task of its own: should a check panic, it is that check that failed.
    let task = tokio::spawn(check.ask(Arc::clone(target)));
    let abort = task.abort_handle();
    match tokio::time::timeout(limit, task).await {
        Ok(Ok(Ok(()))) => (Outcome::Pass, false),
        Ok(Ok(Err(error))) => match error.downcast_ref::<Skip>() {
            Some(Skip(why)) => (Outcome::Skip((*why).to_owned()), false),
            None => (Outcome::Fail(format!("{error:#}")), false),
        },
        Ok(Err(_)) => (Outcome::Fail("the check itself broke".to_owned()), false),
        Err(_) => {
            abort.abort();
            let seconds = limit.as_secs();
            let why = format!("it came to no end within {seconds} s");
            (Outcome::Fail(why), true)
        }
    }
}
