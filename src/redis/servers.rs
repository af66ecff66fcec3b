//! Where Redis is: one server, or the master that sentinels name.

use std::fmt::Write;

use deadpool_redis::redis::sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType};
use deadpool_redis::redis::{
    Client, ClientTlsConfig, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisResult,
    TlsCertificates, TlsMode, parse_redis_url,
};
use reqwest::Url;

use super::{RedisUrlError, unusable};

/// Schemes of URLs that name sentinels, with those of the servers behind them.
const SENTINEL_SCHEMES: [(&str, &str); 2] =
    [("redis+sentinel", "redis"), ("rediss+sentinel", "rediss")];
/// Port of a sentinel whose URL names none.
const SENTINEL_PORT: u16 = 26_379;
/// Most sentinels in a URL.
const MAX_SENTINELS: usize = 16;

/// Certificates for connections with TLS, in PEM format.
#[derive(Clone, Default)]
pub struct RedisPem {
    /// The only trusted authorities; `None`: those of the system, or of `SSL_CERT_FILE`.
    pub ca: Option<Vec<u8>>,
    /// The certificate that this node presents, with its chain, and its key.
    pub pair: Option<(Vec<u8>, Vec<u8>)>,
}

/// The servers of a URL.
pub(super) enum Servers {
    One(Box<ConnectionInfo>),
    Sentinels(Sentinels),
}

/// Sentinels, and how to log in to them and to the servers that they name.
pub(super) struct Sentinels {
    /// The address of each sentinel, and the login to the servers behind them.
    instances: Vec<ConnectionInfo>,
    /// The name that the sentinels have for the master.
    master: String,
    user: Option<String>,
    password: Option<String>,
}

impl Servers {
    /// Reads a URL.
    ///
    /// # Errors
    /// It is none of Redis.
    pub(super) fn of(url: &str) -> Result<Self, RedisUrlError> {
        let scheme = url.split_once("://");
        let of_sentinels = scheme.and_then(|(scheme, rest)| {
            let known = SENTINEL_SCHEMES.iter().find(|(name, _)| *name == scheme)?;
            Some((known.1, rest))
        });
        match of_sentinels {
            Some((scheme, rest)) => Sentinels::of(scheme, rest).map(Self::Sentinels),
            None => connection_info(url).map(|info| Self::One(Box::new(info))),
        }
    }

    /// The addresses that this machine connects to first.
    pub(super) fn addresses(&self) -> Vec<&ConnectionAddr> {
        match self {
            Self::One(info) => vec![info.addr()],
            Self::Sentinels(sentinels) => (sentinels.instances.iter())
                .map(ConnectionInfo::addr)
                .collect(),
        }
    }

    /// Host and port, the path of the socket, or the sentinels: for error messages.
    pub(super) fn name(&self) -> String {
        match self {
            Self::One(info) => info.addr().to_string(),
            Self::Sentinels(sentinels) => {
                let mut name = format!("the master {} of the sentinels", sentinels.master);
                for (place, address) in self.addresses().into_iter().enumerate() {
                    let comma = if place == 0 { "" } else { "," };
                    // Writing to a string cannot fail.
                    let _ = write!(name, "{comma} {address}");
                }
                name
            }
        }
    }
}

/// What opens connections.
pub(super) enum Opener {
    One(Box<Client>),
    Sentinels(Box<tokio::sync::Mutex<SentinelClient>>),
}

impl Opener {
    pub(super) fn new(servers: &Servers, pem: &RedisPem) -> RedisResult<Self> {
        match servers {
            Servers::One(info) => {
                let info = (**info).clone();
                let is_tls = matches!(info.addr(), ConnectionAddr::TcpTls { .. });
                let certificates = pem.certificates().filter(|_| is_tls);
                let client = match certificates {
                    Some(certificates) => Client::build_with_tls(info, certificates)?,
                    None => Client::open(info)?,
                };
                Ok(Self::One(Box::new(client)))
            }
            Servers::Sentinels(sentinels) => {
                let client = sentinels.client(pem)?;
                Ok(Self::Sentinels(Box::new(tokio::sync::Mutex::new(client))))
            }
        }
    }
}

impl RedisPem {
    fn certificates(&self) -> Option<TlsCertificates> {
        if self.ca.is_none() && self.pair.is_none() {
            return None;
        }
        let client = self.pair.clone();
        Some(TlsCertificates {
            client_tls: client.map(|(client_cert, client_key)| ClientTlsConfig {
                client_cert,
                client_key,
            }),
            root_cert: self.ca.clone(),
        })
    }
}

impl Sentinels {
    /// Reads what follows `redis+sentinel://`; `scheme` is that of the servers behind the sentinels.
    fn of(scheme: &str, rest: &str) -> Result<Self, RedisUrlError> {
        let missing = |what: &str| RedisUrlError::Unusable {
            reason: format!("{what} is missing"),
        };
        if rest.contains('#') {
            return Err(RedisUrlError::UnknownPart);
        }
        let (main, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = main.split_once('/').unwrap_or((main, ""));
        let (master, database) = path.split_once('/').unwrap_or((path, ""));
        if master.is_empty() {
            return Err(missing("the name of the master"));
        }
        let (login, hosts) = match authority.rsplit_once('@') {
            Some((login, hosts)) => (format!("{login}@"), hosts),
            None => (String::new(), authority),
        };
        let mut read = Self {
            instances: Vec::new(),
            master: master.to_owned(),
            user: None,
            password: None,
        };
        for host in hosts.split(',').filter(|host| !host.is_empty()) {
            let port = if has_port(host) {
                String::new()
            } else {
                format!(":{SENTINEL_PORT}")
            };
            let url = format!("{scheme}://{login}{host}{port}/{database}");
            read.instances.push(connection_info(&url)?);
        }
        if read.instances.is_empty() || read.instances.len() > MAX_SENTINELS {
            return Err(RedisUrlError::Unusable {
                reason: format!("it names no sentinel, or more than {MAX_SENTINELS}"),
            });
        }
        read.login(query)?;
        Ok(read)
    }

    /// Reads the login to the sentinels themselves.
    fn login(&mut self, query: &str) -> Result<(), RedisUrlError> {
        let Ok(parsed) = Url::parse(&format!("redis://sentinel/?{query}")) else {
            return Err(RedisUrlError::UnknownPart);
        };
        for (name, value) in parsed.query_pairs() {
            match &*name {
                "sentinel_user" => self.user = Some(value.into_owned()),
                "sentinel_password" => self.password = Some(value.into_owned()),
                _ => return Err(RedisUrlError::UnknownPart),
            }
        }
        Ok(())
    }

    fn client(&self, pem: &RedisPem) -> RedisResult<SentinelClient> {
        let addresses = self.instances.iter().map(|info| info.addr().clone());
        let master = SentinelServerType::Master;
        let mut builder = SentinelClientBuilder::new(addresses, &self.master, master)?;
        if let Some(login) = self.instances.first().map(ConnectionInfo::redis_settings) {
            builder = builder.set_client_to_redis_db(login.db());
            if let Some(user) = login.username() {
                builder = builder.set_client_to_redis_username(user);
            }
            if let Some(password) = login.password() {
                builder = builder.set_client_to_redis_password(password);
            }
        }
        if let Some(user) = &self.user {
            builder = builder.set_client_to_sentinel_username(user);
        }
        if let Some(password) = &self.password {
            builder = builder.set_client_to_sentinel_password(password);
        }
        let mut addresses = self.instances.iter().map(ConnectionInfo::addr);
        if addresses.any(|address| matches!(address, ConnectionAddr::TcpTls { .. })) {
            builder = builder.set_client_to_redis_tls_mode(TlsMode::Secure);
            if let Some(certificates) = pem.certificates() {
                builder = builder
                    .set_client_to_redis_certificates(certificates.clone())
                    .set_client_to_sentinel_certificates(certificates);
            }
        }
        builder.build()
    }
}

/// Whether a host has a port behind it. The address of an IPv6 host is in brackets.
fn has_port(host: &str) -> bool {
    host.rsplit_once(':')
        .is_some_and(|(_, port)| !port.ends_with(']'))
}

fn connection_info(url: &str) -> Result<ConnectionInfo, RedisUrlError> {
    if let Some(parsed) = parse_redis_url(url) {
        let known: &[&str] = match parsed.scheme() {
            "redis" | "rediss" | "valkey" | "valkeys" => &["protocol"],
            _ => &["db", "user", "pass", "protocol"],
        };
        let mut names = parsed.query_pairs().map(|(name, _)| name);
        if parsed.fragment().is_some() || !names.all(|name| known.contains(&name.as_ref())) {
            return Err(RedisUrlError::UnknownPart);
        }
    }
    let info = url
        .into_connection_info()
        .map_err(|error| unusable(&error))?;
    // Skips CLIENT SETINFO: two needless commands per connection.
    let login = info.redis_settings().clone().set_skip_set_lib_name();
    Ok(info.set_redis_settings(login))
}
