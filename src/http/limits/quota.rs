//! How much audio a client may have transcribed in a day of UTC. What is used is counted in memory: a
//! restart begins anew.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::Who;

const DAY_SECONDS: u64 = 24 * 60 * 60;
/// Addresses that are told apart at a time.
const MOST: usize = 65_536;

/// What time it is.
type Now = Box<dyn Fn() -> SystemTime + Send + Sync>;

/// Everybody's use of today.
pub struct Quota {
    /// Of those who have no allowance of their own; `None`: any amount.
    usual: Option<Duration>,
    now: Now,
    today: Mutex<Today>,
}

#[derive(Default)]
struct Today {
    /// Days since 1970.
    day: u64,
    used_seconds: HashMap<Who, f64>,
}

/// An allowance that is used up.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spent {
    /// Of a day.
    pub allowance: Duration,
    /// When there is a new one.
    pub until_anew: Duration,
}

impl Quota {
    /// With this allowance for those who have none of their own.
    pub fn new(usual: Option<Duration>) -> Self {
        Self::by_clock(usual, Box::new(SystemTime::now))
    }

    fn by_clock(usual: Option<Duration>, now: Now) -> Self {
        Self {
            usual,
            now,
            today: Mutex::default(),
        }
    }

    /// Whether somebody may have more audio transcribed today. An allowance of zero is none.
    pub fn check(&self, who: Who, own: Option<Duration>) -> Result<(), Spent> {
        let Some(allowance) = self.allowance(own) else {
            return Ok(());
        };
        let (today, since_midnight) = self.today();
        let who = today.known(who);
        let used = today.used_seconds.get(&who).copied().unwrap_or_default();
        if used < allowance.as_secs_f64() {
            return Ok(());
        }
        Err(Spent {
            allowance,
            until_anew: Duration::from_secs(DAY_SECONDS).saturating_sub(since_midnight),
        })
    }

    /// Somebody had so much transcribed.
    pub fn charge(&self, who: Who, own: Option<Duration>, audio_seconds: f64) {
        if self.allowance(own).is_some() {
            let (mut today, _) = self.today();
            let who = today.known(who);
            *today.used_seconds.entry(who).or_default() += audio_seconds;
        }
    }

    fn allowance(&self, own: Option<Duration>) -> Option<Duration> {
        own.or(self.usual).filter(|allowance| !allowance.is_zero())
    }

    /// What is used of today, and how long today has been.
    fn today(&self) -> (MutexGuard<'_, Today>, Duration) {
        let since_1970 = (self.now)().duration_since(UNIX_EPOCH).unwrap_or_default();
        let day = since_1970.as_secs() / DAY_SECONDS;
        let mut today = self.today.lock().unwrap_or_else(PoisonError::into_inner);
        // A clock that is set back gives nobody a second allowance.
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
    fn known(&self, who: Who) -> Who {
        let is_room = self.used_seconds.len() < MOST || self.used_seconds.contains_key(&who);
        who.where_known(is_room)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    /// A quota, and the hand of its clock in seconds.
    fn quota(usual_seconds: u64) -> (Quota, Arc<AtomicU64>) {
        let hand = Arc::new(AtomicU64::new(DAY_SECONDS));
        let read = Arc::clone(&hand);
        let now = move || UNIX_EPOCH + Duration::from_secs(read.load(Ordering::Relaxed));
        let usual = Some(Duration::from_secs(usual_seconds));
        (Quota::by_clock(usual, Box::new(now)), hand)
    }

    fn laptop() -> Who {
        Who::Key("laptop".into())
    }

    #[test]
    fn an_allowance_lasts_until_midnight_in_utc() {
        let (quota, hand) = quota(10);
        quota.charge(laptop(), None, 9.5);
        assert_eq!(quota.check(laptop(), None), Ok(()));
        quota.charge(laptop(), None, 4.0);
        hand.fetch_add(DAY_SECONDS - 90, Ordering::Relaxed);
        let spent = Spent {
            allowance: Duration::from_secs(10),
            until_anew: Duration::from_secs(90),
        };
        assert_eq!(quota.check(laptop(), None), Err(spent));
        assert_eq!(quota.check(Who::Key("phone".into()), None), Ok(()));
        hand.fetch_add(89, Ordering::Relaxed);
        assert!(quota.check(laptop(), None).is_err());
        hand.fetch_add(1, Ordering::Relaxed);
        assert_eq!(quota.check(laptop(), None), Ok(()));
    }

    #[test]
    fn a_clock_that_is_set_back_gives_no_second_allowance() {
        let (quota, hand) = quota(10);
        quota.charge(laptop(), None, 10.0);
        hand.fetch_sub(3600, Ordering::Relaxed);
        assert!(quota.check(laptop(), None).is_err());
    }

    #[test]
    fn a_keys_own_allowance_beats_the_usual_one_and_zero_is_no_limit() {
        let (limited, _hand) = quota(10);
        let own = Some(Duration::from_secs(20));
        limited.charge(laptop(), own, 15.0);
        assert_eq!(limited.check(laptop(), own), Ok(()));
        limited.charge(laptop(), own, 5.0);
        assert!(limited.check(laptop(), own).is_err());
        assert_eq!(limited.check(laptop(), Some(Duration::ZERO)), Ok(()));
        let (unlimited, _hand) = quota(0);
        unlimited.charge(laptop(), None, 1e9);
        assert_eq!(unlimited.check(laptop(), None), Ok(()));
        assert!(unlimited.today().0.used_seconds.is_empty());
    }

    #[test]
    fn a_crowd_of_addresses_takes_bounded_room() {
        let (quota, _hand) = quota(10);
        for number in 0..2 * MOST as u32 {
            let who = Who::at(Ipv4Addr::from_bits(number).into());
            quota.charge(who, None, 1.0);
        }
        quota.charge(laptop(), None, 1.0);
        assert!(quota.today().0.used_seconds.len() <= MOST + 2);
        let known = Who::at(Ipv4Addr::from_bits(1).into());
        assert_eq!(quota.check(known, None), Ok(()));
        let other = Who::at(Ipv4Addr::from_bits(u32::MAX).into());
        assert!(quota.check(other, None).is_err());
    }
}
