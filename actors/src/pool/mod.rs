//! The cold workers: how many the work is worth, how many fit into memory, and the actors that start and stop
//! them.

pub mod cold_pool;
pub mod demand;
pub mod memory_cap;
pub mod memory_ledger;
pub mod sizing;
pub mod vram_watcher;

use std::time::Duration;

use crate::lane::idle::IdlePolicy;

/// Limits of a pool of cold workers.
#[derive(Clone, Copy, Debug)]
pub struct PoolConfig {
    /// Maximum number of workers; 0: none.
    pub size: usize,
    /// Time between two checks of the demand (`COLD_POOL_MANAGER_INTERVAL`).
    pub interval: Duration,
    /// How long workers may be idle.
    pub idle: IdlePolicy,
}
