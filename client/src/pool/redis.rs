//! Servers from Redis: the records that nodes keep under `stt:nodes:*`.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{RedisResult, cmd};
use serde::Deserialize;
use tokio::time::timeout;

use super::accounts::{Account, Listing};
use super::{PoolBuilder, Shared, State, SttPool};
use crate::builder::ClientBuilder;
use crate::client::Client;
use crate::error::Error;
use crate::node::Node;

/// Prefix of the key of every node.
const KEY_PREFIX: &str = "stt:nodes:";
/// Time limit for connecting and reading once.
const READ_LIMIT: Duration = Duration::from_secs(2);
/// Nodes of which a pool knows at most.
const MAX_NODES: usize = 200;
/// Longer keys and values are of no node.
const MAX_BYTES: usize = 4096;
/// Keys that Redis looks at for one call of SCAN.
const KEYS_PER_SCAN: usize = 1000;
/// Calls of SCAN for one reading.
const MAX_SCANS: usize = 200;

type Configure = dyn Fn(ClientBuilder) -> ClientBuilder + Send + Sync;

/// The nodes that have registered themselves in a Redis server. A pool reads them each second: it adds new ones, sends
/// requests to those with the lowest load, and sends none to nodes that accept none or are gone. While Redis is away, it
/// keeps the last list, and ejects servers that fail, as every pool does.
#[derive(Clone)]
#[must_use]
pub struct RedisNodes {
    url: String,
    interval: Duration,
    scheme: &'static str,
    configure: Arc<Configure>,
}

/// The record of a node.
#[derive(Debug, Deserialize)]
struct Record {
    host: String,
    port: u16,
    load_score: f64,
    accepts_requests: bool,
}

impl RedisNodes {
    /// The nodes in this Redis: `redis://host:port/database`, or `rediss://` for TLS.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            interval: Duration::from_secs(1),
            scheme: "http",
            configure: Arc::new(|client| client),
        }
    }

    /// Sets the time between two readings. Default: 1 s.
    pub fn interval(mut self, interval: Duration) -> Self {
        self.interval = interval.max(Duration::from_millis(10));
        self
    }

    /// The nodes speak HTTPS.
    pub fn https(mut self) -> Self {
        self.scheme = "https";
        self
    }

    /// Configures the client of each node, for example with a key or a certificate.
    pub fn client(
        mut self,
        configure: impl Fn(ClientBuilder) -> ClientBuilder + Send + Sync + 'static,
    ) -> Self {
        self.configure = Arc::new(configure);
        self
    }

    /// Reads the nodes, and builds a pool of them that follows the list until it is dropped. Clients that `pool` has
    /// already stay in it. Must be called within a Tokio runtime.
    ///
    /// # Errors
    /// The URL is invalid, or Redis is away.
    pub async fn connect(self, pool: PoolBuilder) -> Result<SttPool, Error> {
        // The message must not contain the URL, which may contain a password.
        let client = redis::Client::open(self.url.as_str())
            .map_err(|error| Error::Invalid(format!("the URL of Redis: {}", error.category())))?;
        let mut reader = Reader {
            client,
            connection: None,
        };
        let found = reader.read().await.map_err(Error::Connect)?;
        let pool = pool.build_with_any();
        self.apply(&mut pool.shared.state(), &found);
        tokio::spawn(self.follow(Arc::downgrade(&pool.shared), reader));
        Ok(pool)
    }

    /// Reads again and again until the pool is dropped.
    async fn follow(self, pool: Weak<Shared>, mut reader: Reader) {
        loop {
            tokio::time::sleep(self.interval).await;
            if pool.strong_count() == 0 {
                return;
            }
            // While Redis is away, the last list stays.
            let Ok(found) = reader.read().await else {
                continue;
            };
            let Some(pool) = pool.upgrade() else { return };
            self.apply(&mut pool.state(), &found);
        }
    }

    /// Takes over a list of records.
    fn apply(&self, state: &mut State, found: &[Record]) {
        let mut listed = BTreeSet::new();
        for record in found {
            let Some(client) = self.client_of(record) else {
                continue;
            };
            let index = place(state, &client.node);
            state.accounts.all[index].listing = Listing {
                is_listed: true,
                accepts: record.accepts_requests,
                load: record.load_score,
            };
            listed.insert(index);
        }
        let is_ours = |node: &Node| node.is_listed;
        for (index, account) in state.accounts.all.iter_mut().enumerate() {
            if is_ours(&state.nodes[index]) && !listed.contains(&index) {
                account.listing.is_listed = false;
            }
        }
    }

    /// The client of a node; `None` if its address is none.
    fn client_of(&self, record: &Record) -> Option<Client> {
        let host = record.host.trim_matches(['[', ']']);
        let host = if host.contains(':') {
            format!("[{host}]")
        } else {
            host.to_owned()
        };
        let is_host = !host.contains(['/', '@', '?', '#', ' ']);
        let address = format!("{}://{host}:{}", self.scheme, record.port);
        let client = (self.configure)(Client::builder(address));
        client.of_record().build().ok().filter(|_| is_host)
    }
}

impl fmt::Debug for RedisNodes {
    /// Omits the URL, which may contain a password.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("RedisNodes")
            .field("interval", &self.interval)
            .field("scheme", &self.scheme)
            .finish_non_exhaustive()
    }
}

/// The place of a server in the pool: its own, that of one which is gone, or a new one.
fn place(state: &mut State, node: &Arc<Node>) -> usize {
    let is_same = |other: &Arc<Node>| other.is_listed && other.base == node.base;
    if let Some(index) = state.nodes.iter().position(is_same) {
        return index;
    }
    let is_free = |account: &Account| !account.listing.is_listed && account.in_flight == 0;
    if let Some(index) = state.accounts.all.iter().position(is_free) {
        state.nodes[index] = Arc::clone(node);
        state.accounts.all[index] = Account::default();
        return index;
    }
    state.nodes.push(Arc::clone(node));
    state.accounts.all.push(Account::default());
    state.nodes.len() - 1
}

/// Reads records over one connection, which it keeps.
struct Reader {
    client: redis::Client,
    connection: Option<MultiplexedConnection>,
}

impl Reader {
    /// The records at the moment.
    async fn read(&mut self) -> Result<Vec<Record>, String> {
        let read = timeout(READ_LIMIT, self.list()).await;
        let result = match read {
            Ok(Ok(records)) => return Ok(records),
            Ok(Err(error)) => error.category().to_owned(),
            Err(_elapsed) => "it gave no answer in time".to_owned(),
        };
        // What is still to come must not be taken for the answer to another command.
        self.connection = None;
        Err(format!("the nodes cannot be read from Redis: {result}"))
    }

    async fn list(&mut self) -> RedisResult<Vec<Record>> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.client.get_multiplexed_async_connection().await?,
        };
        let keys = keys(&mut connection).await?;
        let values: Vec<Option<Vec<u8>>> = if keys.is_empty() {
            Vec::new()
        } else {
            cmd("MGET").arg(&keys).query_async(&mut connection).await?
        };
        self.connection = Some(connection);
        let values = values.into_iter().flatten();
        let values = values.filter(|value| value.len() <= MAX_BYTES);
        Ok(values
            .filter_map(|value| serde_json::from_slice(&value).ok())
            .collect())
    }
}

async fn keys(connection: &mut MultiplexedConnection) -> RedisResult<BTreeSet<Vec<u8>>> {
    let (mut keys, mut cursor) = (BTreeSet::new(), 0_u64);
    for _ in 0..MAX_SCANS {
        let mut scan = cmd("SCAN");
        scan.arg(cursor).arg("MATCH").arg(format!("{KEY_PREFIX}*"));
        scan.arg("COUNT").arg(KEYS_PER_SCAN);
        let (next, found): (u64, Vec<Vec<u8>>) = scan.query_async(connection).await?;
        keys.extend(found.into_iter().filter(|key| key.len() <= MAX_BYTES));
        cursor = next;
        if cursor == 0 || keys.len() >= MAX_NODES {
            break;
        }
    }
    Ok(keys.into_iter().take(MAX_NODES).collect())
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    fn record(host: &str, load: f64, accepts: bool) -> Record {
        Record {
            host: host.to_owned(),
            port: 9005,
            load_score: load,
            accepts_requests: accepts,
        }
    }

    fn pool() -> (RedisNodes, SttPool) {
        let pool = SttPool::builder([]).build_with_any();
        (RedisNodes::new("redis://127.0.0.1"), pool)
    }

    fn names(pool: &SttPool) -> Vec<String> {
        pool.nodes().into_iter().map(|node| node.server).collect()
    }

    #[test]
    fn the_list_is_followed_and_places_of_servers_that_are_gone_are_used_again() {
        let (nodes, pool) = pool();
        let apply = |records: &[Record]| nodes.apply(&mut pool.shared.state(), records);
        apply(&[record("a", 0.5, true), record("fd00::1", 0.1, false)]);
        assert_eq!(names(&pool), ["http://a:9005", "http://[fd00::1]:9005"]);
        apply(&[record("a", 0.7, true)]);
        assert_eq!(names(&pool), ["http://a:9005"]);
        assert!((pool.nodes()[0].load - 0.7).abs() < f64::EPSILON);
        for number in 0..100 {
            apply(&[record(&format!("b{number}"), 0.0, true)]);
        }
        assert_eq!(names(&pool), ["http://b99:9005"]);
        assert!(pool.shared.state().nodes.len() <= 3);
        // What is no host adds no server.
        apply(&[
            record("a/b", 0.0, true),
            record("a@b", 0.0, true),
            record("", 0.0, true),
        ]);
        assert!(names(&pool).is_empty());
    }

    #[test]
    fn requests_go_to_the_lowest_load_and_not_to_servers_that_decline() {
        let (nodes, pool) = pool();
        let list = [
            record("busy", 0.6, true),
            record("idle", 0.1, true),
            record("leaving", 0.0, false),
        ];
        nodes.apply(&mut pool.shared.state(), &list);
        let mut state = pool.shared.state();
        let now = Instant::now();
        let picks: Vec<_> = (0..12).map(|_| state.accounts.pick(&[], now).0).collect();
        // The running requests of the pool count as load as well.
        assert_eq!(picks, [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 1]);
        assert!(state.accounts.has_another(&[1], now));
        assert!(!state.accounts.has_another(&[0, 1], now));
    }
}
