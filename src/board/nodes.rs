//! The nodes in Redis, as they were read last. They are read in a task, only while somebody looks.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::Instant;

use super::lock;
use super::report::{NodeReport, NodesReport, seconds};
use crate::redis::nodes::{ListedNode, NodeList, NodeReader};

/// Least time between two reads; longer than one may take, so that there is one at a time.
const INTERVAL: Duration = Duration::from_secs(5);

/// The nodes, and who reads them.
pub(super) struct Nodes {
    reader: NodeReader,
    runtime: Handle,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// When the last read began.
    begun: Option<Instant>,
    read: Option<(Instant, NodeList)>,
    /// Why the last read failed.
    error: Option<String>,
}

impl Nodes {
    pub(super) fn new(reader: NodeReader, runtime: Handle) -> Arc<Self> {
        Arc::new(Self {
            reader,
            runtime,
            state: Mutex::default(),
        })
    }

    /// The nodes as they were read last. Starts another read if it is time for one.
    pub(super) fn seen(self: &Arc<Self>) -> NodesReport {
        let now = Instant::now();
        let mut state = lock(&self.state);
        if state.begun.is_none_or(|begun| now - begun >= INTERVAL) {
            state.begun = Some(now);
            self.runtime.spawn(Arc::clone(self).read());
        }
        state.report(now)
    }

    async fn read(self: Arc<Self>) {
        let read = self.reader.read().await;
        let mut state = lock(&self.state);
        match read {
            Ok(list) => {
                state.read = Some((Instant::now(), list));
                state.error = None;
            }
            Err(error) => state.error = Some(error.to_string()),
        }
    }
}

impl State {
    /// Without nodes whose record has expired since it was read.
    fn report(&self, now: Instant) -> NodesReport {
        let read = self.read.as_ref();
        let age = read.map(|(at, _)| now.saturating_duration_since(*at));
        let of = |node: &ListedNode| {
            let expires_in = match node.expires_in {
                Some(expires_in) => Some(expires_in.checked_sub(age?)?),
                None => None,
            };
            Some(NodeReport {
                id: node.id.clone(),
                host: node.record.host.clone(),
                port: node.record.port,
                load_score: node.record.load_score,
                accepts_requests: node.record.accepts_requests,
                version: node.record.version.clone(),
                expires_in_seconds: expires_in.map(seconds),
            })
        };
        NodesReport {
            error: self.error.clone(),
            age_seconds: age.map(seconds),
            complete: read.is_some_and(|(_, list)| list.complete),
            list: read.map_or_else(Vec::new, |(_, list)| {
                list.nodes.iter().filter_map(of).collect()
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redis::nodes::Record;

    #[test]
    fn a_record_expires_also_while_redis_is_away() {
        let node = |id: &str, expires_in| ListedNode {
            id: id.to_owned(),
            record: Record {
                host: "h".to_owned(),
                port: 1,
                load_score: 0.5,
                accepts_requests: true,
                version: "1".to_owned(),
            },
            expires_in,
        };
        let seconds = Duration::from_secs;
        let begin = Instant::now();
        let state = State {
            begun: Some(begin),
            read: Some((
                begin,
                NodeList {
                    nodes: vec![
                        node("a", Some(seconds(10))),
                        node("b", Some(seconds(20))),
                        node("c", None),
                    ],
                    complete: true,
                },
            )),
            error: Some("away".to_owned()),
        };
        let at = |after| state.report(begin + seconds(after));
        let ids = |report: &NodesReport| {
            let ids = report.list.iter().map(|node| node.id.clone());
            ids.collect::<Vec<_>>().concat()
        };
        assert_eq!(ids(&at(5)), "abc");
        assert_eq!(at(5).list[0].expires_in_seconds, Some(5.0));
        assert_eq!(at(5).age_seconds, Some(5.0));
        assert_eq!(ids(&at(15)), "bc");
        assert_eq!(ids(&at(25)), "c");
        assert_eq!(at(25).error.as_deref(), Some("away"));
    }
}
