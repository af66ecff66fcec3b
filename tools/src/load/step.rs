//! One step: the results with a fixed number of concurrent clients.

use std::collections::BTreeMap;

use serde::Serialize;

use super::knee::Point;
use crate::probe::statistics::{mean, percentile};
use crate::probe::transcript::{Failure, FallbackUse, Work};

/// Result of one request.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Time from the request's first byte to the answer's last, in seconds.
    pub seconds: f64,
    /// What the server reported about the work, or why there is no answer.
    pub answer: Result<Work, Failure>,
    /// Length of the recording in seconds, if known.
    pub audio_seconds: Option<f64>,
}

/// Times of a step, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Times {
    /// Number of requests.
    pub count: usize,
    /// Arithmetic mean.
    pub mean: f64,
    /// Median.
    pub p50: f64,
    /// 95th percentile (nearest rank).
    pub p95: f64,
    /// 99th percentile (nearest rank).
    pub p99: f64,
}

impl Times {
    /// `None` if there are no values.
    fn of(milliseconds: &[f64]) -> Option<Self> {
        Some(Self {
            count: milliseconds.len(),
            mean: mean(milliseconds)?,
            p50: percentile(milliseconds, 50)?,
            p95: percentile(milliseconds, 95)?,
            p99: percentile(milliseconds, 99)?,
        })
    }
}

/// Failures of the same kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Failures {
    /// Number of failures.
    pub count: usize,
    /// Message of the first one.
    pub first: String,
}

/// Results of a step.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Step {
    /// Number of concurrent clients.
    pub clients: usize,
    /// Time from the first request to the last answer, in seconds.
    pub seconds: f64,
    /// Finished requests.
    pub requests: usize,
    /// Requests without a transcript.
    pub failed: usize,
    /// Failures by kind.
    pub failures: BTreeMap<String, Failures>,
    /// Whether the step ended early because too many requests failed.
    pub stopped: bool,
    /// Transcripts per second.
    pub requests_per_second: f64,
    /// Seconds of audio transcribed per second; `None` if the length of a recording is unknown.
    pub audio_seconds_per_second: Option<f64>,
    /// Time until the client received its transcript.
    pub end_to_end_ms: Option<Times>,
    /// The same time as reported by the server: `X-Total-ms`.
    pub server_total_ms: Option<Times>,
    /// Time in the queue: `X-Queue-Wait-ms`.
    pub queue_wait_ms: Option<Times>,
    /// `X-Primary-Infer-ms`.
    pub primary_infer_ms: Option<Times>,
    /// `X-Fallback-Infer-ms`, of answers for which the fallback was used.
    pub fallback_infer_ms: Option<Times>,
    /// Number of answers by `X-Route`.
    pub routes: BTreeMap<String, usize>,
    /// Use of the fallback; `None` if no answer reports it.
    pub fallback: Option<FallbackUse>,
}

impl Step {
    /// Summarises samples that together took this time.
    pub fn of(clients: usize, samples: &[Sample], seconds: f64, stopped: bool) -> Self {
        let good: Vec<(&Sample, &Work)> = (samples.iter())
            .filter_map(|sample| Some((sample, sample.answer.as_ref().ok()?)))
            .collect();
        let per_second = |amount: f64| if seconds > 0.0 { amount / seconds } else { 0.0 };
        let audio: Option<f64> = good.iter().map(|(sample, _)| sample.audio_seconds).sum();
        let times = |value: &dyn Fn(&Sample, &Work) -> Option<f64>| {
            let values = good.iter().filter_map(|(sample, work)| value(sample, work));
            Times::of(&values.collect::<Vec<_>>())
        };
        Self {
            clients,
            seconds,
            requests: samples.len(),
            failed: samples.len() - good.len(),
            failures: failures(samples),
            stopped,
            requests_per_second: per_second(good.len() as f64),
            audio_seconds_per_second: audio.filter(|_| !good.is_empty()).map(per_second),
            end_to_end_ms: times(&|sample, _| Some(sample.seconds * 1000.0)),
            server_total_ms: times(&|_, work| work.total_ms),
            queue_wait_ms: times(&|_, work| work.queue_wait_ms),
            primary_infer_ms: times(&|_, work| work.primary_infer_ms),
            fallback_infer_ms: times(&|_, work| {
                work.fallback_infer_ms
                    .filter(|_| work.fallback_used != Some(false))
            }),
            routes: routes(&good),
            fallback: fallback(&good),
        }
    }

    /// The step as a point of the curve; `None` if it ended early or has no transcripts.
    pub fn point(&self) -> Option<Point> {
        let times = self.end_to_end_ms.filter(|_| !self.stopped)?;
        Some(Point {
            clients: self.clients,
            throughput: self.requests_per_second,
            mean_seconds: times.mean / 1000.0,
        })
    }
}

fn failures(samples: &[Sample]) -> BTreeMap<String, Failures> {
    let mut all: BTreeMap<String, Failures> = BTreeMap::new();
    for failure in samples
        .iter()
        .filter_map(|sample| sample.answer.as_ref().err())
    {
        let kind = all.entry(failure.kind.to_string()).or_insert(Failures {
            count: 0,
            first: failure.message.clone(),
        });
        kind.count += 1;
    }
    all
}

fn routes(good: &[(&Sample, &Work)]) -> BTreeMap<String, usize> {
    let mut all = BTreeMap::new();
    for route in good.iter().filter_map(|(_, work)| work.route.clone()) {
        *all.entry(route).or_default() += 1;
    }
    all
}

fn fallback(good: &[(&Sample, &Work)]) -> Option<FallbackUse> {
    let mut all = FallbackUse::default();
    for (_, work) in good {
        all.add(work);
    }
    Some(all).filter(|all| all.told > 0)
}

#[cfg(test)]
mod tests {
    use crate::probe::transcript::FailureKind;

    use super::*;

    fn good(seconds: f64, work: Work) -> Sample {
        Sample {
            seconds,
            answer: Ok(work),
            audio_seconds: Some(3.0),
        }
    }

    fn bad(status: u16, message: &str) -> Sample {
        Sample {
            seconds: 0.1,
            answer: Err(Failure {
                kind: FailureKind::Status(status),
                message: message.to_owned(),
            }),
            audio_seconds: Some(3.0),
        }
    }

    #[test]
    fn only_transcripts_count_and_failures_are_counted_by_kind() {
        let samples = [
            good(1.0, Work::default()),
            bad(429, "slow down"),
            good(2.0, Work::default()),
            bad(429, "slower"),
            bad(503, "busy"),
        ];
        let step = Step::of(4, &samples, 2.0, false);
        assert_eq!((step.requests, step.failed), (5, 3));
        assert!((step.requests_per_second - 1.0).abs() < 1e-9);
        assert_eq!(step.audio_seconds_per_second, Some(3.0));
        let times = step.end_to_end_ms.unwrap();
        assert_eq!((times.count, times.p50, times.p95), (2, 1000.0, 2000.0));
        let kinds: Vec<(&str, usize, &str)> = (step.failures.iter())
            .map(|(kind, found)| (kind.as_str(), found.count, found.first.as_str()))
            .collect();
        assert_eq!(kinds, [("429", 2, "slow down"), ("503", 1, "busy")]);
        assert_eq!((step.queue_wait_ms, step.fallback), (None, None));
    }

    #[test]
    fn headers_are_summarised_and_the_fallbacks_time_only_where_it_was_used() {
        let work = |used, fallback_infer_ms| Work {
            queue_wait_ms: Some(5.0),
            fallback_infer_ms: Some(fallback_infer_ms),
            route: Some("HOT".to_owned()),
            fallback_used: Some(used),
            ..Work::default()
        };
        let samples = [good(1.0, work(false, 0.0)), good(1.0, work(true, 700.0))];
        let step = Step::of(1, &samples, 2.0, false);
        assert_eq!(step.queue_wait_ms.unwrap().count, 2);
        let fallback = step.fallback_infer_ms.unwrap();
        assert!((fallback.p50 - 700.0).abs() < 1e-9 && fallback.count == 1);
        assert_eq!(step.routes, BTreeMap::from([("HOT".to_owned(), 2)]));
        let expected = FallbackUse {
            told: 2,
            used: 1,
            failed: 0,
        };
        assert_eq!(step.fallback, Some(expected));
    }

    #[test]
    fn a_step_without_a_transcript_is_not_a_point_of_the_curve() {
        let step = Step::of(1, &[bad(503, "busy")], 1.0, false);
        assert_eq!((step.point(), step.audio_seconds_per_second), (None, None));
        assert!(Step::of(1, &[], 0.0, false).requests_per_second.abs() < 1e-9);
        let stopped = Step::of(1, &[good(1.0, Work::default())], 1.0, true);
        assert_eq!(stopped.point(), None);
    }

    #[test]
    fn an_unknown_length_leaves_the_sum_unknown() {
        let unknown = Sample {
            audio_seconds: None,
            ..good(1.0, Work::default())
        };
        let samples = [good(1.0, Work::default()), unknown];
        assert_eq!(
            Step::of(1, &samples, 1.0, false).audio_seconds_per_second,
            None
        );
    }
}
