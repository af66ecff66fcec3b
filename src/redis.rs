//! The record of this node in Redis, from which routers learn about nodes.
//!
//! Each call sends one command over one connection, which is kept between calls. A call always ends
//! within [`TIME_LIMIT`]. The connection is kept only after a successful command; after a failure, a
//! timeout or a cancelled call it is closed, and the next call opens a new one. This module does not
//! log; its errors are short texts without secrets.

mod client;
pub mod nodes;
pub mod reach;
mod servers;

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use deadpool_redis::redis::{Cmd, ConnectionAddr, ErrorKind, FromRedisValue, RedisError, cmd};
use serde::Serialize;
use stt_actors::ports::{DirectoryError, NodeDirectory, NodeRecord};
use thiserror::Error;

use client::{Client, Commands};
pub use servers::RedisPem;
use servers::Servers;

/// Prefix of the key of every node; the node's id follows.
pub const KEY_PREFIX: &str = "stt:nodes:";

/// Time limit of a call: waiting for the previous call, connecting, and the command.
pub const TIME_LIMIT: Duration = Duration::from_secs(2);

/// Longest text of Redis that an error repeats, in characters.
const LONGEST_QUOTE: usize = 120;

/// The part of the record that does not change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeAddress {
    /// Name of the node, unique among the nodes in this Redis; part of the key.
    pub id: String,
    /// Host under which routers reach the node.
    pub host: String,
    /// Port of the node.
    pub port: u16,
    /// Version of this program.
    pub version: String,
}

/// Why a URL is rejected. The text never repeats any part of the URL.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum RedisUrlError {
    /// It is not a valid URL of a Redis server.
    #[error(
        "the Redis URL is invalid: {reason}; the format is \
         redis://[user][:password@]host[:port][/database], likewise rediss:// for TLS, \
         redis+sentinel://[user][:password@]host[:port],…/master[/database], likewise rediss+sentinel://, or \
         unix:///path[?db=…&user=…&pass=…], with special characters escaped, for example # as %23"
    )]
    Unusable {
        /// The first problem.
        reason: String,
    },
    /// It has an unknown query or a fragment. The usual cause is an unescaped `#` or `?` in a password,
    /// which would silently truncate it.
    #[error(
        "the Redis URL has an unknown part after # or ?; in a user name or password, write %23 for # \
         and %3F for ?"
    )]
    UnknownPart,
}

/// Publishes the record of one node in Redis.
///
/// The Redis user needs the commands SET and DEL, and PING and UNWATCH to keep the connection.
pub struct RedisDirectory {
    client: Client,
    key: String,
    node: NodeAddress,
}

/// Commands of other parts of the program, over a connection of their own.
pub struct RedisCommands(Client);

impl RedisCommands {
    /// The first call connects. `pem`: certificates for `rediss://`.
    ///
    /// # Errors
    /// The URL or a certificate is invalid.
    pub fn new(url: &str, pem: &RedisPem) -> Result<Self, RedisUrlError> {
        Ok(Self(Client::new(url, pem)?))
    }

    /// Sends a command. It ends within [`TIME_LIMIT`].
    ///
    /// # Errors
    /// Redis cannot be reached, or answered with an error.
    pub async fn run<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, CommandError> {
        self.0.run(Commands::One(command)).await
    }
}

/// Why a command failed.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{text}")]
pub struct CommandError {
    /// For people, without secrets.
    text: String,
    /// Whether other commands fail, too, as far as it is known: Redis cannot be reached, is loading its data, or accepts
    /// no writes.
    pub is_outage: bool,
}

impl From<CommandError> for DirectoryError {
    fn from(error: CommandError) -> Self {
        Self(error.text)
    }
}

/// Whether an answer says that the command itself is wrong.
fn is_about_the_command(error: &RedisError) -> bool {
    matches!(error.code(), Some("ERR" | "WRONGTYPE"))
}

/// The record as JSON. The order of the fields is part of the public contract.
#[derive(Serialize)]
struct Value<'a> {
    load_score: f64,
    accepts_requests: bool,
    host: &'a str,
    port: u16,
    version: &'a str,
    /// Unix time, in seconds.
    ts: f64,
}

impl RedisDirectory {
    /// Creates the client; the first call connects. `pem`: certificates for `rediss://`.
    ///
    /// # Errors
    /// The URL or a certificate is invalid.
    pub fn new(url: &str, pem: &RedisPem, node: NodeAddress) -> Result<Self, RedisUrlError> {
        Ok(Self {
            client: Client::new(url, pem)?,
            key: format!("{KEY_PREFIX}{}", node.id),
            node,
        })
    }

    /// Uses these certificates from the next call on.
    ///
    /// # Errors
    /// They are invalid, and the current ones stay in use.
    pub fn replace_certificates(&self, pem: &RedisPem) -> Result<(), RedisUrlError> {
        self.client.replace_certificates(pem)
    }

    fn value(&self, record: NodeRecord) -> Result<String, DirectoryError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let value = Value {
            load_score: record.load_score,
            accepts_requests: record.accepts_requests,
            host: &self.node.host,
            port: self.node.port,
            version: &self.node.version,
            ts: now.unwrap_or_default().as_secs_f64(),
        };
        serde_json::to_string(&value).map_err(|error| DirectoryError(error.to_string()))
    }

    /// Asks for a sign of life, and for the clock of the server (TIME), which is `None` if its user may not read it.
    pub async fn ping(&self) -> Result<Option<SystemTime>, DirectoryError> {
        self.run::<()>(&cmd("PING")).await?;
        let time = self.run::<(u64, u32)>(&cmd("TIME")).await.ok();
        Ok(time.and_then(|(seconds, microseconds)| {
            let since = Duration::new(seconds, microseconds.checked_mul(1000)?);
            UNIX_EPOCH.checked_add(since)
        }))
    }

    async fn run<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, DirectoryError> {
        Ok(self.client.run(Commands::One(command)).await?)
    }
}

impl fmt::Debug for RedisDirectory {
    /// Omits the pool, which contains the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisDirectory")
            .field("server", &self.client.server)
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl NodeDirectory for RedisDirectory {
    async fn publish(&self, record: NodeRecord, ttl: Duration) -> Result<(), DirectoryError> {
        let mut command = cmd("SET");
        command.arg(&self.key).arg(self.value(record)?);
        command.arg("EX").arg(whole_seconds(ttl));
        self.run(&command).await
    }

    async fn withdraw(&self) -> Result<(), DirectoryError> {
        let mut command = cmd("DEL");
        command.arg(&self.key);
        self.run(&command).await
    }
}

/// Rounds up to whole seconds, at least 1: Redis rejects 0, and a record must not expire early.
fn whole_seconds(ttl: Duration) -> u64 {
    let begun = u64::from(ttl.subsec_nanos() > 0);
    ttl.as_secs().saturating_add(begun).max(1)
}

/// Checks that [`RedisDirectory::new`] accepts this URL.
pub fn check_url(url: &str) -> Result<(), RedisUrlError> {
    Servers::of(url).map(drop)
}

/// The host in a URL, of several the first; `None` for a socket in the file system, and for a URL that [`check_url`]
/// rejects.
pub fn host_in(url: &str) -> Option<String> {
    let servers = Servers::of(url).ok()?;
    match servers.addresses().first()? {
        ConnectionAddr::Tcp(host, _) | ConnectionAddr::TcpTls { host, .. } => Some(host.clone()),
        _ => None,
    }
}

/// Whether the connections of a URL are encrypted.
pub fn is_encrypted(url: &str) -> bool {
    let servers = Servers::of(url);
    servers.is_ok_and(|servers| {
        let addresses = servers.addresses();
        (addresses.into_iter()).any(|address| matches!(address, ConnectionAddr::TcpTls { .. }))
    })
}

/// Keeps the client's fixed reason and drops the detail after a dash, which quotes the URL.
fn unusable(error: &RedisError) -> RedisUrlError {
    let text = error.to_string();
    let reason = text.split(" - ").next().unwrap_or_default().to_owned();
    RedisUrlError::Unusable { reason }
}

/// Describes an error while connecting. Connecting sends the password, and a server that does not know
/// a command quotes its arguments, so the server's text is not passed on.
fn while_connecting(error: &RedisError) -> String {
    let known = known_failure(error);
    known.unwrap_or_else(|| "it rejected the login or the number of the database".to_owned())
}

/// Describes the failure of a command, which contains no secret.
fn as_answer(error: &RedisError) -> String {
    known_failure(error).unwrap_or_else(|| format!("it answered {}", first_words(error)))
}

fn known_failure(error: &RedisError) -> Option<String> {
    let by_code = match error.code() {
        Some("NOAUTH") => "it requires a password",
        Some("WRONGPASS") => "it rejected the user name or the password",
        Some("NOPERM") => {
            "the user lacks a permission (SET and DEL are needed; SCAN, MGET and PTTL for the board)"
        }
        Some("OOM") => "its memory is full (maxmemory)",
        Some("MISCONF") => "it accepts no writes because it cannot save to its disk",
        Some("READONLY") => "it is a replica that accepts no writes",
        Some("MASTERDOWN") => "it is a replica that has lost its master",
        Some("LOADING") => "it is still loading its data",
        Some("MOVED" | "ASK" | "CLUSTERDOWN") => {
            "it is part of a cluster, which is not supported; a single server or sentinels are enough"
        }
        _ => "",
    };
    let text = match error.kind() {
        _ if !by_code.is_empty() => by_code,
        ErrorKind::AuthenticationFailed => "it rejected the user name or the password",
        ErrorKind::MasterNameNotFoundBySentinel => {
            "the sentinels know no master of this name that is up"
        }
        ErrorKind::RESP3NotSupported => "it is too old for protocol=resp3",
        ErrorKind::Parse => "the server does not speak the protocol of Redis",
        ErrorKind::Io if error.is_timeout() => "it gave no answer in time",
        ErrorKind::Io if error.is_connection_refusal() => "the connection was refused",
        ErrorKind::Io if error.is_connection_dropped() => "it closed the connection",
        ErrorKind::Io => return Some(first_words(error)),
        _ => return None,
    };
    Some(text.to_owned())
}

/// The first line of the error's text, shortened.
fn first_words(error: &RedisError) -> String {
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default();
    line.chars().take(LONGEST_QUOTE).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn directory(url: &str) -> Result<RedisDirectory, RedisUrlError> {
        let node = NodeAddress {
            id: "a".to_owned(),
            host: "b".to_owned(),
            port: 9005,
            version: "1".to_owned(),
        };
        RedisDirectory::new(url, &RedisPem::default(), node)
    }

    #[test]
    fn lifetimes_are_whole_seconds_and_never_shorter() {
        let cases = [(0, 1), (1, 1), (999, 1), (1000, 1), (1001, 2), (2500, 3)];
        for (milliseconds, expected) in cases {
            let ttl = Duration::from_millis(milliseconds);
            assert_eq!(whole_seconds(ttl), expected, "{ttl:?}");
        }
        assert_eq!(whole_seconds(Duration::MAX), u64::MAX);
    }

    #[test]
    fn urls_of_every_kind_are_accepted() {
        let urls = [
            ("redis://example.org", "example.org:6379"),
            (
                "redis://u:p%23@example.org:1/2?protocol=resp3",
                "example.org:1",
            ),
            ("redis://[::1]:7", "::1:7"),
            ("rediss://:secret@example.org", "example.org:6379"),
            (
                "unix:///run/redis.sock?db=1&user=u&pass=p",
                "/run/redis.sock",
            ),
            (
                "redis+sentinel://u:p%23@a,[::1]:7,c:8/main/2?sentinel_user=s&sentinel_password=p%26",
                "the master main of the sentinels a:26379, ::1:7, c:8",
            ),
            (
                "rediss+sentinel://a/main",
                "the master main of the sentinels a:26379",
            ),
        ];
        for (url, server) in urls {
            assert_eq!(directory(url).expect(url).client.server, server);
        }
    }

    #[test]
    fn invalid_urls_are_rejected_without_repeating_them() {
        let urls = [
            "",
            "hunter2",
            "http://u:hunter2@host",
            "redis://",
            "redis://u:hunter2@host:port",
            "redis://u:hunter2@host/no-number",
            "redis://u:hunter2@0.0.0.0",
            "redis://u:%FFhunter2@host",
            "redis://u:12#hunter2@host",
            "redis://u:12?hunter2@host",
            "redis://u:12/hunter2@host",
            "redis://host?protocol=hunter2",
            "rediss://u:hunter2@host#insecure",
            "unix:///run/redis.sock?password=hunter2",
            "unix://host/run/redis.sock?pass=hunter2",
            "redis+sentinel://u:hunter2@a",
            "redis+sentinel://u:hunter2@/main",
            "redis+sentinel://u:hunter2@a:port/main",
            "redis+sentinel://u:hunter2@a/main/no-number",
            "redis+sentinel://u:hunter2@a/main?password=hunter2",
            "redis+sentinel://u:hunter2@a/main#insecure",
        ];
        for url in urls {
            let error = directory(url).expect_err(url).to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn debug_output_contains_no_password() {
        let directory = directory("redis://u:hunter2@host").expect("a URL");
        let printed = format!("{directory:?}");
        assert!(
            printed.contains("host:6379") && !printed.contains("hunter2"),
            "{printed}"
        );
    }

    proptest! {
        #[test]
        fn an_unescaped_password_is_rejected_or_used_in_full(password in "[ -~]{8,16}") {
            match directory(&format!("redis://u:{password}@127.0.0.1:7")) {
                Ok(directory) => prop_assert_eq!(directory.client.server, "127.0.0.1:7"),
                Err(error) => prop_assert!(!error.to_string().contains(&password), "{}", error),
            }
        }
    }
}
