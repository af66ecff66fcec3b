//! The audio that a client may have transcribed per day (UTC). Usage is counted in memory: a restart
//! resets it.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::RateLimitKey;

const DAY_SECONDS: u64 = 24 * 60 * 60;
/// The most clients that are counted separately.
const MAX_CLIENTS: usize = 65_536;

/// A clock.
type Now = Box<dyn Fn() -> SystemTime + Send + Sync>;

/// The usage of all clients today.
pub struct Quota {
    /// The allowance of clients without one of their own; `None`: unlimited.
    default_allowance: Option<Duration>,
    now: Now,
    today: Mutex<Today>,
}

#[derive(Default)]
struct Today {
    /// Days since 1970.
    day: u64,
    used_seconds: HashMap<RateLimitKey, f64>,
}

/// The allowance is used up.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct QuotaExceeded {
    /// The audio allowed per day.
    pub allowance: Duration,
    /// The time until midnight UTC.
    pub until_reset: Duration,
}

impl Quota {
    /// `default_allowance`: for clients without one of their own; `None`: unlimited.
    pub fn new(default_allowance: Option<Duration>) -> Self {
        Self::with_clock(default_allowance, Box::new(SystemTime::now))
    }

    fn with_clock(default_allowance: Option<Duration>, now: Now) -> Self {
        Self {
            default_allowance,
            now,
            today: Mutex::default(),
        }
    }

    /// Checks whether a client has allowance left today. An allowance of zero means unlimited.
    pub fn check(&self, key: RateLimitKey, own: Option<Duration>) -> Result<(), QuotaExceeded> {
        let Some(allowance) = self.allowance(own) else {
            return Ok(());
        };
        let (today, since_midnight) = self.today();
        let key = today.tracked(key);
        let used = today.used_seconds.get(&key).copied().unwrap_or_default();
        if used < allowance.as_secs_f64() {
            return Ok(());
        }
        Err(QuotaExceeded {
            allowance,
            until_reset: Duration::from_secs(DAY_SECONDS).saturating_sub(since_midnight),
        })
    }

    /// Counts transcribed audio of a client.
    pub fn charge(&self, key: RateLimitKey, own: Option<Duration>, audio_seconds: f64) {
        if self.allowance(own).is_some() {
            let (mut today, _) = self.today();
            let key = today.tracked(key);
            *today.used_seconds.entry(key).or_default() += audio_seconds;
        }
    }

    fn allowance(&self, own: Option<Duration>) -> Option<Duration> {
        own.or(self.default_allowance)
            .filter(|allowance| !allowance.is_zero())
    }

    /// Today's usage, and the time since midnight.
    fn today(&self) -> (MutexGuard<'_, Today>, Duration) {
        let since_1970 = (self.now)().duration_since(UNIX_EPOCH).unwrap_or_default();
        let day = since_1970.as_secs() / DAY_SECONDS;
        let mut today = self.today.lock().unwrap_or_else(PoisonError::into_inner);
        // If the clock is set back, the counters stay.
        if day > today.day {
            *today = Today {
                day,
                ..Today::default()
            };
        }
        (
            today,
            since_1970.saturating_sub(Duration::from_secs(day * DAY_SECONDS)),
        )
    }
}

impl Today {
    fn tracked(&self, key: RateLimitKey) -> RateLimitKey {
        let has_room =
            self.used_seconds.len() < MAX_CLIENTS || self.used_seconds.contains_key(&key);
        key.if_tracked(has_room)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    /// A quota, and its clock in seconds.
    fn quota(default_seconds: u64) -> (Quota, Arc<AtomicU64>) {
        let clock = Arc::new(AtomicU64::new(DAY_SECONDS));
        let read = Arc::clone(&clock);
        let now = move || UNIX_EPOCH + Duration::from_secs(read.load(Ordering::Relaxed));
        let default = Some(Duration::from_secs(default_seconds));
        (Quota::with_clock(default, Box::new(now)), clock)
    }

    fn laptop() -> RateLimitKey {
        RateLimitKey::Key("laptop".into())
    }

    #[test]
    fn an_allowance_lasts_until_midnight_in_utc() {
        let (quota, clock) = quota(10);
        quota.charge(laptop(), None, 9.5);
        assert_eq!(quota.check(laptop(), None), Ok(()));
        quota.charge(laptop(), None, 4.0);
        clock.fetch_add(DAY_SECONDS - 90, Ordering::Relaxed);
        let exceeded = QuotaExceeded {
            allowance: Duration::from_secs(10),
            until_reset: Duration::from_secs(90),
        };
        assert_eq!(quota.check(laptop(), None), Err(exceeded));
        assert_eq!(quota.check(RateLimitKey::Key("phone".into()), None), Ok(()));
        clock.fetch_add(89, Ordering::Relaxed);
        assert!(quota.check(laptop(), None).is_err());
        clock.fetch_add(1, Ordering::Relaxed);
        assert_eq!(quota.check(laptop(), None), Ok(()));
    }

    #[test]
    fn setting_the_clock_back_does_not_reset_the_allowance() {
        let (quota, clock) = quota(10);
        quota.charge(laptop(), None, 10.0);
        clock.fetch_sub(3600, Ordering::Relaxed);
        assert!(quota.check(laptop(), None).is_err());
    }

    #[test]
    fn a_keys_own_allowance_overrides_the_default_and_zero_means_unlimited() {
        let (limited, _clock) = quota(10);
        let own = Some(Duration::from_secs(20));
        limited.charge(laptop(), own, 15.0);
        assert_eq!(limited.check(laptop(), own), Ok(()));
        limited.charge(laptop(), own, 5.0);
        assert!(limited.check(laptop(), own).is_err());
        assert_eq!(limited.check(laptop(), Some(Duration::ZERO)), Ok(()));
        let (unlimited, _clock) = quota(0);
        unlimited.charge(laptop(), None, 1e9);
        assert_eq!(unlimited.check(laptop(), None), Ok(()));
        assert!(unlimited.today().0.used_seconds.is_empty());
    }

    #[test]
    fn many_addresses_take_bounded_memory() {
        let (quota, _clock) = quota(10);
        for number in 0..2 * MAX_CLIENTS as u32 {
            let key = RateLimitKey::of_address(Ipv4Addr::from_bits(number).into());
            quota.charge(key, None, 1.0);
        }
        quota.charge(laptop(), None, 1.0);
        assert!(quota.today().0.used_seconds.len() <= MAX_CLIENTS + 2);
        let known = RateLimitKey::of_address(Ipv4Addr::from_bits(1).into());
        assert_eq!(quota.check(known, None), Ok(()));
        let other = RateLimitKey::of_address(Ipv4Addr::from_bits(u32::MAX).into());
        assert!(quota.check(other, None).is_err());
    }
}
