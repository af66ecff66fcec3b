//! Several servers as one.

use crate::error::Error;

/// A place in a pool's accounts while an attempt runs.
#[derive(Debug, Default)]
pub(crate) struct Lease;

impl Lease {
    #[allow(clippy::unused_self, reason = "a pool will count")]
    pub fn over(&mut self, _error: Option<&Error>) {}
}
