//! The requests with audio of the last 15 minutes, in steps of 10 seconds: how many there were, how they ended, and how
//! long the answered ones took.
//!
//! Like the metrics, the history is static: there is one per process.

use std::sync::{LazyLock, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use super::lock;

/// Length of a step.
pub const STEP: Duration = Duration::from_secs(10);
/// Number of steps.
pub const STEPS: usize = 90;

/// Classes of durations. The first ends at 1 ms, and each of the others at 1.25 times the end of the one before it, so
/// that the last one begins at 64 minutes. The middle of a class differs from its ends by less than 12 %.
const CLASSES: usize = 70;
/// The end of the first class, in seconds.
const FIRST_END: f64 = 0.001;
/// The end of a class, divided by the end of the one before it.
const RATIO: f64 = 1.25;

static HISTORY: LazyLock<Mutex<History>> =
    LazyLock::new(|| Mutex::new(History::new(Instant::now())));

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// With a status below 400.
    Answered,
    /// With a status from 400 to 499.
    ClientError,
    /// With a status from 500.
    ServerError,
    /// The client left before the response was complete.
    Left,
}

/// Records the end of a request with audio.
pub fn record(end: End, took: Duration) {
    lock(&HISTORY).record(Instant::now(), end, took);
}

/// The history until now.
pub(super) fn now() -> Numbers {
    let now = Instant::now();
    let history = {
        let mut history = lock(&HISTORY);
        history.advance(now);
        history.clone()
    };
    history.numbers(now)
}

/// What the report says of the history. The lists have [`STEPS`] numbers each, from the oldest step to the newest.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Numbers {
    /// Time since the begin of the newest step.
    pub(super) age_of_newest: Duration,
    pub(super) requests: Vec<u32>,
    pub(super) client_errors: Vec<u32>,
    pub(super) server_errors: Vec<u32>,
    pub(super) left: Vec<u32>,
    pub(super) p50: Vec<Option<f64>>,
    pub(super) p95: Vec<Option<f64>>,
}

#[derive(Clone, Copy, Debug)]
struct Step {
    requests: u32,
    client_errors: u32,
    server_errors: u32,
    left: u32,
    /// Answered requests by the class of their duration.
    durations: [u32; CLASSES],
}

const EMPTY: Step = Step {
    requests: 0,
    client_errors: 0,
    server_errors: 0,
    left: 0,
    durations: [0; CLASSES],
};

#[derive(Clone, Debug)]
struct History {
    begun: Instant,
    /// Number of the newest step since the begin.
    newest: u64,
    /// A ring: step `n` is at `n % STEPS`.
    steps: Box<[Step]>,
}

impl History {
    fn new(begun: Instant) -> Self {
        Self {
            begun,
            newest: 0,
            steps: vec![EMPTY; STEPS].into_boxed_slice(),
        }
    }

    /// Makes the step of this moment the newest one.
    fn advance(&mut self, now: Instant) {
        let number = now.saturating_duration_since(self.begun).as_secs() / STEP.as_secs();
        for passed in (self.newest + 1..=number).rev().take(STEPS) {
            self.steps[place(passed)] = EMPTY;
        }
        self.newest = self.newest.max(number);
    }

    fn record(&mut self, now: Instant, end: End, took: Duration) {
        self.advance(now);
        let step = &mut self.steps[place(self.newest)];
        step.requests += 1;
        match end {
            End::Answered => step.durations[class(took.as_secs_f64())] += 1,
            End::ClientError => step.client_errors += 1,
            End::ServerError => step.server_errors += 1,
            End::Left => step.left += 1,
        }
    }

    fn numbers(&self, now: Instant) -> Numbers {
        let begin_of_newest = self.begun + STEP * u32::try_from(self.newest).unwrap_or(u32::MAX);
        let mut numbers = Numbers {
            age_of_newest: now.saturating_duration_since(begin_of_newest),
            ..Numbers::default()
        };
        for back in (0..STEPS as u64).rev() {
            // Steps before the begin are those that the ring has not reached yet.
            let number = (self.newest + STEPS as u64) - back;
            let step = &self.steps[place(number)];
            numbers.requests.push(step.requests);
            numbers.client_errors.push(step.client_errors);
            numbers.server_errors.push(step.server_errors);
            numbers.left.push(step.left);
            numbers.p50.push(percentile(&step.durations, 0.5));
            numbers.p95.push(percentile(&step.durations, 0.95));
        }
        numbers
    }
}

fn place(number: u64) -> usize {
    (number % STEPS as u64) as usize
}

/// The class of a duration in seconds.
fn class(seconds: f64) -> usize {
    if seconds <= FIRST_END {
        return 0;
    }
    let class = ((seconds / FIRST_END).ln() / RATIO.ln()).ceil();
    (class as usize).min(CLASSES - 1)
}

/// The middle of a class, in seconds.
fn middle(class: usize) -> f64 {
    FIRST_END * RATIO.powf(class as f64 - 0.5)
}

/// The duration that this part of the requests do not exceed, in seconds to three digits after the point; `None`
/// without a request.
fn percentile(durations: &[u32; CLASSES], part: f64) -> Option<f64> {
    let all: u64 = durations.iter().map(|&count| u64::from(count)).sum();
    let rank = (all as f64 * part).ceil() as u64;
    let mut passed = 0;
    let class = durations.iter().position(|&count| {
        passed += u64::from(count);
        passed >= rank
    })?;
    (all > 0).then(|| (middle(class) * 1000.0).round() / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn durations_are_right_within_an_eighth_from_a_millisecond_to_an_hour() {
        for millis in [1.0, 1.3, 7.0, 250.0, 999.0, 30_000.0, 3_600_000.0] {
            let middle = middle(class(millis / 1000.0)) * 1000.0;
            assert!((middle / millis - 1.0).abs() < 0.125, "{millis} {middle}");
        }
        assert_eq!(class(0.0), 0);
        assert_eq!(class(1e9), CLASSES - 1);
    }

    #[test]
    fn each_step_has_its_requests_by_their_end_and_the_oldest_are_forgotten() {
        let begin = Instant::now();
        let mut history = History::new(begin);
        let at = |seconds: u32| begin + SECOND * seconds;
        history.record(at(1), End::Answered, SECOND / 10);
        history.record(at(2), End::Answered, SECOND * 10);
        history.record(at(9), End::ClientError, SECOND);
        history.record(at(15), End::ServerError, SECOND);
        history.record(at(16), End::Left, SECOND);
        let numbers = history.numbers(at(16));
        assert_eq!(numbers.requests.len(), STEPS);
        assert_eq!(numbers.requests[STEPS - 2..], [3, 2]);
        assert_eq!(numbers.requests.iter().sum::<u32>(), 5);
        assert_eq!(numbers.client_errors[STEPS - 2..], [1, 0]);
        assert_eq!(numbers.server_errors[STEPS - 2..], [0, 1]);
        assert_eq!(numbers.left[STEPS - 2..], [0, 1]);
        let fast = numbers.p50[STEPS - 2].expect("answered");
        let slow = numbers.p95[STEPS - 2].expect("answered");
        assert!((0.085..0.12).contains(&fast) && (8.0..12.0).contains(&slow));
        assert_eq!(numbers.p50[STEPS - 1], None, "nothing was answered");
        assert_eq!(numbers.age_of_newest, SECOND * 6);
        // 15 minutes later the first step is gone, and the second one is the oldest.
        history.record(at(905), End::Answered, SECOND);
        let numbers = history.numbers(at(905));
        assert_eq!((numbers.requests[0], numbers.requests[STEPS - 1]), (2, 1));
        assert_eq!(numbers.requests.iter().sum::<u32>(), 3);
        // After a day without a request, nothing is left.
        history.advance(at(86_400));
        assert_eq!(history.numbers(at(86_400)).requests, [0; STEPS]);
    }

    #[test]
    fn percentiles_are_those_of_the_sorted_durations() {
        let mut durations = [0; CLASSES];
        for millis in 1..=100 {
            durations[class(f64::from(millis) / 1000.0)] += 1;
        }
        let p50 = percentile(&durations, 0.5).expect("some");
        let p95 = percentile(&durations, 0.95).expect("some");
        assert!((0.044..0.057).contains(&p50), "{p50}");
        assert!((0.083..0.107).contains(&p95), "{p95}");
    }
}
