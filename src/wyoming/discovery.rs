//! The announcement of the server in the local network (mDNS), by which Home Assistant discovers it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use mdns_sd::{ServiceDaemon, ServiceInfo};
use tracing::{debug, info};

const SERVICE: &str = "_wyoming._tcp.local.";
/// The multicast address of mDNS.
const MDNS: (Ipv4Addr, u16) = (Ipv4Addr::new(224, 0, 0, 251), 5353);

/// An announcement. Dropping it withdraws it.
pub struct Announcement {
    daemon: ServiceDaemon,
    full_name: String,
}

impl Announcement {
    /// Announces a server that listens on this address.
    ///
    /// # Errors
    /// Other machines cannot reach the address, or the network cannot be used; in words for people.
    pub fn start(name: &str, listening: SocketAddr) -> Result<Self, String> {
        let address = announced_address(listening.ip())?;
        let service = service(name, address, listening.port())?;
        let full_name = service.get_fullname().to_owned();
        let daemon = ServiceDaemon::new().map_err(|error| error.to_string())?;
        daemon
            .register(service)
            .map_err(|error| error.to_string())?;
        info!(service = full_name, %address, port = listening.port(), "Wyoming is announced in the network");
        Ok(Self { daemon, full_name })
    }
}

impl Drop for Announcement {
    fn drop(&mut self) {
        let withdrawn = self.daemon.unregister(&self.full_name);
        if let Err(error) = withdrawn.and_then(|_| self.daemon.shutdown()) {
            debug!(%error, "the announcement was not withdrawn");
        }
    }
}

/// What is announced: the name, one address and the port.
fn service(name: &str, address: Ipv4Addr, port: u16) -> Result<ServiceInfo, String> {
    let host: String = name
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect();
    let host = format!("{host}.local.");
    ServiceInfo::new(SERVICE, name, &host, IpAddr::V4(address), port, None)
        .map_err(|error| error.to_string())
}

/// The IPv4 address by which other machines reach a server that listens on `listening`.
fn announced_address(listening: IpAddr) -> Result<Ipv4Addr, String> {
    match listening {
        address if address.is_loopback() => {
            Err(format!("{address} is reachable on this machine only"))
        }
        IpAddr::V4(address) if !address.is_unspecified() => Ok(address),
        address if address.is_unspecified() => own_address(),
        address => Err(format!("{address} is no IPv4 address")),
    }
}

/// The address of the interface that multicast uses. Sends nothing.
fn own_address() -> Result<Ipv4Addr, String> {
    let found = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).and_then(|socket| {
        socket.connect(MDNS)?;
        socket.local_addr()
    });
    match found.map(|address| address.ip()) {
        Ok(IpAddr::V4(address)) if !address.is_unspecified() => Ok(address),
        Ok(_) => Err("the machine has no IPv4 address".to_owned()),
        Err(error) => Err(format!("the machine has no network: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_announcement_has_the_name_one_address_and_the_port() {
        let address = Ipv4Addr::new(192, 0, 2, 7);
        let service = service("Living room", address, 10_300).expect("a service");
        assert_eq!(service.get_fullname(), "Living room._wyoming._tcp.local.");
        assert_eq!(service.get_type(), SERVICE);
        assert_eq!(service.get_hostname(), "Living-room.local.");
        assert_eq!(service.get_port(), 10_300);
        let addresses: Vec<_> = service.get_addresses_v4().into_iter().copied().collect();
        assert_eq!(addresses, [address]);
        assert_eq!(service.get_properties().len(), 0);
    }

    #[test]
    fn only_an_address_that_others_reach_is_announced() {
        let announced = |text: &str| announced_address(text.parse().expect("an address"));
        assert_eq!(announced("192.0.2.7"), Ok(Ipv4Addr::new(192, 0, 2, 7)));
        for address in ["127.0.0.1", "::1", "2001:db8::1"] {
            assert!(announced(address).is_err(), "{address}");
        }
        // On a machine without a network, the reason says so.
        for address in ["0.0.0.0", "::"] {
            match announced(address) {
                Ok(own) => assert!(!own.is_unspecified()),
                Err(reason) => assert!(reason.contains("the machine has no"), "{reason}"),
            }
        }
    }
}
