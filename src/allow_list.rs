//! Which clients may use the server, by their addresses (`ALLOWED_NETWORKS`).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use tracing::{debug, warn};

use crate::metrics::tls::{Protocol, Refusal, record_refused};
use crate::throttle::Throttle;

/// How often a refused connection is logged at most.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// The allowed networks.
#[derive(Clone, Debug)]
pub struct AllowList {
    networks: Arc<[IpNet]>,
    log: Arc<Throttle>,
}

impl AllowList {
    /// A list of these networks; empty: it admits everybody.
    pub fn new(networks: &[IpNet]) -> Self {
        Self {
            networks: networks.into(),
            log: Arc::new(Throttle::new(LOG_INTERVAL)),
        }
    }

    /// Whether it admits everybody.
    pub fn is_open(&self) -> bool {
        self.networks.is_empty()
    }

    /// Whether it admits this address.
    pub fn admits(&self, address: IpAddr) -> bool {
        self.is_open() || is_in(address, &self.networks)
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
}
