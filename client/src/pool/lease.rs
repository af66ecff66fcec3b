//! A request's place in a pool's accounts.

use std::fmt;
use std::sync::Arc;

use tokio::time::Instant;

use super::{Recovery, Shared, probe};
use crate::error::Error;

/// Held while a request is under way, which for a streamed reply is until nobody reads it any more.
/// A client of one server has no accounts.
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

    /// Notes how an attempt ended.
    pub fn over(&mut self, error: Option<&Error>) {
        let Some(held) = &self.0 else { return };
        let (pool, index) = (&held.pool, held.index);
        let until = (pool.accounts()).over(index, held.is_trial, error, Instant::now());
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
            held.pool.accounts().leave(held.index, held.is_trial);
        }
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let index = self.0.as_ref().map(|held| held.index);
        formatter.debug_tuple("Lease").field(&index).finish()
    }
}
