//! This node's record in Redis, where routers look for nodes.
//!
//! One command a call, over one connection that is kept between calls. Whatever Redis does, a call
//! ends within [`TIME_LIMIT`]. A connection is kept only after a command that went well: one with
//! an answer outstanding, one that failed and one whose caller went away are closed, and the next
//! call begins with a fresh one. Nothing is logged here; errors are short texts without secrets.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use deadpool_redis::redis::{
    AsyncConnectionConfig, Cmd, ConnectionInfo, ErrorKind, IntoConnectionInfo, RedisError, cmd,
    parse_redis_url,
};
use deadpool_redis::{Connection, Manager, Pool, PoolError};
use serde::Serialize;
use stt_actors::ports::{DirectoryError, NodeDirectory, NodeRecord};
use thiserror::Error;
use tokio::time::{Instant, timeout_at};

/// What the keys of all nodes begin with; the node's id follows.
pub const KEY_PREFIX: &str = "stt:nodes:";

/// The longest that a call takes: waiting for the call before it, connecting and the command.
pub const TIME_LIMIT: Duration = Duration::from_secs(2);

/// The longest wait for one answer. Half of the whole, so that a kept connection that turns out to
/// be dead leaves the same call time for a fresh one.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);

/// One, so that calls go out in the order in which they were made: a record never comes back
/// because its publication overtook its withdrawal.
const CONNECTIONS: usize = 1;

/// The most of Redis's own words that an error repeats, in characters.
const MOST_WORDS: usize = 120;

/// What the record says besides the load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeAddress {
    /// Name of the node, unique among those that share the Redis; part of the key.
    pub id: String,
    /// Where routers reach it.
    pub host: String,
    /// The port there.
    pub port: u16,
    /// Of this program.
    pub version: String,
}

/// Why a URL cannot be used. The text never repeats any part of the URL.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum RedisUrlError {
    /// It is no URL of Redis.
    #[error(
        "the Redis URL cannot be used: {reason}; expected is \
         redis://[user][:password@]host[:port][/database], rediss:// likewise for TLS, or \
         unix:///path[?db=…&user=…&pass=…], with special characters written as %23 and the like"
    )]
    Unusable {
        /// The first thing that is wrong.
        reason: String,
    },
    /// It has parts that mean nothing here, as happens when a password with `#` or `?` is written
    /// as it is: what follows would be cut off in silence.
    #[error(
        "the Redis URL has a part after # or ? that means nothing here; in a user name or \
         password, write %23 for # and %3F for ?"
    )]
    UnknownPart,
}

/// Publishes one node's record in a Redis.
///
/// The Redis user needs the commands SET and DEL, and PING and UNWATCH so that the connection can
/// be kept.
pub struct RedisDirectory {
    pool: Pool,
    /// Host and port, or the socket's path: for error texts.
    server: String,
    key: String,
    node: NodeAddress,
}

/// The record's value. The order of fields is part of what is promised.
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
    /// A directory at `url`; nothing is connected yet, whether it is there is seen at the first
    /// call. `rediss://` trusts what the system trusts (or the file in `SSL_CERT_FILE`).
    pub fn new(url: &str, node: NodeAddress) -> Result<Self, RedisUrlError> {
        let info = connection_info(url)?;
        let server = info.addr().to_string();
        // The pool's own limits would apply to each step; the deadline of the call is for all.
        let limits = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(Some(ANSWER_LIMIT));
        let manager = Manager::new_with_config(info, limits).map_err(|error| unusable(&error))?;
        let pool = Pool::builder(manager)
            .max_size(CONNECTIONS)
            .build()
            .expect("only a pool with time limits of its own can fail to be built");
        Ok(Self {
            pool,
            server,
            key: format!("{KEY_PREFIX}{}", node.id),
            node,
        })
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

    async fn run(&self, command: &Cmd) -> Result<(), DirectoryError> {
        let deadline = Instant::now() + TIME_LIMIT;
        let mut lease = match timeout_at(deadline, self.pool.get()).await {
            Ok(Ok(connection)) => Lease(Some(connection)),
            Ok(Err(PoolError::Backend(error))) => return Err(self.error(&while_connecting(&error))),
            Ok(Err(error)) => return Err(self.error(&error.to_string())),
            Err(_) => return Err(self.error("no connection in time")),
        };
        match timeout_at(deadline, command.exec_async(lease.connection())).await {
            Ok(Ok(())) => {
                lease.keep();
                Ok(())
            }
            Ok(Err(error)) => Err(self.error(&as_answer(&error))),
            Err(_) => Err(self.error("it gave no answer in time")),
        }
    }

    fn error(&self, what: &str) -> DirectoryError {
        DirectoryError(format!("Redis at {}: {what}", self.server))
    }
}

impl fmt::Debug for RedisDirectory {
    /// Without the pool, which knows the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisDirectory")
            .field("server", &self.server)
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

/// A connection in use, closed when dropped. Only [`Lease::keep`] puts it back.
struct Lease(Option<Connection>);

impl Lease {
    fn connection(&mut self) -> &mut Connection {
        self.0
            .as_mut()
            .expect("only `keep` and `drop` take it, and both end the lease")
    }

    fn keep(mut self) {
        drop(self.0.take());
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(connection) = self.0.take() {
            drop(Connection::take(connection));
        }
    }
}

/// Redis takes whole seconds and refuses 0; rounded up, a record never ends early.
fn whole_seconds(ttl: Duration) -> u64 {
    let begun = u64::from(ttl.subsec_nanos() > 0);
    ttl.as_secs().saturating_add(begun).max(1)
}

/// Whether [`RedisDirectory::new`] takes this URL.
pub fn check_url(url: &str) -> Result<(), RedisUrlError> {
    connection_info(url).map(drop)
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
    // What the client calls itself is of no use to anybody, and two commands more at each start.
    let login = info.redis_settings().clone().set_skip_set_lib_name();
    Ok(info.set_redis_settings(login))
}

/// The client's reasons are fixed texts; what may follow after a dash is taken from the URL.
fn unusable(error: &RedisError) -> RedisUrlError {
    let text = error.to_string();
    let reason = text.split(" - ").next().unwrap_or_default().to_owned();
    RedisUrlError::Unusable { reason }
}

/// Connecting sends the password, and servers that do not know a command repeat its arguments in
/// what they answer: no word of it is passed on.
fn while_connecting(error: &RedisError) -> String {
    let known = known_trouble(error);
    known.unwrap_or_else(|| "it refused the login or the number of the database".to_owned())
}

/// Trouble with our own command, which has no secrets.
fn as_answer(error: &RedisError) -> String {
    known_trouble(error).unwrap_or_else(|| format!("it answered {}", first_words(error)))
}

fn known_trouble(error: &RedisError) -> Option<String> {
    let by_code = match error.code() {
        Some("NOAUTH") => "it wants a password",
        Some("WRONGPASS") => "it refused the user name or the password",
        Some("NOPERM") => "its user may not do this (SET and DEL are needed)",
        Some("OOM") => "its memory is full (maxmemory)",
        Some("MISCONF") => "it takes no writes because it cannot save to its disk",
        Some("READONLY") => "it is a replica that takes no writes",
        Some("MASTERDOWN") => "it is a replica that has lost its master",
        Some("LOADING") => "it is still loading its data",
        Some("MOVED" | "ASK" | "CLUSTERDOWN") => "it is part of a cluster, which is not supported",
        _ => "",
    };
    let text = match error.kind() {
        _ if !by_code.is_empty() => by_code,
        ErrorKind::AuthenticationFailed => "it refused the user name or the password",
        ErrorKind::RESP3NotSupported => "it is too old for protocol=resp3",
        ErrorKind::Parse => "what answers there does not speak the protocol of Redis",
        ErrorKind::Io if error.is_timeout() => "it gave no answer in time",
        ErrorKind::Io if error.is_connection_refusal() => "nothing is listening there",
        ErrorKind::Io if error.is_connection_dropped() => "it closed the connection",
        ErrorKind::Io => return Some(first_words(error)),
        _ => return None,
    };
    Some(text.to_owned())
}

/// The beginning of the error's text, on one line.
fn first_words(error: &RedisError) -> String {
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default();
    line.chars().take(MOST_WORDS).collect()
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
        RedisDirectory::new(url, node)
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
    fn urls_of_every_kind_are_taken() {
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
        ];
        for (url, server) in urls {
            assert_eq!(directory(url).expect(url).server, server);
        }
    }

    #[test]
    fn urls_that_cannot_be_used_are_refused_without_repeating_them() {
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
        ];
        for url in urls {
            let error = directory(url).expect_err(url).to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn what_is_printed_of_a_directory_has_no_password() {
        let directory = directory("redis://u:hunter2@host").expect("a URL");
        let printed = format!("{directory:?}");
        assert!(
            printed.contains("host:6379") && !printed.contains("hunter2"),
            "{printed}"
        );
    }

    proptest! {
        #[test]
        fn a_password_as_people_paste_it_is_refused_or_taken_whole(password in "[ -~]{8,16}") {
            match directory(&format!("redis://u:{password}@127.0.0.1:7")) {
                Ok(directory) => prop_assert_eq!(directory.server, "127.0.0.1:7"),
                Err(error) => prop_assert!(!error.to_string().contains(&password), "{}", error),
            }
        }
    }
}
