//! Servers from Redis: the records that nodes keep under `stt:nodes:*`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{RedisResult, cmd};
use serde::Deserialize;
use serde_json::Value;
use tokio::time::timeout;

use super::accounts::{Account, Listing};
use super::{PoolBuilder, Shared, State, SttPool};
use crate::builder::{self, ClientBuilder};
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

/// The load of a node whose record has none: unknown is not idle.
const UNKNOWN_LOAD: f64 = 0.5;

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

/// The record of a node. A load that is no number is unknown, and only `false` declines requests, as for our router for
/// nginx: records of other programs may lack either.
#[derive(Debug, Deserialize)]
struct Record {
    host: String,
    port: u16,
    #[serde(default)]
    load_score: Value,
    #[serde(default)]
    accepts_requests: Value,
}

impl Record {
    fn listing(&self) -> Listing {
        Listing {
            is_listed: true,
            accepts: self.accepts_requests != Value::Bool(false),
            load: self.load_score.as_f64().unwrap_or(UNKNOWN_LOAD),
        }
    }
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
        self.apply(&pool.shared, &found);
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
            self.apply(&pool, &found);
        }
    }

    /// Takes over a list of records. A client is made only for a node that the pool does not know, and without holding
    /// the pool's lock: that may read certificates.
    fn apply(&self, pool: &Shared, found: &[Record]) {
        let mut listed: BTreeMap<String, Listing> = BTreeMap::new();
        let mut new = Vec::new();
        for record in found.iter().filter(|record| is_host(record)) {
            let Some(base) = builder::base(&self.address(record)) else {
                continue;
            };
            if listed.insert(base.clone(), record.listing()).is_none() {
                new.push(base);
            }
        }
        {
            let state = pool.state();
            new.retain(|base| !state.nodes.iter().any(|node| is_record_of(node, base)));
        }
        let new: Vec<_> = new.iter().filter_map(|base| self.client_of(base)).collect();
        let State { nodes, accounts } = &mut *pool.state();
        accounts.draws = true;
        for (node, account) in nodes.iter().zip(&mut accounts.all) {
            if !node.is_listed {
                continue;
            }
            match listed.get(&node.base) {
                Some(listing) => account.listing = *listing,
                None => account.listing.is_listed = false,
            }
        }
        for client in new {
            let Some(listing) = listed.get(&client.node.base) else {
                continue;
            };
            let mut account = Account::default();
            account.listing = *listing;
            // The place of a server that is gone is used again.
            let is_free = |account: &Account| !account.listing.is_listed && account.in_flight == 0;
            if let Some(index) = accounts.all.iter().position(is_free) {
                nodes[index] = client.node;
                accounts.all[index] = account;
            } else {
                nodes.push(client.node);
                accounts.all.push(account);
            }
        }
    }

    /// The address of a node.
    fn address(&self, record: &Record) -> String {
        let host = record.host.trim_matches(['[', ']']);
        let (open, close) = if host.contains(':') {
            ("[", "]")
        } else {
            ("", "")
        };
        format!("{}://{open}{host}{close}:{}", self.scheme, record.port)
    }

    /// A client of the node at this address; `None` if the settings of the clients cannot be used.
    fn client_of(&self, base: &str) -> Option<Client> {
        let client = (self.configure)(Client::builder(base));
        client.of_record().build().ok()
    }
}

/// Whether the host of a record is a name or an address, and nothing else of a URL.
fn is_host(record: &Record) -> bool {
    !record.host.contains(['/', '@', '?', '#', ' ', '\\'])
}

/// Whether a node of the pool is there by its record, and has this address.
fn is_record_of(node: &Node, base: &str) -> bool {
    node.is_listed && node.base == base
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
            Ok(Ok(Some(records))) => return Ok(records),
            // Nodes that were not found must not count as gone.
            Ok(Ok(None)) => {
                "it has too many keys to find those of the nodes; give them a database of their own"
                    .to_owned()
            }
            Ok(Err(error)) => error.category().to_owned(),
            Err(_elapsed) => "it gave no answer in time".to_owned(),
        };
        // What is still to come must not be taken for the answer to another command.
        self.connection = None;
        Err(format!("the nodes cannot be read from Redis: {result}"))
    }

    /// The records; `None`: they were not all found.
    async fn list(&mut self) -> RedisResult<Option<Vec<Record>>> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.client.get_multiplexed_async_connection().await?,
        };
        let Some(keys) = keys(&mut connection).await? else {
            return Ok(None);
        };
        let values: Vec<Option<Vec<u8>>> = if keys.is_empty() {
            Vec::new()
        } else {
            cmd("MGET").arg(&keys).query_async(&mut connection).await?
        };
        self.connection = Some(connection);
        let values = values.into_iter().flatten();
        let values = values.filter(|value| value.len() <= MAX_BYTES);
        let records = values.filter_map(|value| serde_json::from_slice(&value).ok());
        Ok(Some(records.collect()))
    }
}

/// The keys of nodes, at most [`MAX_NODES`]; `None`: Redis has so many keys that the search was given up.
async fn keys(connection: &mut MultiplexedConnection) -> RedisResult<Option<BTreeSet<Vec<u8>>>> {
    let (mut keys, mut cursor) = (BTreeSet::new(), 0_u64);
    for _ in 0..MAX_SCANS {
        let mut scan = cmd("SCAN");
        scan.arg(cursor).arg("MATCH").arg(format!("{KEY_PREFIX}*"));
        scan.arg("COUNT").arg(KEYS_PER_SCAN);
        let (next, found): (u64, Vec<Vec<u8>>) = scan.query_async(connection).await?;
        keys.extend(found.into_iter().filter(|key| key.len() <= MAX_BYTES));
        cursor = next;
        if cursor == 0 || keys.len() >= MAX_NODES {
            return Ok(Some(keys.into_iter().take(MAX_NODES).collect()));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::time::Instant;

    use super::super::Standing;
    use super::*;

    fn record(host: &str, load: f64, accepts: bool) -> Record {
        Record {
            host: host.to_owned(),
            port: 9005,
            load_score: load.into(),
            accepts_requests: accepts.into(),
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
        let apply = |records: &[Record]| nodes.apply(&pool.shared, records);
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
    fn a_client_is_made_once_for_each_node() {
        let made = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&made);
        let (nodes, pool) = pool();
        let nodes = nodes.client(move |client| {
            counter.fetch_add(1, Ordering::Relaxed);
            client
        });
        let both = [record("a", 0.5, true), record("B", 0.1, true)];
        for records in [&both[..1], &both, &both, &both[1..], &both] {
            nodes.apply(&pool.shared, records);
        }
        assert_eq!(names(&pool), ["http://a:9005", "http://b:9005"]);
        assert_eq!(made.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn a_record_without_a_load_counts_as_half_loaded_and_accepting() {
        let (nodes, pool) = pool();
        let list = [
            r#"{"host":"unknown","port":1}"#,
            r#"{"host":"null","port":1,"load_score":null,"accepts_requests":null}"#,
            r#"{"host":"busy","port":1,"load_score":0.8}"#,
            r#"{"host":"leaving","port":1,"load_score":0.1,"accepts_requests":false}"#,
        ];
        let list = list.map(|record| serde_json::from_str(record).expect("a record"));
        nodes.apply(&pool.shared, &list);
        let found: BTreeMap<_, _> = (pool.nodes().into_iter())
            .map(|node| (node.server, (node.load, node.standing)))
            .collect();
        for (host, load, standing) in [
            ("unknown", UNKNOWN_LOAD, Standing::Active),
            ("null", UNKNOWN_LOAD, Standing::Active),
            ("busy", 0.8, Standing::Active),
            ("leaving", 0.1, Standing::Declining),
        ] {
            assert_eq!(found[&format!("http://{host}:1")], (load, standing));
        }
    }

    #[test]
    fn requests_go_to_the_lowest_load_and_not_to_servers_that_decline() {
        let (nodes, pool) = pool();
        let list = [
            record("busy", 0.6, true),
            record("idle", 0.1, true),
            record("leaving", 0.0, false),
        ];
        nodes.apply(&pool.shared, &list);
        let mut state = pool.shared.state();
        let now = Instant::now();
        let picks: Vec<_> = (0..12).map(|_| state.accounts.pick(&[], now).0).collect();
        // The running requests of the pool count as load as well.
        assert_eq!(picks, [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 1]);
        assert!(state.accounts.has_another(&[1], now));
        assert!(!state.accounts.has_another(&[0, 1], now));
    }
}
