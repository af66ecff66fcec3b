//! Many concurrent requests: the time until the last one is answered, and the number that fail. The system's
//! peak memory is measured at the same time.

// Measures another process, so that the clock must be the real one.
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::client::{Answer, Target};
use super::process_tree::PeakWatch;
use super::recordings::Recording;
use super::run::Run;
use super::sample::{Failures, Outcome, Quantity, Sample};

/// Sends the short clips repeatedly, all requests at the same time.
pub async fn measure(run: &mut Run) {
    let repeat = run.extent.repeat;
    run.progress
        .begin("many requests at once", repeat * run.order(0).len());
    for round in 0..repeat {
        for index in run.order(round) {
            one(run, index, round).await;
            run.progress.step();
        }
    }
}

async fn one(run: &mut Run, index: usize, round: usize) {
    let requests = run.extent.requests;
    let clips = run.recordings.short.iter().cycle().take(requests).cloned();
    let target = Target::of(&run.systems[index], &run.client);
    let watch = run.systems[index].process_id().map(PeakWatch::start);
    let begin = Instant::now();
    let answers = all(&target, clips.collect(), run.extent.limit).await;
    let seconds = begin.elapsed().as_secs_f64();
    let peak = watch.map(PeakWatch::finish);
    let (outcome, failures) = judge(&answers, seconds, run.extent.limit);
    let stuck = matches!(outcome, Outcome::MoreThan(_));
    let (name, item) = (run.systems[index].name(), format!("{requests} requests"));
    let mut sample = Sample::new(Quantity::BurstSeconds, name, &item, round, outcome);
    sample.failures = failures;
    let peak = peak.map(|peak| {
        Sample::new(
            Quantity::PeakMebibytes,
            name,
            &item,
            round,
            Outcome::Measured(peak),
        )
    });
    run.samples.push(sample);
    run.samples.extend(peak);
    if stuck {
        run.restart(index).await;
    }
}

async fn all(target: &Target, clips: Vec<Recording>, limit: Duration) -> Vec<Answer> {
    let mut requests = JoinSet::new();
    for clip in clips {
        let target = target.clone();
        requests.spawn(async move { target.ask(&clip, limit).await });
    }
    requests.join_all().await
}

/// Judges a burst by its duration even if some requests fail; it counts as failed only if all of them do.
fn judge(answers: &[Answer], seconds: f64, limit: Duration) -> (Outcome, Option<Failures>) {
    let reason = |answer: &Answer| match &answer.outcome {
        Outcome::Failed(reason) => Some(reason.clone()),
        Outcome::Measured(_) | Outcome::MoreThan(_) => None,
    };
    let reasons: Vec<String> = answers.iter().filter_map(reason).collect();
    let late = answers
        .iter()
        .any(|answer| matches!(answer.outcome, Outcome::MoreThan(_)));
    let first = reasons.first().cloned();
    let outcome = match &first {
        Some(first) if reasons.len() == answers.len() => Outcome::Failed(first.clone()),
        _ if late => Outcome::MoreThan(limit.as_secs_f64()),
        _ => Outcome::Measured(seconds),
    };
    let failures = first.map(|first| Failures {
        count: reasons.len(),
        first,
    });
    (outcome, failures)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(outcomes: &[Outcome]) -> Vec<Answer> {
        let answer = |outcome: &Outcome| Answer {
            outcome: outcome.clone(),
            text: None,
        };
        outcomes.iter().map(answer).collect()
    }

    #[test]
    fn a_burst_is_judged_by_the_successful_requests() {
        let limit = Duration::from_secs(9);
        let (good, bad) = (Outcome::Measured(1.0), Outcome::Failed("busy".to_owned()));
        let judged = |outcomes: &[Outcome]| judge(&answers(outcomes), 2.0, limit);
        assert_eq!(
            judged(&[good.clone(), good.clone()]),
            (Outcome::Measured(2.0), None)
        );
        let (outcome, failures) = judged(&[good.clone(), bad.clone()]);
        assert_eq!(
            (outcome, failures.unwrap().count),
            (Outcome::Measured(2.0), 1)
        );
        assert_eq!(
            judged(&[bad.clone(), bad]).0,
            Outcome::Failed("busy".to_owned())
        );
        assert_eq!(
            judged(&[good, Outcome::MoreThan(9.0)]).0,
            Outcome::MoreThan(9.0)
        );
    }
}
