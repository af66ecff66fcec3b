//! What a tree is built from: its ports and its limits.

use std::sync::Arc;
use std::time::Duration;

use crate::ports::{AudioDecoder, EngineLauncher};

/// What the tree needs from outside.
#[derive(Clone)]
pub struct Ports {
    /// Starts engines.
    pub launcher: Arc<dyn EngineLauncher>,
    /// Opens audio.
    pub decoder: Arc<dyn AudioDecoder>,
}

/// The tree's time limits.
#[derive(Clone, Debug)]
pub struct TreeConfig {
    /// An engine silent for longer on one chunk is ended (`COLD_LANE_TIMEOUT_SECONDS`).
    pub chunk_timeout: Duration,
    /// How long a stopping engine may take before it is killed.
    pub stop_grace: Duration,
    /// What an engine's start is taken to cost until it was measured
    /// (`COLD_START_TIME_SECONDS`).
    pub start_estimate: Duration,
    /// More estimated waiting than this is refused (`MAX_QUEUE_SECONDS`).
    pub max_queue: Duration,
}
