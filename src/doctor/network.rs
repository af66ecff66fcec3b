//! The address and port to listen on, and the address that the node registers.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use reqwest::Url;
use serde::Deserialize;
use tokio::net::lookup_host;
use tokio::time::timeout;

use super::finding::Finding;
use super::http::{self, LIMIT, Trust};
use super::machine::Machine;
use super::settings::{is_own_address, names_this_machine};
use crate::redis::reach::{self, NodeHost};
use crate::settings::{Settings, WyomingAddress};
use crate::wyoming::Sockets;

const CHECK: &str = "port";

/// The finding about the port, and whether this server runs there already.
pub(super) struct Port {
    pub(super) finding: Finding,
    pub(super) is_served: bool,
}

/// The fields of `/health` that tell this server from others.
#[derive(Deserialize)]
struct Health {
    version: String,
    model: String,
    #[serde(rename = "smart_routing")]
    _smart_routing: serde_json::Value,
}

/// Tries to bind the port; if it is taken, asks who has it.
pub(super) async fn port(settings: &Settings) -> Port {
    let (host, port) = (settings.host, settings.port);
    let why = "the server does not start";
    let finding = match TcpListener::bind((host, port)) {
        Ok(_) if port == 0 => Finding::ok(CHECK, "PORT=0: the system chooses a free one"),
        Ok(_) => Finding::ok(CHECK, format!("{host}:{port} is free")),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            let own = reachable(host).to_string();
            if let Some(health) = health(settings, &own, port).await {
                let Health { version, model, .. } = health;
                let what = format!("uttera-stt {version} serves on {host}:{port}, model {model}");
                return Port {
                    finding: Finding::ok(CHECK, what),
                    is_served: true,
                };
            }
            let what = format!("another program listens on {host}:{port}");
            Finding::error(CHECK, what, why).mended_by(format!(
                "another PORT, or end that program: sudo ss -ltnp 'sport = :{port}' shows it"
            ))
        }
        Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {
            let what = format!("HOST={host} is not an address of this machine");
            Finding::error(CHECK, what, why)
                .mended_by("HOST=0.0.0.0, or an address that ip -brief address shows")
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let what = format!("this user may not listen on port {port}");
            Finding::error(CHECK, what, why).mended_by("a PORT from 1024 on")
        }
        Err(error) => Finding::error(CHECK, format!("{host}:{port}: {error}"), why),
    };
    Port {
        finding,
        is_served: false,
    }
}

/// Tries to bind the TCP ports of Wyoming. `None` without such a port, or if the running server holds them.
pub(super) fn wyoming(settings: &Settings, is_served: bool) -> Option<Finding> {
    const CHECK: &str = "wyoming";
    let mut settings = settings.clone();
    // To try a unix socket would leave or replace a file.
    (settings.wyoming.addresses).retain(|address| matches!(address, WyomingAddress::Tcp(_)));
    if is_served || !settings.wyoming.is_on() {
        return None;
    }
    Some(match Sockets::bind(&settings) {
        Ok(_) => Finding::ok(CHECK, "the ports for Wyoming are free"),
        Err(error) => Finding::error(CHECK, format!("{error:#}"), "the server does not start")
            .mended_by("another WYOMING_PORT or WYOMING_URI, or end the program that listens there: sudo ss -ltnp"),
    })
}

/// The address under which this machine reaches a server that listens on `host`.
fn reachable(host: IpAddr) -> IpAddr {
    match host {
        IpAddr::V4(address) if address.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(address) if address.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        other => other,
    }
}

async fn health(settings: &Settings, host: &str, port: u16) -> Option<Health> {
    let scheme = if settings.tls.is_on() {
        "https"
    } else {
        "http"
    };
    let is_ipv6 = host
        .parse::<IpAddr>()
        .is_ok_and(|address| address.is_ipv6());
    let url = if is_ipv6 {
        format!("{scheme}://[{host}]:{port}/health")
    } else {
        format!("{scheme}://{host}:{port}/health")
    };
    let reply = http::get(Url::parse(&url).ok()?, None, &Trust::Anyone)
        .await
        .ok()?;
    serde_json::from_slice(&reply.body).ok()
}

/// A server in a container that only the container itself reaches.
pub(super) fn container(machine: &Machine, settings: &Settings) -> Option<Finding> {
    (machine.is_container() && settings.host.is_loopback()).then(|| {
        let what = format!("HOST={} inside a container", settings.host);
        Finding::note("container", what)
            .because("published ports do not reach the server, unless the container has the network of its host")
            .mended_by("HOST=0.0.0.0")
    })
}

/// Whether routers reach the address that the node registers in Redis. `None` without Redis, or if the settings show
/// the problem already.
pub(super) async fn node_host(settings: &Settings, is_served: bool) -> Option<Finding> {
    const CHECK: &str = "node-host";
    let url = settings.redis_url.as_ref()?;
    let port = settings.node_port.unwrap_or(settings.port);
    let fix = "set NODE_HOST to the name or address by which routers reach this machine";
    let found = reach::node_host(url, settings.node_host.as_deref(), settings.host).await;
    if found == NodeHost::Unknown {
        let what = format!(
            "no address of this machine is one that routers could use and that HOST={} includes",
            settings.host
        );
        let why = "the node does not register itself";
        return Some(Finding::warning(CHECK, what, why).mended_by(fix));
    }
    let Some(host) = found.text() else {
        let what = format!(
            "Redis is reached over the network, but the server listens on HOST={} only",
            settings.host
        );
        let why = "the node does not register itself, because no router could reach it";
        return Some(Finding::warning(CHECK, what, why).mended_by(
            "HOST=0.0.0.0, and API_KEYS; or NODE_HOST, if a proxy on this machine passes requests on",
        ));
    };
    match found {
        NodeHost::ThisMachine if !settings.host.is_loopback() => {
            let what = format!(
                "Redis is on this machine, and HOST={} is open to the network",
                settings.host
            );
            let why = "the node registers localhost in Redis, and a router on another machine that connects to localhost \
                       reaches itself";
            return Some(Finding::warning(CHECK, what, why).mended_by(fix));
        }
        NodeHost::ThisMachine => {
            let what = format!("routers on this machine are given {host}:{port}");
            return Some(Finding::ok(CHECK, what));
        }
        NodeHost::Named(_) | NodeHost::Guessed(_) | NodeHost::Unknown | NodeHost::Unreachable => {}
    }
    let host = host.trim_matches(['[', ']']);
    if names_this_machine(host) {
        return None;
    }
    if settings.host.is_loopback() {
        let what = format!(
            "NODE_HOST={host}, but the server listens on HOST={} only",
            settings.host
        );
        let why = "routers on other machines cannot connect, unless a proxy on this machine passes requests on";
        return Some(Finding::warning(CHECK, what, why).mended_by("HOST=0.0.0.0, and API_KEYS"));
    }
    let addresses = match addresses_of(host).await {
        Ok(addresses) => addresses,
        Err(problem) => {
            let what = format!("NODE_HOST={host}: {problem}");
            let why = "routers read this name in Redis and cannot connect to it";
            return Some(Finding::warning(CHECK, what, why).mended_by(fix));
        }
    };
    // A server that admits chosen clients only may refuse this machine under that address.
    let may_ask = is_served && !settings.admits_chosen_clients_only();
    if may_ask && health(settings, host, port).await.is_none() {
        let what = format!("the server runs, but not under {host}:{port} (NODE_HOST, NODE_PORT)");
        let why = "routers read this address in Redis";
        return Some(Finding::warning(CHECK, what, why).mended_by(fix));
    }
    let what = format!("routers are given {host}:{port}");
    Some(if addresses.iter().all(IpAddr::is_loopback) {
        Finding::note(CHECK, what)
            .because("on this machine, the name means the machine itself; it must mean this machine elsewhere, too")
            .mended_by(fix)
    } else if !addresses.iter().copied().any(is_own_address) {
        Finding::note(CHECK, what)
            .because("no interface of this machine has the address; a proxy or a router must pass requests on")
    } else {
        Finding::ok(CHECK, what)
    })
}

async fn addresses_of(host: &str) -> Result<Vec<IpAddr>, String> {
    match timeout(LIMIT, lookup_host((host, 0))).await {
        Ok(Ok(found)) => {
            let found: Vec<IpAddr> = found.map(|address: SocketAddr| address.ip()).collect();
            if found.is_empty() {
                return Err("the name has no address".to_owned());
            }
            Ok(found)
        }
        Ok(Err(error)) => Err(format!("this machine cannot resolve the name: {error}")),
        Err(_) => Err("the name server does not answer".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Severity;
    use super::super::machine::MadeUp;
    use super::*;
    use crate::settings::Secret;

    fn settings(host: &str, port: u16) -> Settings {
        let mut settings = Settings::default();
        settings.host = host.parse().expect("an address");
        settings.port = port;
        settings
    }

    #[tokio::test]
    async fn a_free_port_is_fine_and_a_taken_or_foreign_one_is_an_error() {
        let free = port(&settings("127.0.0.1", 0)).await;
        assert_eq!(free.finding.severity, Severity::Ok);
        let held = TcpListener::bind("127.0.0.1:0").expect("binds");
        let number = held.local_addr().expect("bound").port();
        // It closes each connection without an answer.
        std::thread::spawn(move || held.incoming().for_each(drop));
        let taken = port(&settings("127.0.0.1", number)).await;
        assert_eq!(taken.finding.severity, Severity::Error);
        assert!(!taken.is_served && taken.finding.what.contains("another program"));
        // An address of the documentation, which no machine has.
        let foreign = port(&settings("192.0.2.7", 9005)).await;
        assert_eq!(foreign.finding.severity, Severity::Error);
        assert!(foreign.finding.what.contains("not an address"));
    }

    #[test]
    fn a_taken_port_of_wyoming_is_an_error_unless_the_server_itself_has_it() {
        assert_eq!(wyoming(&settings("127.0.0.1", 0), false), None);
        let held = TcpListener::bind("127.0.0.1:0").expect("binds");
        let mut taken = settings("127.0.0.1", 0);
        taken.wyoming.port = Some(held.local_addr().expect("bound").port());
        let finding = wyoming(&taken, false).expect("a finding");
        assert_eq!(finding.severity, Severity::Error);
        assert!(finding.what.contains("WYOMING_PORT"), "{}", finding.what);
        assert_eq!(wyoming(&taken, true), None);
        let mut free = settings("127.0.0.1", 0);
        free.wyoming.addresses = vec![WyomingAddress::Tcp("127.0.0.1:0".to_owned())];
        let finding = wyoming(&free, false).expect("a finding");
        assert_eq!(finding.severity, Severity::Ok);
    }

    #[tokio::test]
    async fn the_registered_address_is_compared_with_the_one_to_listen_on() {
        let severity = async |host: &str, registered: &str| {
            let mut settings = settings(host, 9005);
            settings.redis_url = Some(Secret::from("redis://192.0.2.7"));
            settings.node_host = Some(registered.to_owned());
            let finding = node_host(&settings, false).await;
            finding.map(|finding| finding.severity)
        };
        assert_eq!(severity("0.0.0.0", "localhost").await, None);
        let behind_a_proxy = severity("127.0.0.1", "192.0.2.8").await;
        assert_eq!(behind_a_proxy, Some(Severity::Warning));
        let not_ours = severity("0.0.0.0", "192.0.2.8").await;
        assert_eq!(not_ours, Some(Severity::Note));
        let unknown = severity("0.0.0.0", "no such name").await;
        assert_eq!(unknown, Some(Severity::Warning));
        assert_eq!(node_host(&settings("0.0.0.0", 9005), false).await, None);
    }

    #[test]
    fn a_container_that_only_itself_reaches_is_worth_a_note() {
        let container = MadeUp::new(&[("/.dockerenv", "")]);
        let finding = super::container(&container.machine(), &settings("127.0.0.1", 1));
        assert!(finding.is_some());
        let finding = super::container(&container.machine(), &settings("0.0.0.0", 1));
        assert_eq!(finding, None);
        let plain = MadeUp::new(&[]);
        let finding = super::container(&plain.machine(), &settings("127.0.0.1", 1));
        assert_eq!(finding, None);
    }
}
