//! `uttera-stt healthcheck`: whether a server on this machine can transcribe now.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use uttera_stt_tools::probe::client::{client, client_for_this_machine};
use uttera_stt_tools::probe::server::Server;

use crate::settings::{Role, Settings};

/// Arguments of `healthcheck`.
#[derive(Debug, Args)]
pub struct HealthcheckArgs {
    /// Address of the server (default: this machine, at HOST and PORT of the settings).
    #[arg(long, value_parser = uttera_stt_tools::probe::server::address)]
    pub url: Option<String>,
    /// Role of the node; it sets the default port and settings file.
    #[arg(long, value_enum, default_value_t)]
    pub role: Role,
    /// Seconds to wait for the answer.
    #[arg(long, default_value_t = 4)]
    limit_seconds: u64,
}

/// Asks `/readyz`. Exit status 0: the server can transcribe now; 1: it cannot, or does not answer. The server is that of
/// `settings` unless the arguments name one.
pub async fn healthcheck(
    args: &HealthcheckArgs,
    settings: Option<&Settings>,
) -> anyhow::Result<ExitCode> {
    let own = settings.map(|own| own_url(own.tls.is_on(), own.host, own.port));
    let server = match (&args.url, own) {
        (None, Some(own)) => Server::with_client(client_for_this_machine()?, own, None),
        (named, _) => {
            let named = named.clone().unwrap_or_default();
            Server::with_client(client()?, named, None)
        }
    };
    let limit = Duration::from_secs(args.limit_seconds);
    let answer = tokio::time::timeout(limit, server.send(server.get("/readyz"))).await;
    let reason = match answer {
        Ok(Ok(reply)) if reply.status == 200 => {
            println!("ready");
            return Ok(ExitCode::SUCCESS);
        }
        Ok(Ok(reply)) => format!("status {}: {}", reply.status, reply.beginning()),
        Ok(Err(error)) => format!("{error:#}"),
        Err(_elapsed) => format!("no answer within {} s", args.limit_seconds),
    };
    println!("not ready: {} {reason}", server.shown_url());
    Ok(ExitCode::FAILURE)
}

/// The URL of a server of this machine that listens on this address.
fn own_url(is_https: bool, host: IpAddr, port: u16) -> String {
    let host = match host {
        IpAddr::V4(any) if any.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(any) if any.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        named => named,
    };
    let scheme = if is_https { "https" } else { "http" };
    format!("{scheme}://{}", SocketAddr::new(host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_on_all_addresses_is_asked_on_the_loopback_address() {
        let url = |host: &str| own_url(false, host.parse().expect("an address"), 9005);
        assert_eq!(url("0.0.0.0"), "http://127.0.0.1:9005");
        assert_eq!(url("::"), "http://[::1]:9005");
        assert_eq!(url("192.0.2.7"), "http://192.0.2.7:9005");
        let own = own_url(true, Ipv4Addr::UNSPECIFIED.into(), 9005);
        assert_eq!(own, "https://127.0.0.1:9005");
    }
}
