//! What a tree is built from: its ports and its limits.

use std::sync::Arc;
use std::time::Duration;

use crate::fallback::policy::EscalationPolicy;
use crate::lane::recycling::RecyclingLimits;
use crate::pool::PoolConfig;
use crate::ports::{
    AudioDecoder, EngineLauncher, FallbackPort, NodeDirectory, Translator, VramProbe,
};

/// What the tree needs from outside.
#[derive(Clone)]
pub struct Ports {
    /// Starts engines.
    pub launcher: Arc<dyn EngineLauncher>,
    /// Opens audio.
    pub decoder: Arc<dyn AudioDecoder>,
    /// Looks at the memory that workers need; `None`: it is never looked at.
    pub memory: Option<Arc<dyn VramProbe>>,
    /// Where the node makes itself known; `None`: nowhere.
    pub directory: Option<Arc<dyn NodeDirectory>>,
    /// Who makes better texts where this node's are not trusted; `None`: nobody.
    pub fallback: Option<FallbackPort>,
    /// Translates finished transcripts; `None`: whisper itself translates, to English only.
    pub translator: Option<Arc<dyn Translator>>,
}

/// The tree's limits.
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
    /// Drain time that counts as load 1.0 (`ROUTING_DRAIN_CAP_SECONDS`).
    pub drain_cap: Duration,
    /// The hot engine is freed when it has idled for so long; `None`: never
    /// (`HOT_IDLE_TIMEOUT`).
    pub hot_idle_limit: Option<Duration>,
    /// Engines are replaced when they are worn out.
    pub recycling: RecyclingLimits,
    /// The cold workers' limits.
    pub pool: PoolConfig,
    /// Which texts are had again from a larger model, where there is one.
    pub escalation: EscalationPolicy,
    /// How long this node's own larger model may take for one piece of audio, its start included
    /// (`FALLBACK_TIMEOUT_S`). Another node has a limit of its own.
    pub fallback_limit: Duration,
    /// Time limit of the translator for one transcript (`LIBRETRANSLATE_TIMEOUT_S`).
    pub translation_limit: Duration,
    /// How long a finished transcript is kept for the same request to come again; zero: it is not
    /// (`RESULT_CACHE_SECONDS`).
    pub result_cache: Duration,
    /// GPU memory that a worker is taken to need until it was measured, in bytes; 0: it is never
    /// checked (`MIN_COLD_VRAM_GB`).
    pub minimum_worker_bytes: u64,
}
