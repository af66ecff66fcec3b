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
/// An older list is of an earlier time when somebody looked.
const OLD: Duration = Duration::from_secs(15);

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
    /// The list as it was read. Records live for some seconds only and are renewed between two reads; but in a list
    /// that could not be read again, those that have expired since are left out.
    fn report(&self, now: Instant) -> NodesReport {
        let read = self.read.as_ref();
        let age = read.map(|(at, _)| now.saturating_duration_since(*at));
        let is_stale = self.error.is_some() || age.is_some_and(|age| age > OLD);
        let is_listed =
            |node: &&ListedNode| !is_stale || node.expires_in.is_none_or(|left| Some(left) > age);
        let of = |node: &ListedNode| NodeReport {
            id: node.id.clone(),
            host: node.record.host.clone(),
            port: node.record.port,
            load_score: node.record.load_score,
            accepts_requests: node.record.accepts_requests,
            version: node.record.version.clone(),
            expires_in_seconds: node.expires_in.map(seconds),
        };
        NodesReport {
            error: self.error.clone(),
            age_seconds: age.map(seconds),
            complete: read.is_some_and(|(_, list)| list.complete),
            list: read.map_or_else(Vec::new, |(_, list)| {
                list.nodes.iter().filter(is_listed).map(of).collect()
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redis::nodes::Record;

    #[test]
    fn records_that_expire_are_left_out_only_of_a_list_that_is_not_read_again() {
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
        let mut state = State {
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
            error: None,
        };
        let ids = |report: NodesReport| {
            let ids = report.list.into_iter().map(|node| node.id);
            ids.collect::<Vec<_>>().concat()
        };
        let fresh = state.report(begin + seconds(11));
        assert_eq!(fresh.list[0].expires_in_seconds, Some(10.0));
        assert_eq!(fresh.age_seconds, Some(11.0));
        assert_eq!(ids(fresh), "abc");
        assert_eq!(ids(state.report(begin + seconds(16))), "bc");
        state.error = Some("away".to_owned());
        assert_eq!(ids(state.report(begin + seconds(5))), "abc");
        assert_eq!(ids(state.report(begin + seconds(11))), "bc");
        assert_eq!(ids(state.report(begin + seconds(25))), "c");
    }
}
