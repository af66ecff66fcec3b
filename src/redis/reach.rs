//! The host under which a node registers, where no setting names it: the address from which it reaches Redis.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use deadpool_redis::redis::ConnectionAddr;
use tokio::net::{UdpSocket, lookup_host};
use tokio::time::timeout;

use super::servers::Servers;

/// Time limit for the address of a name.
const LOOK_UP_LIMIT: Duration = Duration::from_secs(2);
/// Addresses of the documentation, which no machine has: the way to them is the default route.
const ELSEWHERE: [SocketAddr; 2] = [
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 9),
    SocketAddr::new(
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
        9,
    ),
];

/// The host that a node registers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeHost {
    /// The one that `NODE_HOST` names.
    Named(String),
    /// Redis is on this machine, and so are routers.
    ThisMachine,
    /// The address from which this machine reaches Redis, or the one that the server listens on.
    Guessed(IpAddr),
    /// No address that routers could use: this machine has no network, or only one whose addresses the server does not
    /// listen on or that are valid on one link only.
    Unknown,
    /// Redis is reached over the network, but the server listens on this machine's loopback address only.
    Unreachable,
}

impl NodeHost {
    /// The host for the record; `None`: the node must not register.
    pub fn text(&self) -> Option<String> {
        match self {
            Self::Named(host) => Some(host.clone()),
            Self::ThisMachine => Some("localhost".to_owned()),
            Self::Guessed(IpAddr::V6(address)) => Some(format!("[{address}]")),
            Self::Guessed(address) => Some(address.to_string()),
            Self::Unknown | Self::Unreachable => None,
        }
    }
}

/// The host that a node registers in the Redis of `url`. `named`: by `NODE_HOST`. `listens_on`: the bound address.
pub async fn node_host(url: &str, named: Option<&str>, listens_on: IpAddr) -> NodeHost {
    if let Some(named) = named {
        return NodeHost::Named(named.to_owned());
    }
    if !listens_on.is_unspecified() && !listens_on.is_loopback() {
        return NodeHost::Guessed(listens_on);
    }
    let ways = match Servers::of(url) {
        Ok(servers) => ways_to(&servers).await,
        Err(_) => Vec::new(),
    };
    if is_local(&ways) {
        return NodeHost::ThisMachine;
    }
    if listens_on.is_loopback() {
        return NodeHost::Unreachable;
    }
    let mut candidates = ways;
    for elsewhere in ELSEWHERE {
        candidates.extend(way_to(elsewhere).await);
    }
    chosen(&candidates, listens_on).map_or(NodeHost::Unknown, NodeHost::Guessed)
}

/// Whether the ways to a Redis lead to this machine.
fn is_local(ways: &[IpAddr]) -> bool {
    ways.iter().any(IpAddr::is_loopback)
}

/// The first of these addresses of this machine under which routers reach a server that listens on all addresses
/// (`listens_on`): `0.0.0.0` takes IPv4 only, and `::` both.
fn chosen(addresses: &[IpAddr], listens_on: IpAddr) -> Option<IpAddr> {
    let is_reached = |address: &&IpAddr| address.is_ipv4() || listens_on.is_ipv6();
    // A link-local address means nothing on another link, and for IPv6 nothing without the name of an interface.
    let is_of_one_link = |address: &IpAddr| match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    let mut usable = addresses.iter().filter(is_reached);
    usable
        .find(|address| !address.is_loopback() && !is_of_one_link(address))
        .copied()
}

/// The addresses of this machine on the ways to the first server that is on another machine; if there is none, to the
/// last one. For a socket in the file system, the loopback address.
async fn ways_to(servers: &Servers) -> Vec<IpAddr> {
    let mut ways = Vec::new();
    for address in servers.addresses() {
        let (host, port) = match address {
            ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => {
                (host.as_str(), *port)
            }
            _ => return vec![Ipv4Addr::LOCALHOST.into()],
        };
        let found = timeout(LOOK_UP_LIMIT, lookup_host((host, port))).await;
        let found = found.ok().and_then(Result::ok).into_iter().flatten();
        let mut of_server = Vec::new();
        for remote in found {
            of_server.extend(way_to(remote).await);
        }
        if of_server.is_empty() {
            continue;
        }
        let is_elsewhere = !is_local(&of_server);
        ways = of_server;
        if is_elsewhere {
            break;
        }
    }
    ways
}

/// The own address on the way to another one. Sends nothing.
async fn way_to(remote: SocketAddr) -> Option<IpAddr> {
    let any: IpAddr = if remote.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let socket = UdpSocket::bind((any, 0)).await.ok()?;
    socket.connect(remote).await.ok()?;
    let local = socket.local_addr().ok()?.ip().to_canonical();
    (!local.is_unspecified()).then_some(local)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn host(url: &str, named: Option<&str>, listens_on: &str) -> NodeHost {
        node_host(url, named, listens_on.parse().expect("an address")).await
    }

    #[tokio::test]
    async fn a_redis_on_this_machine_means_routers_on_this_machine() {
        for url in [
            "redis://127.0.0.1",
            "redis://localhost:1",
            "unix:///run/redis.sock",
            "redis+sentinel://127.0.0.1/main",
        ] {
            for listens_on in ["127.0.0.1", "0.0.0.0"] {
                let here = NodeHost::ThisMachine;
                assert_eq!(host(url, None, listens_on).await, here, "{url}");
            }
        }
    }

    #[tokio::test]
    async fn a_name_and_a_bound_address_are_taken_as_they_are() {
        let elsewhere = "redis://192.0.2.7";
        let named = host(elsewhere, Some("stt.example"), "127.0.0.1").await;
        assert_eq!(named.text().as_deref(), Some("stt.example"));
        let bound = host(elsewhere, None, "198.51.100.3").await;
        assert_eq!(bound.text().as_deref(), Some("198.51.100.3"));
        let bound = host(elsewhere, None, "2001:db8::3").await;
        assert_eq!(bound.text().as_deref(), Some("[2001:db8::3]"));
    }

    #[tokio::test]
    async fn a_server_that_only_this_machine_reaches_is_not_registered_elsewhere() {
        // Without any network there is no way to Redis.
        if way_to(ELSEWHERE[0]).await.is_none() {
            return;
        }
        let elsewhere = "redis://192.0.2.7";
        assert_eq!(host(elsewhere, None, "127.0.0.1").await.text(), None);
        let guessed = host(elsewhere, None, "0.0.0.0").await;
        assert!(
            matches!(guessed, NodeHost::Guessed(address) if !address.is_loopback()),
            "{guessed:?}"
        );
    }

    #[tokio::test]
    async fn a_server_of_ipv4_registers_no_address_of_ipv6() {
        if way_to(ELSEWHERE[0]).await.is_none() {
            return;
        }
        // Whether this machine has IPv6 or not: the guess falls back to the default route of IPv4.
        let guessed = host("redis://[2001:db8::7]", None, "0.0.0.0").await;
        assert!(
            matches!(guessed, NodeHost::Guessed(address) if address.is_ipv4()),
            "{guessed:?}"
        );
    }

    #[tokio::test]
    async fn of_several_sentinels_one_on_another_machine_decides() {
        if way_to(ELSEWHERE[0]).await.is_none() {
            return;
        }
        let url = "redis+sentinel://127.0.0.1,192.0.2.7/main";
        let guessed = host(url, None, "0.0.0.0").await;
        assert!(matches!(guessed, NodeHost::Guessed(_)), "{guessed:?}");
    }

    #[test]
    fn the_address_is_one_that_the_server_listens_on_and_that_is_valid_beyond_its_link() {
        let cases: [(&[&str], &str, Option<&str>); 7] = [
            (&["2001:db8::3", "10.0.0.5"], "0.0.0.0", Some("10.0.0.5")),
            (&["2001:db8::3", "10.0.0.5"], "::", Some("2001:db8::3")),
            (&["10.0.0.5", "2001:db8::3"], "::", Some("10.0.0.5")),
            (&["2001:db8::3"], "0.0.0.0", None),
            (
                &["fe80::1", "169.254.3.4", "fd00::1"],
                "::",
                Some("fd00::1"),
            ),
            (&["fe80::1", "169.254.3.4"], "0.0.0.0", None),
            (&[], "::", None),
        ];
        for (addresses, listens_on, expected) in cases {
            let read = |text: &str| text.parse::<IpAddr>().expect("an address");
            let given: Vec<_> = addresses.iter().copied().map(read).collect();
            let found = chosen(&given, read(listens_on));
            assert_eq!(found, expected.map(read), "{addresses:?} {listens_on}");
        }
    }
}
