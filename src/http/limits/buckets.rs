//! Token buckets: one for each client, filled at a rate.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};
use tokio::time::Instant;

use super::Who;

/// Addresses that are told apart at a time: some megabytes. Buckets that are full again are forgotten.
const MOST: usize = 65_536;
/// Full buckets are looked for once in so many requests.
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

/// One bucket for each client.
pub struct Buckets {
    limiter: RateLimiter<Who, HashMapStateStore<Who>, Since, NoOpMiddleware<Nanos>>,
    taken: AtomicU32,
}

impl Buckets {
    /// Buckets that hold `burst` tokens and get one every so often.
    pub fn new(every: Duration, burst: u32) -> Self {
        let burst = NonZeroU32::new(burst).unwrap_or(NonZeroU32::MIN);
        let every = every.max(Duration::from_nanos(1));
        let quota = Quota::with_period(every).expect("the period is not zero");
        Self {
            limiter: RateLimiter::hashmap_with_clock(
                quota.allow_burst(burst),
                Since(Instant::now()),
            ),
            taken: AtomicU32::new(0),
        }
    }

    /// Takes a token of somebody's, or says when there will be one.
    pub fn take(&self, who: Who) -> Result<(), Duration> {
        if self.taken.fetch_add(1, Ordering::Relaxed) % TIDY_EVERY == TIDY_EVERY - 1 {
            self.limiter.retain_recent();
            self.limiter.shrink_to_fit();
        }
        let who = who.where_known(self.limiter.len() < MOST);
        self.limiter
            .check_key(&who)
            .map_err(|refused| refused.wait_time_from(self.limiter.clock().now()))
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
            assert_eq!(buckets.take(address(1)), Ok(()));
        }
        assert_eq!(buckets.take(address(1)), Err(Duration::from_secs(4)));
        assert_eq!(buckets.take(Who::Key("a".into())), Ok(()));
        tokio::time::advance(Duration::from_millis(1500)).await;
        assert_eq!(buckets.take(address(1)), Err(Duration::from_millis(2500)));
        tokio::time::advance(Duration::from_millis(2500)).await;
        assert_eq!(buckets.take(address(1)), Ok(()));
        assert!(buckets.take(address(1)).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_crowd_of_addresses_takes_bounded_room_and_keys_keep_theirs() {
        let buckets = Buckets::new(Duration::from_secs(3600), 1);
        for number in 0..2 * MOST as u32 {
            let _ = buckets.take(address(number));
        }
        assert!(buckets.limiter.len() <= MOST + 1);
        // Those that there was no room for are one.
        assert!(buckets.take(address(u32::MAX)).is_err());
        assert_eq!(buckets.take(Who::Key("a".into())), Ok(()));
        tokio::time::advance(Duration::from_secs(7200)).await;
        for _ in 0..TIDY_EVERY {
            let _ = buckets.take(Who::Key("a".into()));
        }
        assert!(buckets.limiter.len() <= 2, "{}", buckets.limiter.len());
    }
}
