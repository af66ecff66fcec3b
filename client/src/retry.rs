//! When to try again, and after how long.

use std::time::Duration;

use crate::error::Error;

/// How often a call is tried again. The waits between are random from nothing to a bound that
/// doubles ("full jitter"), so that many clients of a server that comes back do not come at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Attempts after the first.
    pub max_retries: u32,
    /// Bound of the first wait.
    pub base: Duration,
    /// Bound of all waits that the server did not ask for.
    pub cap: Duration,
    /// A server that wants to be left alone for longer gets no other attempt: the caller is told
    /// instead.
    pub max_retry_after: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            max_retries: 2,
            base: Duration::from_millis(500),
            cap: Duration::from_secs(8),
            max_retry_after: Duration::from_secs(120),
        }
    }
}

impl RetryPolicy {
    /// One attempt only.
    pub fn never() -> Self {
        Self {
            max_retries: 0,
            ..Self::default()
        }
    }

    /// The wait before another attempt after so many that failed, the last with this error; `None`:
    /// there is to be no other. `share` is random, from 0 to 1.
    pub(crate) fn wait(&self, failed: u32, error: &Error, share: f64) -> Option<Duration> {
        if failed > self.max_retries || !error.is_retryable() {
            return None;
        }
        let doublings = failed.saturating_sub(1).min(31);
        let bound = self.base.saturating_mul(1 << doublings).min(self.cap);
        let jitter = bound.mul_f64(share.clamp(0.0, 1.0));
        match error.retry_after() {
            Some(asked) if asked > self.max_retry_after => None,
            Some(asked) => Some(asked.saturating_add(jitter)),
            None => Some(jitter),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::headers::ServerHeaders;
    use crate::status::{Advice, StatusError};

    fn busy(seconds: u64) -> Error {
        let headers = ServerHeaders::default();
        let mut error = StatusError::of(429, headers, Advice::default(), b"");
        error.retry_after = Some(Duration::from_secs(seconds));
        Error::Status(Box::new(error))
    }

    proptest! {
        #[test]
        fn waits_stay_within_bounds_that_double(failed in 1_u32..40, share in 0.0_f64..=1.0) {
            let policy = RetryPolicy { max_retries: 50, ..RetryPolicy::default() };
            let error = Error::Connect(String::new());
            let wait = policy.wait(failed, &error, share).expect("is retried");
            let bound = 0.5 * 2_f64.powi(failed.cast_signed() - 1);
            prop_assert!(wait.as_secs_f64() <= bound.min(8.0) + 1e-9);
            let longest = policy.wait(failed, &error, 1.0).expect("is retried");
            prop_assert!((longest.as_secs_f64() - bound.min(8.0)).abs() < 1e-6);
        }

        #[test]
        fn nobody_comes_before_the_time_that_the_server_asked_for(
            asked in 0_u64..=120, failed in 1_u32..=2, share in 0.0_f64..=1.0,
        ) {
            let wait = RetryPolicy::default().wait(failed, &busy(asked), share);
            prop_assert!(wait.expect("is retried") >= Duration::from_secs(asked));
        }
    }

    #[test]
    fn there_is_an_end_to_attempts() {
        let policy = RetryPolicy::default();
        let error = Error::Interrupted(String::new());
        assert!(policy.wait(2, &error, 0.5).is_some());
        assert_eq!(policy.wait(3, &error, 0.5), None);
        assert_eq!(RetryPolicy::never().wait(1, &error, 0.5), None);
        assert_eq!(policy.wait(1, &busy(121), 0.5), None);
        assert_eq!(policy.wait(1, &Error::Invalid(String::new()), 0.5), None);
    }
}
