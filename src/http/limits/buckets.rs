//! Token buckets: one per client, refilled at a constant rate.

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

use super::RateLimitKey;

/// The most buckets: a few megabytes. A bucket that is full again is removed.
const MAX_BUCKETS: usize = 65_536;
/// How often full buckets are removed, in requests; while the table is full, also once per second.
const PRUNE_INTERVAL_REQUESTS: u32 = 1024;

/// A clock that starts at zero.
#[derive(Clone, Copy, Debug)]
struct MonotonicClock(Instant);

impl Clock for MonotonicClock {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        self.0.elapsed().into()
    }
}

/// The state of all buckets, limited to [`MAX_BUCKETS`] addresses.
#[derive(Default)]
struct Bounded(HashMapStateStore<RateLimitKey>);

impl StateStore for Bounded {
    type Key = RateLimitKey;

    fn measure_and_replace<T, F, E>(&self, key: &RateLimitKey, measure: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let has_room = {
            let buckets = self.0.lock();
            buckets.len() < MAX_BUCKETS || buckets.contains_key(key)
        };
        let key = key.clone().if_tracked(has_room);
        self.0.measure_and_replace(&key, measure)
    }
}

impl ShrinkableKeyedStateStore<RateLimitKey> for Bounded {
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

/// One token bucket per client.
pub struct Buckets {
    limiter: RateLimiter<RateLimitKey, Bounded, MonotonicClock, NoOpMiddleware<Nanos>>,
    requests: AtomicU32,
    /// The last second, since the start, in which the table was full.
    full_at: AtomicU64,
}

impl Buckets {
    /// Buckets that hold `burst` tokens and get one every `interval`.
    pub fn new(interval: Duration, burst: u32) -> Self {
        let burst = NonZeroU32::new(burst).unwrap_or(NonZeroU32::MIN);
        let interval = interval.max(Duration::from_nanos(1));
        let quota = Quota::with_period(interval).expect("the period is not zero");
        Self {
            limiter: RateLimiter::new(
                quota.allow_burst(burst),
                Bounded::default(),
                MonotonicClock(Instant::now()),
            ),
            requests: AtomicU32::new(0),
            full_at: AtomicU64::new(0),
        }
    }

    /// Takes a token of a client.
    ///
    /// # Errors
    /// The bucket is empty; returns the time until the next token.
    pub fn take(&self, key: &RateLimitKey) -> Result<(), Duration> {
        let is_due = self.requests.fetch_add(1, Ordering::Relaxed) % PRUNE_INTERVAL_REQUESTS
            == PRUNE_INTERVAL_REQUESTS - 1;
        if is_due || self.is_newly_full() {
            self.limiter.retain_recent();
            self.limiter.shrink_to_fit();
        }
        self.limiter
            .check_key(key)
            .map_err(|empty| empty.wait_time_from(self.limiter.clock().now()))
    }

    /// Whether the table is full, for the first time in this second.
    fn is_newly_full(&self) -> bool {
        if self.limiter.len() < MAX_BUCKETS {
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

    fn address(number: u32) -> RateLimitKey {
        RateLimitKey::of_address(Ipv4Addr::from_bits(number).into())
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_passes_then_one_at_a_time_and_other_clients_have_their_own_bucket() {
        let buckets = Buckets::new(Duration::from_secs(4), 3);
        for _ in 0..3 {
            assert_eq!(buckets.take(&address(1)), Ok(()));
        }
        assert_eq!(buckets.take(&address(1)), Err(Duration::from_secs(4)));
        assert_eq!(buckets.take(&RateLimitKey::Key("a".into())), Ok(()));
        tokio::time::advance(Duration::from_millis(1500)).await;
        assert_eq!(buckets.take(&address(1)), Err(Duration::from_millis(2500)));
        tokio::time::advance(Duration::from_millis(2500)).await;
        assert_eq!(buckets.take(&address(1)), Ok(()));
        assert!(buckets.take(&address(1)).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_keeps_its_bucket_when_the_table_fills_up() {
        let buckets = Buckets::new(Duration::from_secs(3600), 2);
        assert_eq!(buckets.take(&address(0)), Ok(()));
        for number in 0..2 * MAX_BUCKETS as u32 {
            let _ = buckets.take(&address(number + 1));
        }
        // The shared bucket is empty.
        assert!(buckets.take(&address(u32::MAX)).is_err());
        assert_eq!(buckets.take(&address(0)), Ok(()));
        assert!(buckets.take(&address(0)).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn many_addresses_take_bounded_memory_and_keys_keep_their_buckets() {
        let buckets = Buckets::new(Duration::from_secs(3600), 1);
        for number in 0..2 * MAX_BUCKETS as u32 {
            let _ = buckets.take(&address(number));
        }
        assert!(buckets.limiter.len() <= MAX_BUCKETS + 1);
        // Addresses without room in the table share a bucket.
        assert!(buckets.take(&address(u32::MAX)).is_err());
        assert_eq!(buckets.take(&RateLimitKey::Key("a".into())), Ok(()));
        tokio::time::advance(Duration::from_secs(7200)).await;
        // Buckets that are full again make room for a new client at once.
        for number in [1, u32::MAX, u32::MAX - 1] {
            assert_eq!(buckets.take(&address(number)), Ok(()));
        }
        for _ in 0..PRUNE_INTERVAL_REQUESTS {
            let _ = buckets.take(&RateLimitKey::Key("a".into()));
        }
        assert!(buckets.limiter.len() <= 4, "{}", buckets.limiter.len());
    }
}
