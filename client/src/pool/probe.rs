//! Probes: asks an ejected server whether it is ready again.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::Instant;

use super::Shared;
use crate::node::Node;

/// Paths to ask in this order; 404 leads to the next one.
const PATHS: [&str; 2] = ["/readyz", "/v1/health"];

/// Starts a task that probes a server after its ejection, repeatedly until the server is ready or the pool
/// is dropped.
pub(super) fn start(pool: &Arc<Shared>, index: usize, until: Instant) {
    let pool = Arc::downgrade(pool);
    tokio::spawn(ask_until_well(pool, index, until));
}

async fn ask_until_well(pool: Weak<Shared>, index: usize, mut until: Instant) {
    loop {
        tokio::time::sleep_until(until).await;
        let Some((node, limit)) = ejected(&pool, index, until) else {
            return;
        };
        let is_well = is_well(&node, limit).await;
        // A request may have succeeded in the meantime.
        if ejected(&pool, index, until).is_none() {
            return;
        }
        let Some(pool) = pool.upgrade() else { return };
        let mut state = pool.state();
        let accounts = &mut state.accounts;
        if is_well {
            accounts.readmit(index);
            return;
        }
        let Some(next) = accounts.eject(index, Instant::now()) else {
            return;
        };
        until = next;
    }
}

fn ejected(pool: &Weak<Shared>, index: usize, until: Instant) -> Option<(Arc<Node>, Duration)> {
    let pool = pool.upgrade()?;
    let state = pool.state();
    let is_ejected = state.accounts.is_ejected_until(index, until);
    is_ejected.then(|| (Arc::clone(&state.nodes[index]), pool.probe_timeout))
}

async fn is_well(node: &Node, limit: Duration) -> bool {
    for path in PATHS {
        let request = node.http.get(format!("{}{path}", node.base)).send();
        match tokio::time::timeout(limit, request).await {
            Ok(Ok(reply)) if reply.status().as_u16() == 404 => {}
            Ok(Ok(reply)) => return reply.status().is_success(),
            Ok(Err(_)) | Err(_) => return false,
        }
    }
    // The server answers; other implementations have neither path.
    true
}
