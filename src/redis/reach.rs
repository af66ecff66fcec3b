//! The host under which a node registers, where no setting names it: the address from which it reaches Redis.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use deadpool_redis::redis::ConnectionAddr;
use tokio::net::{UdpSocket, lookup_host};
use tokio::time::timeout;

use super::servers::Servers;

/// Time limit for the address of a name.
const LOOK_UP_LIMIT: Duration = Duration::from_secs(2);
/// An address of the documentation, which no machine has: the way to it is the default route.
const ELSEWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 9);

/// The host that a node registers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeHost {
    /// The one that `NODE_HOST` names.
    Named(String),
    /// Redis is on this machine, and so are routers.
    ThisMachine,
    /// The address from which this machine reaches Redis, or the one that the server listens on.
    Guessed(IpAddr),
    /// No address: the name of the Redis server is unknown at the moment, and this machine has no other network.
    Unknown,
    /// Redis is reached over the network, but the server listens on this machine's loopback address only.
    Unreachable,
}

impl NodeHost {
    /// The host for the record; `None`: the node must not register.
    pub fn text(&self) -> Option<String> {
        match self {
            Self::Named(host) => Some(host.clone()),
            Self::ThisMachine | Self::Unknown => Some("localhost".to_owned()),
            Self::Guessed(IpAddr::V6(address)) => Some(format!("[{address}]")),
            Self::Guessed(address) => Some(address.to_string()),
            Self::Unreachable => None,
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
    let local = match Servers::of(url) {
        Ok(servers) => local_address(&servers).await,
        Err(_) => None,
    };
    match local {
        Some(address) if address.is_loopback() => NodeHost::ThisMachine,
        Some(_) if listens_on.is_loopback() => NodeHost::Unreachable,
        Some(address) => NodeHost::Guessed(address),
        None => NodeHost::Unknown,
    }
}

/// The address from which this machine reaches the first server that it can name; for a socket in the file system, the
/// loopback address.
async fn local_address(servers: &Servers) -> Option<IpAddr> {
    for address in servers.addresses() {
        let (host, port) = match address {
            ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => {
                (host.as_str(), *port)
            }
            _ => return Some(Ipv4Addr::LOCALHOST.into()),
        };
        let found = timeout(LOOK_UP_LIMIT, lookup_host((host, port))).await;
        let found = found.ok().and_then(Result::ok).into_iter().flatten();
        for remote in found {
            if let Some(local) = way_to(remote).await {
                return Some(local);
            }
        }
    }
    way_to(ELSEWHERE).await
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
        if way_to(ELSEWHERE).await.is_none() {
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
}
