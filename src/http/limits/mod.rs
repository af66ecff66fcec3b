//! How much one client may ask for: so many requests in a time, so much audio in a day. All of it is
//! decided from the head of a request, and none of it is kept beyond the process.

mod buckets;
pub mod proxies;
mod quota;

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use crate::http::caller::Visitor;
use crate::http::reply::error::ApiError;
use crate::settings::Settings;
use buckets::Buckets;
use quota::Quota;

/// Wrong keys from one address at once: somebody who mistypes, or a few machines with an old key.
const WRONG_KEYS_AT_ONCE: u32 = 20;
/// One more after so long.
const WRONG_KEYS_EVERY: Duration = Duration::from_secs(3);
/// Without a setting, a client may send as much at once as in so many seconds.
const SECONDS_OF_BURST: f64 = 10.0;
/// At least as many: pages send a file's parts all together.
const LEAST_BURST: u32 = 5;
/// Addresses that one line has: IPv6 gives each a whole network.
const IPV6_NETWORK_BITS: u32 = 64;

/// Whom a limit counts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Who {
    /// A key, by its id.
    Key(Arc<str>),
    /// An address; of IPv6, the network that it is in.
    Address(IpAddr),
    /// All addresses that there is no room to tell apart.
    Others,
}

impl Who {
    /// The one behind an address.
    pub fn at(address: IpAddr) -> Self {
        Self::Address(match address {
            IpAddr::V6(address) => {
                let host_bits = u128::BITS - IPV6_NETWORK_BITS;
                Ipv6Addr::from_bits(address.to_bits() >> host_bits << host_bits).into()
            }
            IpAddr::V4(_) => address,
        })
    }

    /// The same where only so many addresses are told apart.
    fn where_known(self, is_room: bool) -> Self {
        match self {
            Self::Address(_) if !is_room => Self::Others,
            Self::Address(_) | Self::Key(_) | Self::Others => self,
        }
    }
}

/// All limits in force.
#[derive(Clone)]
pub struct Limits(Arc<Inner>);

struct Inner {
    work: Option<Buckets>,
    wrong_keys: Buckets,
    quota: Quota,
}

impl Limits {
    /// Those of the settings.
    pub fn new(settings: &Settings) -> Self {
        let work = settings.rate_limit_rps.map(|per_second| {
            let burst = settings.rate_limit_burst.unwrap_or_else(|| {
                let burst = (per_second * SECONDS_OF_BURST).ceil() as u32;
                burst.max(LEAST_BURST)
            });
            Buckets::new(Duration::from_secs_f64(per_second.recip()), burst)
        });
        Self(Arc::new(Inner {
            work,
            wrong_keys: Buckets::new(WRONG_KEYS_EVERY, WRONG_KEYS_AT_ONCE),
            quota: Quota::new(settings.max_audio_per_day),
        }))
    }

    /// Lets a request for work in, or says why not and for how long.
    pub fn admit(&self, visitor: &Visitor) -> Result<(), ApiError> {
        let who = visitor.who();
        if let Some(work) = &self.0.work {
            work.take(&who).map_err(ApiError::rate_limited)?;
        }
        (self.0.quota.check(who, visitor.own_allowance()))
            .map_err(|spent| ApiError::insufficient_quota(spent.allowance, spent.until_anew))
    }

    /// A wrong key came from there. Gives the refusal.
    pub fn refuse_wrong_key(&self, address: Option<IpAddr>) -> ApiError {
        let who = address.map_or(Who::Others, Who::at);
        match self.0.wrong_keys.take(&who) {
            Ok(()) => ApiError::invalid_api_key(),
            Err(wait) => ApiError::too_many_wrong_keys(wait),
        }
    }

    /// So many seconds of audio were transcribed for somebody.
    pub fn charge(&self, visitor: &Visitor, audio_seconds: f64) {
        let own = visitor.own_allowance();
        self.0.quota.charge(visitor.who(), own, audio_seconds);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_of_ipv6_is_one_client_and_an_address_of_ipv4_is() {
        let who = |text: &str| Who::at(text.parse().expect("an address"));
        assert_eq!(who("2001:db8:1:2::3"), who("2001:db8:1:2:ffff::9"));
        assert_ne!(who("2001:db8:1:2::3"), who("2001:db8:1:3::3"));
        assert_ne!(who("192.0.2.1"), who("192.0.2.2"));
    }
}
