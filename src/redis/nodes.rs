//! The records of all nodes in a Redis, for the board.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use deadpool_redis::redis::{cmd, pipe};
use serde::Deserialize;
use stt_actors::ports::DirectoryError;
use tokio::time::timeout;

use super::client::{Client, Commands};
use super::{KEY_PREFIX, RedisPem, RedisUrlError};

/// Time limit for reading the list.
pub const LIST_LIMIT: Duration = Duration::from_secs(4);
/// Nodes that the list has at most.
pub const MAX_NODES: usize = 200;
/// Longer keys and values are of no node.
const MAX_BYTES: usize = 4096;
/// Keys that Redis looks at for one call of SCAN: it does nothing else meanwhile.
const KEYS_PER_SCAN: usize = 1000;
/// Calls of SCAN. A Redis with more keys than these find gives an incomplete list.
const MAX_SCANS: usize = 200;

/// Reads the records of all nodes.
///
/// The Redis user needs the commands SCAN, MGET and PTTL. Cheap to clone; clones share the connection.
#[derive(Clone)]
pub struct NodeReader(Arc<Client>);

/// The nodes in a Redis.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeList {
    /// The nodes, sorted by id.
    pub nodes: Vec<ListedNode>,
    /// Whether these are all.
    pub complete: bool,
}

/// A node in a Redis.
#[derive(Clone, Debug, PartialEq)]
pub struct ListedNode {
    /// Its name, unique among the nodes.
    pub id: String,
    /// What it last said.
    pub record: Record,
    /// When the record expires unless the node renews it; `None`: never.
    pub expires_in: Option<Duration>,
}

/// The record of a node.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct Record {
    /// Host under which routers reach it.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Its load, from 0 to 1.
    pub load_score: f64,
    /// Whether routers should send it requests.
    pub accepts_requests: bool,
    /// Version of its program.
    pub version: String,
}

impl NodeReader {
    /// Creates the client; the first call connects. `pem`: certificates for `rediss://`.
    ///
    /// # Errors
    /// The URL or a certificate is invalid.
    pub fn new(url: &str, pem: &RedisPem) -> Result<Self, RedisUrlError> {
        Client::new(url, pem).map(|client| Self(Arc::new(client)))
    }

    /// Uses these certificates from the next call on.
    ///
    /// # Errors
    /// They are invalid, and the current ones stay in use.
    pub fn replace_certificates(&self, pem: &RedisPem) -> Result<(), RedisUrlError> {
        self.0.replace_certificates(pem)
    }

    /// Reads the list, within [`LIST_LIMIT`].
    ///
    /// # Errors
    /// Redis is away, or refuses.
    pub async fn read(&self) -> Result<NodeList, DirectoryError> {
        let list = timeout(LIST_LIMIT, self.list()).await;
        list.unwrap_or_else(|_elapsed| {
            Err(self.0.outage("it did not list its keys in time").into())
        })
    }

    async fn list(&self) -> Result<NodeList, DirectoryError> {
        let (keys, complete) = self.keys().await?;
        if keys.is_empty() {
            return Ok(NodeList {
                complete,
                ..NodeList::default()
            });
        }
        let mut commands = pipe();
        commands.cmd("MGET").arg(&keys);
        let mut lifetimes = pipe();
        for key in &keys {
            lifetimes.cmd("PTTL").arg(key);
        }
        let (values,): (Vec<Option<Vec<u8>>>,) = self.0.run(Commands::Many(&commands)).await?;
        let lifetimes: Vec<i64> = self.0.run(Commands::Many(&lifetimes)).await?;
        let nodes = keys.iter().zip(values).zip(lifetimes);
        Ok(NodeList {
            nodes: nodes
                .filter_map(|((key, value), lifetime)| listed(key, &value?, lifetime))
                .collect(),
            complete,
        })
    }

    /// The keys of nodes, and whether these are all.
    async fn keys(&self) -> Result<(Vec<String>, bool), DirectoryError> {
        let (mut keys, mut cursor) = (BTreeSet::new(), 0_u64);
        for _ in 0..MAX_SCANS {
            let mut scan = cmd("SCAN");
            scan.arg(cursor).arg("MATCH").arg(format!("{KEY_PREFIX}*"));
            scan.arg("COUNT").arg(KEYS_PER_SCAN);
            let (next, found): (u64, Vec<Vec<u8>>) = self.0.run(Commands::One(&scan)).await?;
            let found = found
                .into_iter()
                .filter_map(|key| String::from_utf8(key).ok());
            keys.extend(found.filter(|key| key.len() <= MAX_BYTES));
            cursor = next;
            if keys.len() > MAX_NODES || cursor == 0 {
                break;
            }
        }
        let complete = cursor == 0 && keys.len() <= MAX_NODES;
        Ok((keys.into_iter().take(MAX_NODES).collect(), complete))
    }
}

/// The node of a key; `None` if the value is no record. `lifetime`: the answer of PTTL, in milliseconds.
fn listed(key: &str, value: &[u8], lifetime: i64) -> Option<ListedNode> {
    let id = key.strip_prefix(KEY_PREFIX)?.to_owned();
    if value.len() > MAX_BYTES || lifetime == GONE {
        return None;
    }
    Some(ListedNode {
        id,
        record: serde_json::from_slice(value).ok()?,
        expires_in: u64::try_from(lifetime).ok().map(Duration::from_millis),
    })
}

/// PTTL's answer for a key that does not exist any more.
const GONE: i64 = -2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_record_is_left_out() {
        let record = br#"{"load_score":0.5,"accepts_requests":true,"host":"h","port":1,"version":"2","ts":3.0}"#;
        let node = listed("stt:nodes:a:b", record, 1500).expect("a node");
        assert_eq!((&*node.id, node.record.port), ("a:b", 1));
        assert_eq!(node.expires_in, Some(Duration::from_millis(1500)));
        let forever = listed("stt:nodes:a", record, -1).expect("a node");
        assert_eq!(forever.expires_in, None);
        assert_eq!(listed("stt:nodes:a", record, GONE), None);
        for other in [&b"{}"[..], b"", b"\xff", &[b' '; MAX_BYTES + 1]] {
            assert_eq!(listed("stt:nodes:a", other, 1), None);
        }
    }
}
