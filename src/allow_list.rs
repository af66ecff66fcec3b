//! Which clients may use the server, by their addresses (`ALLOWED_NETWORKS`).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use ipnet::IpNet;
use thiserror::Error;
use tracing::{debug, warn};

use crate::metrics::tls::{Protocol, Refusal, record_refused};
use crate::throttle::Throttle;

/// How often a refused connection is logged at most.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// The allowed networks. All ports share them, so that a reload applies to each, and to open connections.
#[derive(Clone, Debug)]
pub struct AllowList {
    networks: Arc<ArcSwap<Vec<IpNet>>>,
    log: Arc<Throttle>,
}

impl AllowList {
    /// A list of these networks; empty: it admits everybody.
    pub fn new(networks: &[IpNet]) -> Self {
        Self {
            networks: Arc::new(ArcSwap::from_pointee(networks.to_vec())),
            log: Arc::new(Throttle::new(LOG_INTERVAL)),
        }
    }

    /// The same networks for another port, whose refusals are logged by themselves.
    #[must_use]
    pub fn for_another_port(&self) -> Self {
        Self {
            networks: Arc::clone(&self.networks),
            log: Arc::new(Throttle::new(LOG_INTERVAL)),
        }
    }

    /// Whether it admits everybody.
    pub fn is_open(&self) -> bool {
        self.networks.load().is_empty()
    }

    /// Replaces the networks. Returns whether they changed.
    ///
    /// # Errors
    /// There are none, which would admit everybody: only a restart does that.
    pub fn exchange(&self, networks: &[IpNet]) -> Result<bool, WouldAdmitEverybody> {
        let now = self.networks.load();
        if networks.is_empty() && !now.is_empty() {
            return Err(WouldAdmitEverybody);
        }
        let is_new = **now != networks;
        if is_new {
            self.networks.store(Arc::new(networks.to_vec()));
        }
        Ok(is_new)
    }

    /// Whether it admits this address.
    pub fn admits(&self, address: IpAddr) -> bool {
        let networks = self.networks.load();
        networks.is_empty() || is_in(address, &networks)
    }

    /// Counts and logs a connection that was refused because of its address.
    pub fn refused(&self, protocol: Protocol, address: IpAddr) {
        record_refused(protocol, Refusal::Address);
        let protocol = protocol.as_str();
        if let Some(left_out) = self.log.pass() {
            warn!(
                %address, protocol, left_out,
                "refused a connection: its address is not in ALLOWED_NETWORKS"
            );
        } else {
            debug!(%address, protocol, "refused a connection");
        }
    }
}

/// Why an empty list does not replace one with networks.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("ALLOWED_NETWORKS is empty now, which would admit everybody; that takes a restart")]
pub struct WouldAdmitEverybody;

/// Whether an address is in one of these networks.
pub fn is_in(address: IpAddr, networks: &[IpNet]) -> bool {
    let address = address.to_canonical();
    networks.iter().any(|network| network.contains(&address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_the_networks_are_admitted_in_every_notation() {
        let networks = ["10.0.0.0/8", "2001:db8::7/128"].map(|net| net.parse().expect("a network"));
        let list = AllowList::new(&networks);
        let admits = |address: &str| list.admits(address.parse().expect("an address"));
        for good in ["10.1.2.3", "::ffff:10.1.2.3", "2001:db8::7"] {
            assert!(admits(good), "{good}");
        }
        for bad in ["11.0.0.1", "127.0.0.1", "::1", "2001:db8::8"] {
            assert!(!admits(bad), "{bad}");
        }
        let open = AllowList::new(&[]);
        assert!(open.is_open() && open.admits([192, 0, 2, 1].into()));
    }

    #[test]
    fn all_ports_have_new_networks_and_none_opens_the_server() {
        let [old, new] = ["10.0.0.0/8", "192.0.2.0/24"].map(|net| net.parse().expect("a network"));
        let list = AllowList::new(&[old]);
        let elsewhere = list.for_another_port();
        assert_eq!(list.exchange(&[old]), Ok(false));
        assert_eq!(list.exchange(&[new]), Ok(true));
        assert!(elsewhere.admits([192, 0, 2, 1].into()));
        assert!(!elsewhere.admits([10, 0, 0, 1].into()));
        assert_eq!(list.exchange(&[]), Err(WouldAdmitEverybody));
        assert!(!elsewhere.is_open());
    }
}
