//! Which callbacks are sent, and how they are signed.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hmac::{Hmac, KeyInit, Mac};
use reqwest::Url;
use sha2::Sha256;
use thiserror::Error;

use crate::settings::Secret;

/// The longest URL.
const MAX_URL_BYTES: usize = 2048;

/// Why a callback is not accepted, or not sent.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum Refused {
    /// No secret is configured.
    #[error("this server sends no callbacks: JOB_CALLBACK_SECRET is not set")]
    NoSecret,
    /// It is no URL for a callback.
    #[error(
        "callback_url must be an http or https URL with a host, without a user name, of at most 2048 bytes"
    )]
    Url,
    /// Its host has an address that is not public.
    #[error("callbacks do not go to {0}, which is no public address (JOB_CALLBACK_HOSTS)")]
    Address(String),
}

/// Which callbacks are sent, and how they are signed.
#[derive(Clone, Debug)]
pub struct CallbackPolicy {
    /// Signs the callbacks.
    pub secret: Option<Secret>,
    /// Hosts that callbacks may go to whatever their address is, in lower case.
    pub hosts: Vec<String>,
}

impl CallbackPolicy {
    /// Checks a URL when a job is submitted. The address of a name is checked when the callback is sent.
    ///
    /// # Errors
    /// The reason, for the client.
    pub fn check(&self, text: &str) -> Result<Url, Refused> {
        if self.secret.is_none() {
            return Err(Refused::NoSecret);
        }
        let url = Url::parse(text).map_err(|_| Refused::Url)?;
        let is_http = matches!(url.scheme(), "http" | "https");
        let has_user = !url.username().is_empty() || url.password().is_some();
        let host = url
            .host_str()
            .filter(|_| is_http && !has_user && text.len() <= MAX_URL_BYTES);
        let host = host.ok_or(Refused::Url)?;
        if let Ok(address) = host.trim_matches(['[', ']']).parse() {
            self.check_address(host, address)?;
        }
        Ok(url)
    }

    pub(super) fn check_address(&self, host: &str, address: IpAddr) -> Result<(), Refused> {
        let listed = self.hosts.iter().any(|listed| listed == host);
        if listed || is_public(address) {
            Ok(())
        } else {
            Err(Refused::Address(host.to_owned()))
        }
    }

    /// The signature of a body at a time in Unix seconds, as the header has it.
    pub(super) fn signature(&self, at: u64, body: &str) -> Option<String> {
        let secret = self.secret.as_ref()?;
        let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).ok()?;
        mac.update(format!("{at}.{body}").as_bytes());
        let digest = mac.finalize().into_bytes();
        let hex = digest.iter().fold(String::new(), |mut hex, byte| {
            // Writing to a string cannot fail.
            let _ = write!(hex, "{byte:02x}");
            hex
        });
        Some(format!("t={at},v1={hex}"))
    }
}

/// Whether an address belongs to a host in the public internet.
fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    !(address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_broadcast()
        || address.is_documentation()
        // "This network", addresses of providers' translators, protocol assignments, benchmarks, reserved.
        || a == 0
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        || (a == 192 && b == 88 && c == 99)
        || (a == 198 && (18..20).contains(&b))
        || a >= 240)
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let [first, second, third, ..] = address.segments();
    // Global unicast is 2000::/3. Of that, these lead to IPv4 addresses or to nowhere.
    (0x2000..0x4000).contains(&first)
        && first != 0x2002
        && !(first == 0x2001 && (second == 0 || second == 0xdb8 || (second == 2 && third == 0)))
        && !(first == 0x3fff && second < 0x1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(hosts: &[&str]) -> CallbackPolicy {
        CallbackPolicy {
            secret: Some(Secret::from("0123456789abcdef")),
            hosts: hosts.iter().map(|&host| host.to_owned()).collect(),
        }
    }

    #[test]
    fn only_public_addresses_may_be_called() {
        for public in ["9.9.9.9", "172.32.0.1", "2620:fe::fe", "64.233.160.1"] {
            assert!(is_public(public.parse().expect("an address")), "{public}");
        }
        for private in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "192.0.0.1",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "240.0.0.1",
            "::1",
            "::",
            "fe80::1",
            "fc00::1",
            "::ffff:127.0.0.1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "2001:db8::1",
            "2001::1",
            "ff02::1",
        ] {
            assert!(
                !is_public(private.parse().expect("an address")),
                "{private}"
            );
        }
    }

    #[test]
    fn a_url_is_checked_and_listed_hosts_may_have_any_address() {
        let open = policy(&[]);
        assert!(open.check("https://example.com/hook?job=1").is_ok());
        for wrong in [
            "ftp://example.com",
            "example.com",
            "http://user@example.com/",
            "http://user:pass@example.com/",
            "file:///etc/passwd",
        ] {
            assert_eq!(open.check(wrong), Err(Refused::Url), "{wrong}");
        }
        for private in [
            "http://127.0.0.1/",
            "http://[::1]:80/",
            "http://2130706433/",
            "http://0x7f.1/",
        ] {
            assert!(
                matches!(open.check(private), Err(Refused::Address(_))),
                "{private}"
            );
        }
        assert!(
            policy(&["127.0.0.1"])
                .check("http://127.0.0.1:8080/")
                .is_ok()
        );
        let without = CallbackPolicy {
            secret: None,
            hosts: Vec::new(),
        };
        assert_eq!(
            without.check("https://example.com/"),
            Err(Refused::NoSecret)
        );
    }

    #[test]
    fn a_signature_is_an_hmac_of_time_and_body() {
        // As `printf '1700000000.{}' | openssl dgst -sha256 -hmac 0123456789abcdef` prints it.
        let signature = policy(&[])
            .signature(1_700_000_000, "{}")
            .expect("a secret");
        let hmac = "e4f8e2ecae2295b2ddb2f0b5584c8275e226c0ebe9b3b819e70156bb67122e3e";
        assert_eq!(signature, format!("t=1700000000,v1={hmac}"));
    }
}
