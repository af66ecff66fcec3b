//! Parsers for values: each stores its value in the settings or returns a text that says what is
//! allowed.

use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;
use reqwest::Url;

use super::{Device, Origins, Settings, WyomingAddress};

/// Bytes in a megabyte (MiB), as `MAX_UPLOAD_MB` counts it.
pub const MEGABYTE: u64 = 1024 * 1024;

/// Parses a number within inclusive bounds; `what` describes the allowed range.
pub fn number<T: FromStr + PartialOrd + Copy>(
    value: &str,
    least: T,
    most: T,
    what: &str,
) -> Result<T, String> {
    let parsed = value.parse::<T>().ok();
    parsed
        .filter(|number| *number >= least && *number <= most)
        .ok_or_else(|| format!("expected {what}"))
}

pub fn seconds(value: &str) -> Result<Duration, String> {
    let what = "a number of seconds from 0 to 1000000";
    number(value, 0.0, 1_000_000.0, what).map(Duration::from_secs_f64)
}

pub fn positive_seconds(value: &str) -> Result<Duration, String> {
    let what = "a number of seconds from 0.001 to 1000000";
    number(value, 0.001, 1_000_000.0, what).map(Duration::from_secs_f64)
}

pub fn flag(value: &str) -> Result<bool, String> {
    match value.to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" => Ok(true),
        "0" | "false" | "no" | "off" => Ok(false),
        _ => Err("expected 1, true, yes, on or 0, false, no, off".to_owned()),
    }
}

/// Parses a server's base URL. The error never repeats the URL, which may contain a password.
pub fn base_url(value: &str) -> Result<Url, String> {
    let expected = "expected a URL such as http://host:5000";
    let url = Url::parse(value).map_err(|_| expected.to_owned())?;
    let is_base = matches!(url.scheme(), "http" | "https")
        && url.has_host()
        && url.query().is_none()
        && url.fragment().is_none();
    is_base.then_some(url).ok_or_else(|| expected.to_owned())
}

pub fn threads(settings: &mut Settings, value: &str) -> Result<(), String> {
    settings.whisper_threads = Some(number(value, 1, 256, "a number of threads from 1 to 256")?);
    Ok(())
}

/// Accepts any value; other code reads it.
#[expect(
    clippy::unnecessary_wraps,
    reason = "the signature of `Variable::read`"
)]
pub fn any(_: &mut Settings, _: &str) -> Result<(), String> {
    Ok(())
}

/// Accepts what the Redis client accepts. The error never repeats the URL, which may contain a
/// password.
pub fn redis_url(settings: &mut Settings, value: &str) -> Result<(), String> {
    crate::redis::check_url(value)
        .map_err(|reason| format!("{reason}; expected a URL such as redis://host:6379/0"))?;
    settings.redis_url = Some(value.into());
    Ok(())
}

/// A bucket, and a folder in it: `s3://bucket/folder`.
pub fn audio_url(settings: &mut Settings, value: &str) -> Result<(), String> {
    let expected = || "expected s3://bucket or s3://bucket/folder".to_owned();
    let place = value.strip_prefix("s3://").ok_or_else(expected)?;
    let (bucket, folder) = place.split_once('/').unwrap_or((place, ""));
    let is_name = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    if bucket.is_empty() || !bucket.chars().all(is_name) || folder.contains(['?', '#']) {
        return Err(expected());
    }
    bucket.clone_into(&mut settings.jobs.s3.bucket);
    folder
        .trim_matches('/')
        .clone_into(&mut settings.jobs.s3.prefix);
    Ok(())
}

/// Parses the name of a node, which becomes a part of a key in Redis and the value of a header.
pub fn node_id(settings: &mut Settings, value: &str) -> Result<(), String> {
    const MAX_BYTES: usize = 200;
    let is_printable = |byte: u8| byte == b' ' || byte.is_ascii_graphic();
    if value.len() > MAX_BYTES || !value.bytes().all(is_printable) {
        return Err(format!(
            "expected at most {MAX_BYTES} printable characters of ASCII, such as kitchen or node-1"
        ));
    }
    settings.node_id = Some(value.to_owned());
    Ok(())
}

/// Parses the host that a node registers. An IPv6 address is stored in brackets, as routers read it.
pub fn node_host(settings: &mut Settings, value: &str) -> Result<(), String> {
    let bare = (value.strip_prefix('[')).and_then(|rest| rest.strip_suffix(']'));
    let host = match (bare.unwrap_or(value).parse::<IpAddr>(), bare) {
        (Ok(IpAddr::V6(address)), _) => format!("[{address}]"),
        (Ok(IpAddr::V4(address)), None) => address.to_string(),
        (Err(_), None) if is_host_name(value) => value.to_owned(),
        _ => {
            return Err(
                "expected a host name or an IP address without a port (that is NODE_PORT), such as stt-1.example or \
                 10.0.0.5"
                    .to_owned(),
            );
        }
    };
    settings.node_host = Some(host);
    Ok(())
}

/// Whether a text is a name for DNS; underscores are common in names of containers. A name that ends with a number would
/// be read as an address.
fn is_host_name(text: &str) -> bool {
    const MAX_BYTES: usize = 253;
    const MAX_LABEL_BYTES: usize = 63;
    let is_label = |label: &str| {
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        (1..=MAX_LABEL_BYTES).contains(&label.len())
            && label.bytes().all(is_allowed)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let last = text.rsplit('.').next().unwrap_or_default();
    text.len() <= MAX_BYTES
        && text.split('.').all(is_label)
        && !last.bytes().all(|byte| byte.is_ascii_digit())
}

pub fn libretranslate_url(settings: &mut Settings, value: &str) -> Result<(), String> {
    settings.libretranslate_url = Some(base_url(value)?);
    Ok(())
}

/// Parses comma-separated origins, or `*` alone.
pub fn origins(settings: &mut Settings, value: &str) -> Result<(), String> {
    settings.cors_allow_origins = if value == "*" {
        Origins::Any
    } else {
        let texts = value
            .split(',')
            .map(str::trim)
            .filter(|text| !text.is_empty());
        Origins::These(texts.map(origin).collect::<Result<_, _>>()?)
    };
    Ok(())
}

/// Normalises an origin to the form that browsers send: lower case, without the scheme's default port
/// and without a path.
fn origin(text: &str) -> Result<String, String> {
    let expected = || {
        format!(
            "expected * alone, or comma-separated origins such as https://example.org, not {text:?}"
        )
    };
    let url = Url::parse(text).map_err(|_| expected())?;
    let is_bare = url.has_host()
        && matches!(url.path(), "" | "/")
        && url.query().is_none()
        && url.fragment().is_none()
        && url.username().is_empty()
        && url.password().is_none();
    if !is_bare {
        return Err(expected());
    }
    let origin = url.origin();
    if origin.is_tuple() {
        return Ok(origin.ascii_serialization());
    }
    // Apps and extensions have non-standard schemes (`capacitor://localhost`).
    Ok(text.trim_end_matches('/').to_ascii_lowercase())
}

/// Parses the addresses and networks of proxies.
pub fn proxies(settings: &mut Settings, value: &str) -> Result<(), String> {
    settings.trusted_proxies = networks(value)?;
    Ok(())
}

/// Parses the addresses and networks of clients. A list without one is no list: it would admit everybody.
pub fn allowed_networks(settings: &mut Settings, value: &str) -> Result<(), String> {
    settings.allowed_networks = networks(value)?;
    if settings.allowed_networks.is_empty() {
        return Err("expected at least one address or network".to_owned());
    }
    Ok(())
}

/// Parses comma-separated addresses and networks.
fn networks(value: &str) -> Result<Vec<IpNet>, String> {
    let texts = value
        .split(',')
        .map(str::trim)
        .filter(|text| !text.is_empty());
    texts.map(network).collect()
}

fn network(text: &str) -> Result<IpNet, String> {
    let address = text.parse::<IpAddr>().map(IpNet::from);
    let network = address.or_else(|_| text.parse::<IpNet>()).map_err(|_| {
        format!("expected comma-separated addresses or networks such as 10.0.0.0/8, not {text:?}")
    })?;
    Ok(canonical(network))
}

/// Turns an IPv4-mapped IPv6 network into an IPv4 network, so that it matches IPv4 addresses.
fn canonical(network: IpNet) -> IpNet {
    const BITS_BEFORE: u8 = 96;
    match (network.addr().to_canonical(), network.prefix_len()) {
        (address @ IpAddr::V4(_), length @ BITS_BEFORE..) if network.addr().is_ipv6() => {
            IpNet::new(address, length - BITS_BEFORE).unwrap_or(network)
        }
        _ => network,
    }
}

/// Parses comma-separated addresses of Wyoming's servers.
pub fn wyoming_uri(settings: &mut Settings, value: &str) -> Result<(), String> {
    let texts = value
        .split(',')
        .map(str::trim)
        .filter(|text| !text.is_empty());
    settings.wyoming.addresses = texts.map(wyoming_address).collect::<Result<_, _>>()?;
    Ok(())
}

fn wyoming_address(text: &str) -> Result<WyomingAddress, String> {
    if let Some(path) = text.strip_prefix("unix://").filter(|p| p.starts_with('/')) {
        return Ok(WyomingAddress::Unix(path.into()));
    }
    let tcp = || {
        let address = text.strip_prefix("tcp://")?.trim_end_matches('/');
        let (host, port) = address.rsplit_once(':')?;
        let is_one_host = !host.contains(['/', '@', ':']) || host.starts_with('[');
        let is_valid = !host.is_empty() && is_one_host && port.parse::<u16>().is_ok();
        is_valid.then(|| WyomingAddress::Tcp(address.to_owned()))
    };
    tcp().ok_or_else(|| {
        format!(
            "expected comma-separated addresses such as tcp://0.0.0.0:10300 or unix:///run/stt.sock, not {text:?}"
        )
    })
}

/// Parses a name for DNS: one label, with any characters.
pub fn wyoming_name(settings: &mut Settings, value: &str) -> Result<(), String> {
    const MAX_LABEL_BYTES: usize = 63;
    if value.len() > MAX_LABEL_BYTES
        || value.contains(['.', '\\'])
        || value.contains(char::is_control)
    {
        return Err("expected a name of at most 63 bytes without dots".to_owned());
    }
    settings.wyoming.name = Some(value.to_owned());
    Ok(())
}

pub fn device(settings: &mut Settings, value: &str) -> Result<(), String> {
    settings.device = match value {
        "auto" => Device::Auto,
        "cpu" => Device::Cpu,
        "cuda" => Device::Cuda,
        "vulkan" => Device::Vulkan,
        _ => return Err("expected auto, cpu, cuda or vulkan".to_owned()),
    };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_wyoming_are_tcp_or_unix() {
        let mut settings = Settings::default();
        let good = "tcp://0.0.0.0:10300, tcp://[::1]:10301/,unix:///run/stt.sock";
        wyoming_uri(&mut settings, good).expect("valid");
        let tcp = |text: &str| WyomingAddress::Tcp(text.to_owned());
        let unix = WyomingAddress::Unix("/run/stt.sock".into());
        assert_eq!(
            settings.wyoming.addresses,
            [tcp("0.0.0.0:10300"), tcp("[::1]:10301"), unix]
        );
        for bad in [
            "stdio://",
            "0.0.0.0:10300",
            "tcp://0.0.0.0",
            "tcp://:10300",
            "tcp://::1:70000",
            "unix://relative",
            "http://x:1",
        ] {
            let error = wyoming_uri(&mut settings, bad).expect_err(bad);
            assert!(error.contains(bad), "{error}");
        }
    }

    #[test]
    fn a_name_is_one_label() {
        let mut settings = Settings::default();
        assert_eq!(wyoming_name(&mut settings, "Speech to text"), Ok(()));
        for bad in ["a.b", "a\nb", &"x".repeat(64)] {
            assert!(wyoming_name(&mut settings, bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn only_base_urls_are_accepted_and_errors_never_repeat_them() {
        for good in ["http://localhost:5000", "https://u:p@example.org/base/"] {
            assert!(base_url(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "hunter2",
            "ftp://hunter2",
            "http://",
            "http://x/?key=hunter2",
            "http://x#hunter2",
        ] {
            let error = base_url(bad).expect_err(bad);
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
