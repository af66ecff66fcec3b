//! The cold workers: how many there should be, how many fit in memory, and the actors that start and stop them.

pub mod cold_pool;
pub mod demand;
pub mod memory_cap;
pub mod memory_ledger;
pub mod sizing;
pub mod vram_watcher;

use std::time::Duration;

use crate::lane::idle::IdlePolicy;

/// The cold workers' limits.
#[derive(Clone, Copy, Debug)]
pub struct PoolConfig {
    /// Most of them; 0: none.
    pub size: usize,
    /// Time between two looks at the demand (`COLD_POOL_MANAGER_INTERVAL`).
    pub interval: Duration,
    /// How long they may idle.
    pub idle: IdlePolicy,
}
