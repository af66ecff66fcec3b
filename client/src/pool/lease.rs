//! A running request in a pool's accounts.

use std::fmt;
use std::sync::Arc;

use tokio::time::Instant;

use super::{Recovery, Shared, probe};
use crate::error::Error;

/// Counts a running request for as long as it is held; for a streamed reply, until the stream is dropped.
/// Empty for a client of one server.
#[derive(Default)]
pub(crate) struct Lease(Option<Held>);

struct Held {
    pool: Arc<Shared>,
    index: usize,
    is_trial: bool,
}

impl Lease {
    pub fn of(pool: Arc<Shared>, index: usize, is_trial: bool) -> Self {
        Self(Some(Held {
            pool,
            index,
            is_trial,
        }))
    }

    /// Records the result of an attempt.
    pub fn over(&mut self, error: Option<&Error>) {
        let Some(held) = &self.0 else { return };
        let (pool, index) = (&held.pool, held.index);
        let until = (pool.state().accounts).over(index, held.is_trial, error, Instant::now());
        if let Some(until) = until
            && pool.recovery == Recovery::Probe
        {
            probe::start(pool, index, until);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(held) = &self.0 {
            let mut state = held.pool.state();
            state.accounts.leave(held.index, held.is_trial);
        }
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let index = self.0.as_ref().map(|held| held.index);
        formatter.debug_tuple("Lease").field(&index).finish()
    }
}
