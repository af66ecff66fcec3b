//! The client's address behind proxies. Any client can send `X-Forwarded-For`, so only entries that trusted
//! proxies added count.

use std::net::{IpAddr, SocketAddr};

use actix_web::http::header::{HeaderMap, X_FORWARDED_FOR};
use ipnet::IpNet;

/// The address of the client. Each proxy appends its peer's address: from the right, the first address
/// that is not a trusted proxy is the client's. Entries to the left of it may be forged.
pub fn client_address(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let is_trusted = |address: IpAddr| trusted.iter().any(|net| net.contains(&address));
    let mut client = peer.to_canonical();
    let lines = headers.get_all(X_FORWARDED_FOR);
    let mut lines: Vec<&str> = lines.map(|line| line.to_str().unwrap_or("?")).collect();
    while is_trusted(client) {
        let Some(line) = lines.pop() else { break };
        let (rest, last) = match line.rsplit_once(',') {
            Some((rest, last)) => (Some(rest), last),
            None => (None, line),
        };
        lines.extend(rest);
        // The entry cannot be parsed: count the request under the proxy's own address.
        let Some(address) = parse(last) else { break };
        client = address;
    }
    client
}

/// Parses an address as proxies write it: alone, with a port, or in brackets.
fn parse(text: &str) -> Option<IpAddr> {
    let text = text.trim().trim_matches('"');
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    let address = bare.parse::<IpAddr>().ok();
    let address = address.or_else(|| Some(text.parse::<SocketAddr>().ok()?.ip()));
    address.map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::HeaderValue;

    use super::*;

    fn client(peer: &str, lines: &[&str]) -> String {
        let trusted = ["10.0.0.0/8", "2001:db8::/32"].map(|net| net.parse().expect("a network"));
        let mut headers = HeaderMap::new();
        for line in lines {
            let value = HeaderValue::from_str(line).expect("a value");
            headers.append(X_FORWARDED_FOR, value);
        }
        client_address(peer.parse().expect("an address"), &headers, &trusted).to_string()
    }

    #[test]
    fn only_entries_of_trusted_proxies_count() {
        for (peer, lines, expected) in [
            // A peer that is not trusted cannot claim another address.
            ("192.0.2.9", &["198.51.100.1"][..], "192.0.2.9"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &["198.51.100.1"], "198.51.100.1"),
            ("10.0.0.1", &["1.1.1.1, 198.51.100.1"], "198.51.100.1"),
            (
                "10.0.0.1",
                &["1.1.1.1, 198.51.100.1,10.0.0.2"],
                "198.51.100.1",
            ),
            (
                "10.0.0.1",
                &["1.1.1.1", "198.51.100.1", "10.0.0.2 "],
                "198.51.100.1",
            ),
            ("10.0.0.1", &["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
            ("10.0.0.1", &["198.51.100.1:4711"], "198.51.100.1"),
            ("10.0.0.1", &["[2001:db9::1]:80"], "2001:db9::1"),
            ("10.0.0.1", &["\"[2001:db9::1]\""], "2001:db9::1"),
            ("2001:db8::1", &["::ffff:198.51.100.1"], "198.51.100.1"),
            ("::ffff:10.0.0.1", &["198.51.100.1"], "198.51.100.1"),
            ("10.0.0.1", &["198.51.100.1, unknown"], "10.0.0.1"),
            ("10.0.0.1", &["198.51.100.1, unknown, 10.0.0.2"], "10.0.0.2"),
            ("10.0.0.1", &["", ","], "10.0.0.1"),
        ] {
            assert_eq!(client(peer, lines), expected, "{peer} {lines:?}");
        }
    }
}
