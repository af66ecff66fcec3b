//! Rolling statistics of attempts.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::error::Error;

/// Number of attempts by outcome, since the client was built.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Outcomes {
    /// A valid reply.
    pub succeeded: u64,
    /// The connection failed.
    pub connect: u64,
    /// A time limit was exceeded.
    pub timeout: u64,
    /// The connection broke off.
    pub interrupted: u64,
    /// 429, or 503 with a retry time: the server works, but is busy.
    pub busy: u64,
    /// Any other status below 500: an error in the request.
    pub refused: u64,
    /// Any other status of 500 and above.
    pub server_error: u64,
    /// An unusable reply.
    pub bad_reply: u64,
    /// The audio could not be read, or the request was invalid.
    pub not_sent: u64,
}

impl Outcomes {
    /// Number of all attempts.
    pub fn total(&self) -> u64 {
        let failed = self.connect + self.timeout + self.interrupted + self.busy;
        let failed = failed + self.refused + self.server_error + self.bad_reply + self.not_sent;
        self.succeeded + failed
    }

    fn count(&mut self, error: Option<&Error>) {
        let counter = match error {
            None => &mut self.succeeded,
            Some(Error::Connect(_)) => &mut self.connect,
            Some(Error::Timeout { .. }) => &mut self.timeout,
            Some(Error::Interrupted(_)) => &mut self.interrupted,
            Some(Error::Status(status)) if status.is_busy() => &mut self.busy,
            Some(Error::Status(status)) if status.status < 500 => &mut self.refused,
            Some(Error::Status(_)) => &mut self.server_error,
            Some(Error::BadReply(_)) => &mut self.bad_reply,
            Some(Error::Source(_) | Error::Invalid(_)) => &mut self.not_sent,
        };
        *counter += 1;
    }
}

/// Latencies of the most recent successful attempts, and the outcomes of all attempts.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Statistics {
    /// Number of latencies from which the percentiles are computed.
    pub latencies: usize,
    /// Median; `None` before the first latency.
    pub p50: Option<Duration>,
    /// 95th percentile.
    pub p95: Option<Duration>,
    /// 99th percentile.
    pub p99: Option<Duration>,
    /// Outcomes of all attempts.
    pub outcomes: Outcomes,
}

/// Records outcomes, and the most recent latencies.
#[derive(Debug)]
pub(crate) struct Recorder {
    window: usize,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    latencies: VecDeque<Duration>,
    outcomes: Outcomes,
}

impl Recorder {
    pub fn new(window: usize) -> Self {
        Self {
            window: window.max(1),
            kept: Mutex::default(),
        }
    }

    /// Records a finished attempt. `latency` is that of a whole reply; a streamed reply has none, because
    /// its beginning says nothing about the whole.
    pub fn record(&self, error: Option<&Error>, latency: Option<Duration>) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.outcomes.count(error);
        let Some(latency) = latency.filter(|_| error.is_none()) else {
            return;
        };
        if kept.latencies.len() == self.window {
            kept.latencies.pop_front();
        }
        kept.latencies.push_back(latency);
    }

    pub fn snapshot(&self) -> Statistics {
        let (mut sorted, outcomes) = {
            let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            (Vec::from(kept.latencies.clone()), kept.outcomes)
        };
        sorted.sort_unstable();
        Statistics {
            latencies: sorted.len(),
            p50: percentile(&sorted, 50),
            p95: percentile(&sorted, 95),
            p99: percentile(&sorted, 99),
            outcomes,
        }
    }
}

/// Percentile by nearest rank of sorted values: the smallest value that at least `percent` % of the values do
/// not exceed; `None` without values.
pub fn percentile<T: Copy>(sorted: &[T], percent: usize) -> Option<T> {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.checked_sub(1)?).copied()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn percentiles_are_those_of_the_last_latencies(
            all in prop::collection::vec(0_u64..10_000, 0..300), window in 1_usize..100,
        ) {
            let recorder = Recorder::new(window);
            for milliseconds in &all {
                recorder.record(None, Some(Duration::from_millis(*milliseconds)));
            }
            let last: Vec<u64> = all.iter().rev().take(window).copied().collect();
            let found = recorder.snapshot();
            prop_assert_eq!(found.latencies, last.len());
            prop_assert_eq!(found.outcomes.succeeded, all.len() as u64);
            for (percent, value) in [(50, found.p50), (95, found.p95), (99, found.p99)] {
                let Some(value) = value else {
                    prop_assert!(last.is_empty());
                    continue;
                };
                // By definition: one of the values, enough values are not above it, and no smaller one satisfies this.
                let value = value.as_millis() as u64;
                let enough = |value: u64| {
                    let within = last.iter().filter(|one| **one <= value).count();
                    within * 100 >= percent * last.len()
                };
                prop_assert!(last.contains(&value) && enough(value));
                prop_assert!(last.iter().all(|one| *one >= value || !enough(*one)));
            }
        }

        #[test]
        fn every_attempt_is_counted_once(kinds in prop::collection::vec(0_u16..6, 0..50)) {
            let recorder = Recorder::new(8);
            for kind in &kinds {
                let error = match kind {
                    0 => None,
                    1 => Some(Error::Connect(String::new())),
                    2 => Some(Error::Timeout { limit: Duration::ZERO, whole: true }),
                    3 => Some(Error::Interrupted(String::new())),
                    4 => Some(Error::BadReply(String::new())),
                    _ => Some(Error::Invalid(String::new())),
                };
                recorder.record(error.as_ref(), Some(Duration::ZERO));
            }
            let found = recorder.snapshot();
            prop_assert_eq!(found.outcomes.total(), kinds.len() as u64);
            let fine = kinds.iter().filter(|kind| **kind == 0).count();
            prop_assert_eq!(found.outcomes.succeeded, fine as u64);
            prop_assert_eq!(found.latencies, fine.min(8));
        }
    }
}
