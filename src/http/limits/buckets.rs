//! Token buckets: one for each client, filled at a rate.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::StateStore;
use governor::state::keyed::{HashMapStateStore, ShrinkableKeyedStateStore};
use governor::{Quota, RateLimiter};
use tokio::time::Instant;

use super::Who;

/// Addresses that are told apart at a time: some megabytes. Buckets that are full again are forgotten.
const MOST: usize = 65_536;
/// Full buckets are looked for once in so many requests, and once a second while there is no room.
const TIDY_EVERY: u32 = 1024;

/// Time since it was made.
#[derive(Clone, Copy, Debug)]
struct Since(Instant);

impl Clock for Since {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        self.0.elapsed().into()
    }
}

/// The state of all buckets: for addresses, as many as there is room for.
#[derive(Default)]
struct Bounded(HashMapStateStore<Who>);

impl StateStore for Bounded {
    type Key = Who;

    fn measure_and_replace<T, F, E>(&self, key: &Who, measure: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let is_known = {
            let buckets = self.0.lock();
            buckets.len() < MOST || buckets.contains_key(key)
        };
        let key = key.clone().where_known(is_known);
        self.0.measure_and_replace(&key, measure)
    }
}

impl ShrinkableKeyedStateStore<Who> for Bounded {
    fn retain_recent(&self, drop_below: Nanos) {
        self.0.retain_recent(drop_below);
    }

    fn shrink_to_fit(&self) {
        ShrinkableKeyedStateStore::shrink_to_fit(&self.0);
    }

    fn len(&self) -> usize {
        self.0.len()
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// One bucket for each client.
pub struct Buckets {
    limiter: RateLimiter<Who, Bounded, Since, NoOpMiddleware<Nanos>>,
    taken: AtomicU32,
    /// The last second, since the beginning, in which there was no room.
    full_at: AtomicU64,
}

impl Buckets {
    /// Buckets that hold `burst` tokens and get one every so often.
    pub fn new(every: Duration, burst: u32) -> Self {
        let burst = NonZeroU32::new(burst).unwrap_or(NonZeroU32::MIN);
        let every = every.max(Duration::from_nanos(1));
        let quota = Quota::with_period(every).expect("the period is not zero");
        Self {
            limiter: RateLimiter::new(
                quota.allow_burst(burst),
                Bounded::default(),
                Since(Instant::now()),
            ),
            taken: AtomicU32::new(0),
            full_at: AtomicU64::new(0),
        }
    }

    /// Takes a token of somebody's, or says when there will be one.
    pub fn take(&self, who: &Who) -> Result<(), Duration> {
        let is_due = self.taken.fetch_add(1, Ordering::Relaxed) % TIDY_EVERY == TIDY_EVERY - 1;
        if is_due || self.is_newly_full() {
            self.limiter.retain_recent();
            self.limiter.shrink_to_fit();
        }
        self.limiter
            .check_key(who)
            .map_err(|refused| refused.wait_time_from(self.limiter.clock().now()))
    }

    /// Whether there is no room, for the first time in this second.
    fn is_newly_full(&self) -> bool {
        if self.limiter.len() < MOST {
            return false;
        }
        let now = self.limiter.clock().0.elapsed().as_secs() + 1;
        self.full_at.fetch_max(now, Ordering::Relaxed) < now
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn address(number: u32) -> Who {
        Who::at(Ipv4Addr::from_bits(number).into())
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_passes_then_one_at_a_time_and_others_have_their_own() {
        let buckets = Buckets::new(Duration::from_secs(4), 3);
        for _ in 0..3 {
            assert_eq!(buckets.take(&address(1)), Ok(()));
        }
        assert_eq!(buckets.take(&address(1)), Err(Duration::from_secs(4)));
        assert_eq!(buckets.take(&Who::Key("a".into())), Ok(()));
        tokio::time::advance(Duration::from_millis(1500)).await;
        assert_eq!(buckets.take(&address(1)), Err(Duration::from_millis(2500)));
        tokio::time::advance(Duration::from_millis(2500)).await;
        assert_eq!(buckets.take(&address(1)), Ok(()));
        assert!(buckets.take(&address(1)).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_was_there_before_a_crowd_keeps_its_own_bucket() {
        let buckets = Buckets::new(Duration::from_secs(3600), 2);
        assert_eq!(buckets.take(&address(0)), Ok(()));
        for number in 0..2 * MOST as u32 {
            let _ = buckets.take(&address(number + 1));
        }
        // The one of all others is empty.
        assert!(buckets.take(&address(u32::MAX)).is_err());
        assert_eq!(buckets.take(&address(0)), Ok(()));
        assert!(buckets.take(&address(0)).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_crowd_of_addresses_takes_bounded_room_and_keys_keep_theirs() {
        let buckets = Buckets::new(Duration::from_secs(3600), 1);
        for number in 0..2 * MOST as u32 {
            let _ = buckets.take(&address(number));
        }
        assert!(buckets.limiter.len() <= MOST + 1);
        // Those that there was no room for are one.
        assert!(buckets.take(&address(u32::MAX)).is_err());
        assert_eq!(buckets.take(&Who::Key("a".into())), Ok(()));
        tokio::time::advance(Duration::from_secs(7200)).await;
        // Buckets that are full again make room for the next who comes, at once.
        for number in [1, u32::MAX, u32::MAX - 1] {
            assert_eq!(buckets.take(&address(number)), Ok(()));
        }
        for _ in 0..TIDY_EVERY {
            let _ = buckets.take(&Who::Key("a".into()));
        }
        assert!(buckets.limiter.len() <= 4, "{}", buckets.limiter.len());
    }
}
