//! What the node does now and did in the last minutes, for people who look at it: the report of `/v1/status`, and the
//! feed of it.
//!
//! Nothing here delays a request. Numbers come from the tree's snapshot; the history and the warnings are recorded
//! where they happen, in fixed memory; the list of nodes is read in a task. Without a viewer, nothing runs.

mod feed;
pub mod history;
mod nodes;
pub mod report;
pub mod warnings;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use stt_actors::Stt;
use tokio::runtime::Handle;

use crate::redis::nodes::NodeReader;
use feed::Feed;
pub use feed::{NotWatchable, Viewer};
use nodes::Nodes;
use report::Report;

/// What a report says about this node and does not change.
#[derive(Clone, Debug, Default)]
pub struct Identity {
    /// The node's role.
    pub role: String,
    /// The configured model, until one is loaded.
    pub model: String,
    /// The id under which the node registers itself in Redis.
    pub node_id: Option<String>,
}

/// Makes reports. Clones refer to the same board.
#[derive(Clone)]
pub struct Board(Arc<Inner>);

struct Inner {
    stt: Stt,
    identity: Identity,
    nodes: Option<Arc<Nodes>>,
    feed: Feed,
    /// Where tasks run: the threads of the HTTP server have runtimes of their own.
    runtime: Handle,
}

impl Board {
    /// A board without viewers, whose tasks run in the current runtime. `reader`: reads the nodes, where the node
    /// registers itself.
    pub fn new(stt: Stt, identity: Identity, reader: Option<NodeReader>) -> Self {
        let runtime = Handle::current();
        Self(Arc::new(Inner {
            stt,
            identity,
            nodes: reader.map(|reader| Nodes::new(reader, runtime.clone())),
            feed: Feed::default(),
            runtime,
        }))
    }

    /// The node at this moment.
    pub fn report(&self) -> Report {
        let nodes = self.0.nodes.as_ref().map(Nodes::seen);
        Report::of(&self.0.stt, &self.0.identity, nodes)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
