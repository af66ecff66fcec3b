//! Limits per client: requests per second, audio per day, and wrong keys. They are checked with a
//! request's head, and their counters live in memory.

mod buckets;
pub mod proxies;
mod quota;

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use crate::http::caller::Caller;
use crate::http::reply::error::ApiError;
use crate::settings::Settings;
use buckets::Buckets;
use quota::Quota;

/// The wrong keys that one address may send at once: several machines may share an address and an old key.
const WRONG_KEY_BURST: u32 = 20;
/// The time until one more wrong key is allowed.
const WRONG_KEY_INTERVAL: Duration = Duration::from_secs(3);
/// The default burst, as seconds at the allowed rate.
const DEFAULT_BURST_SECONDS: f64 = 10.0;
/// The least default burst: some pages send the parts of a file in parallel.
const MIN_DEFAULT_BURST: u32 = 5;
/// IPv6 addresses with this prefix in common count as one client: an access line gets a whole network.
const IPV6_NETWORK_BITS: u32 = 64;

/// The key under which a limit counts requests.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RateLimitKey {
    /// An API key's id.
    Key(Arc<str>),
    /// An IPv4 address or an IPv6 network.
    Address(IpAddr),
    /// Shared by unknown addresses and by those beyond the capacity of a limit's table.
    Shared,
}

impl RateLimitKey {
    /// The key of an address.
    pub fn of_address(address: IpAddr) -> Self {
        Self::Address(match address {
            IpAddr::V6(address) => {
                let host_bits = u128::BITS - IPV6_NETWORK_BITS;
                Ipv6Addr::from_bits(address.to_bits() >> host_bits << host_bits).into()
            }
            IpAddr::V4(_) => address,
        })
    }

    /// This key, or the shared one for an address for which the table has no room.
    fn if_tracked(self, has_room: bool) -> Self {
        match self {
            Self::Address(_) if !has_room => Self::Shared,
            Self::Address(_) | Self::Key(_) | Self::Shared => self,
        }
    }
}

/// All limits in force.
#[derive(Clone)]
pub struct Limits(Arc<Inner>);

struct Inner {
    requests: Option<Buckets>,
    wrong_keys: Buckets,
    quota: Quota,
}

impl Limits {
    /// The limits in the settings.
    pub fn new(settings: &Settings) -> Self {
        let requests = settings.rate_limit_rps.map(|per_second| {
            let burst = settings.rate_limit_burst.unwrap_or_else(|| {
                let burst = (per_second * DEFAULT_BURST_SECONDS).ceil() as u32;
                burst.max(MIN_DEFAULT_BURST)
            });
            Buckets::new(Duration::from_secs_f64(per_second.recip()), burst)
        });
        Self(Arc::new(Inner {
            requests,
            wrong_keys: Buckets::new(WRONG_KEY_INTERVAL, WRONG_KEY_BURST),
            quota: Quota::new(settings.max_audio_per_day),
        }))
    }

    /// Checks and counts a request with audio.
    ///
    /// # Errors
    /// The request rate or the audio per day is exceeded.
    pub fn admit(&self, caller: &Caller) -> Result<(), ApiError> {
        let key = caller.rate_limit_key();
        if let Some(requests) = &self.0.requests {
            requests.take(&key).map_err(ApiError::rate_limited)?;
        }
        self.check_audio(caller)
    }

    /// Checks whether a caller may have more audio transcribed today.
    ///
    /// # Errors
    /// The audio per day is exceeded.
    pub fn check_audio(&self, caller: &Caller) -> Result<(), ApiError> {
        let (key, own) = (caller.rate_limit_key(), caller.daily_allowance());
        (self.0.quota.check(key, own)).map_err(|exceeded| {
            ApiError::insufficient_quota(exceeded.allowance, exceeded.until_reset)
        })
    }

    /// Counts a wrong key from an address and returns the error.
    pub fn reject_wrong_key(&self, address: Option<IpAddr>) -> ApiError {
        let key = address.map_or(RateLimitKey::Shared, RateLimitKey::of_address);
        match self.0.wrong_keys.take(&key) {
            Ok(()) => ApiError::invalid_api_key(),
            Err(wait) => ApiError::too_many_wrong_keys(wait),
        }
    }

    /// Counts transcribed audio of a caller.
    pub fn charge(&self, caller: &Caller, audio_seconds: f64) {
        let (key, own) = (caller.rate_limit_key(), caller.daily_allowance());
        self.0.quota.charge(key, own, audio_seconds);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv6_network_is_one_client_and_so_is_an_ipv4_address() {
        let key = |text: &str| RateLimitKey::of_address(text.parse().expect("an address"));
        assert_eq!(key("2001:db8:1:2::3"), key("2001:db8:1:2:ffff::9"));
        assert_ne!(key("2001:db8:1:2::3"), key("2001:db8:1:3::3"));
        assert_ne!(key("192.0.2.1"), key("192.0.2.2"));
    }
}
