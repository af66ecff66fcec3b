//! The configuration of a tree: its ports and its limits.

use std::sync::Arc;
use std::time::Duration;

use crate::fallback::policy::EscalationPolicy;
use crate::lane::recycling::RecyclingLimits;
use crate::live::LiveConfig;
use crate::pool::PoolConfig;
use crate::ports::{
    AudioDecoder, EngineLauncher, FallbackPort, NodeDirectory, Translator, VramProbe,
};

/// The ports of the tree.
#[derive(Clone)]
pub struct Ports {
    /// Starts engines.
    pub launcher: Arc<dyn EngineLauncher>,
    /// Opens audio.
    pub decoder: Arc<dyn AudioDecoder>,
    /// Samples the memory that workers need; `None`: memory is not checked.
    pub memory: Option<Arc<dyn VramProbe>>,
    /// Publishes the node's record; `None`: the node is not registered.
    pub directory: Option<Arc<dyn NodeDirectory>>,
    /// Transcribes what this node is not confident about; `None`: no escalation.
    pub fallback: Option<FallbackPort>,
    /// Translates finished transcripts; `None`: whisper itself translates, to English only.
    pub translator: Option<Arc<dyn Translator>>,
}

/// The limits of the tree.
#[derive(Clone, Debug)]
pub struct TreeConfig {
    /// Time limit of an engine for one chunk (`COLD_LANE_TIMEOUT_SECONDS`).
    pub chunk_timeout: Duration,
    /// Time that a stopping engine may take before it is killed.
    pub stop_grace: Duration,
    /// Start time of an engine until one was measured (`COLD_START_TIME_SECONDS`).
    pub start_estimate: Duration,
    /// Requests with a longer estimated wait are rejected (`MAX_QUEUE_SECONDS`).
    pub max_queue: Duration,
    /// Drain time that counts as load 1.0 (`ROUTING_DRAIN_CAP_SECONDS`).
    pub drain_cap: Duration,
    /// The hot model is unloaded after being idle for this long; `None`: never (`HOT_IDLE_TIMEOUT`).
    pub hot_idle_limit: Option<Duration>,
    /// When engines are replaced.
    pub recycling: RecyclingLimits,
    /// Limits of live sessions.
    pub live: LiveConfig,
    /// Limits of the cold workers.
    pub pool: PoolConfig,
    /// Which texts are escalated, where a fallback is configured.
    pub escalation: EscalationPolicy,
    /// Time limit of this node's fallback model for one chunk, its start included (`FALLBACK_TIMEOUT_S`). A
    /// fallback node has its own limit.
    pub fallback_limit: Duration,
    /// Time limit of the translator for one transcript (`LIBRETRANSLATE_TIMEOUT_S`).
    pub translation_limit: Duration,
    /// How long a finished transcript is cached for an identical request; zero: not at all
    /// (`RESULT_CACHE_SECONDS`).
    pub result_cache: Duration,
    /// GPU memory that a worker needs until one was measured, in bytes; 0: memory is not checked
    /// (`MIN_COLD_VRAM_GB`).
    pub minimum_worker_bytes: u64,
}
