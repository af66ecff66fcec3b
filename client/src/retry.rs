//! The policy for retries.

use std::time::Duration;

use crate::error::Error;

/// The number of retries of a call and the waits between them. A wait is random between zero and a bound
/// that doubles ("full jitter"), so that many clients do not return to a recovering server at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Maximum number of attempts after the first.
    pub max_retries: u32,
    /// Upper bound of the first wait.
    pub base: Duration,
    /// Upper bound of every wait that the server did not request.
    pub cap: Duration,
    /// If the server requests a longer wait than this, the call fails at once.
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
    /// No retries.
    pub fn never() -> Self {
        Self {
            max_retries: 0,
            ..Self::default()
        }
    }

    /// The wait before the next attempt after `failed` failed ones, the last with this error; `None`: no
    /// further attempt. `share` is random, from 0 to 1.
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
        fn no_retry_is_earlier_than_the_server_requested(
            asked in 0_u64..=120, failed in 1_u32..=2, share in 0.0_f64..=1.0,
        ) {
            let wait = RetryPolicy::default().wait(failed, &busy(asked), share);
            prop_assert!(wait.expect("is retried") >= Duration::from_secs(asked));
        }
    }

    #[test]
    fn the_number_of_attempts_is_limited() {
        let policy = RetryPolicy::default();
        let error = Error::Interrupted(String::new());
        assert!(policy.wait(2, &error, 0.5).is_some());
        assert_eq!(policy.wait(3, &error, 0.5), None);
        assert_eq!(RetryPolicy::never().wait(1, &error, 0.5), None);
        assert_eq!(policy.wait(1, &busy(121), 0.5), None);
        assert_eq!(policy.wait(1, &Error::Invalid(String::new()), 0.5), None);
    }
}
