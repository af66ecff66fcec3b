//! Settings: built-in default < file < environment < command line.
//!
//! The variables stand in one table ([`variables`]) with their defaults, what they mean and how
//! they are read. A value that cannot be read stops the start with one line that names the
//! variable, the value and what is allowed. Secrets never appear in what is printed.

pub mod env_file;
pub mod variables;

mod defaults;
mod load;
mod read;
mod role;
mod secret;
mod sources;

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use reqwest::Url;
use stt_actors::EscalationPolicy;
use thiserror::Error;

use crate::models::ComputeType;
pub use load::Loaded;
pub use role::Role;
pub use secret::Secret;
pub use sources::Sources;

/// What the server runs with. Addresses of neighbours may have passwords in them: it is not for showing.
#[derive(Clone)]
pub struct Settings {
    /// Address to bind.
    pub host: IpAddr,
    /// Port to bind.
    pub port: u16,
    /// A catalogue name, a ggml file or a CTranslate2 folder; `auto`: by device.
    pub whisper_model: String,
    /// Where models live.
    pub models_dir: PathBuf,
    /// How weights are stored; `None`: as they come.
    pub compute_type: Option<ComputeType>,
    /// 16-bit weights; off: 32 bits.
    pub whisper_fp16: bool,
    /// Threads per worker; `None`: by the machine.
    pub whisper_threads: Option<u32>,
    /// Texts that whisper follows at once; 1: greedy.
    pub beam_size: u32,
    /// What tells speech from silence.
    pub vad_model: VadModel,
    /// ISO 639-1; `None`: detect.
    pub default_language: Option<String>,
    /// Most cold workers.
    pub cold_pool_size: u32,
    /// Idle time before a cold worker ends.
    pub cold_idle_timeout: Duration,
    /// Added to it for each slot that is free at its spawn.
    pub cold_idle_stagger: Duration,
    /// Time between two looks at the demand, and between two records in Redis.
    pub pool_interval: Duration,
    /// Free GPU memory that a worker is taken to need until measured, in GB (2³⁰ bytes); 0: no
    /// check.
    pub min_cold_vram_gb: f64,
    /// Idle time after which even the hot model is freed; `None`: never.
    pub hot_idle_timeout: Option<Duration>,
    /// Most chunks in inference at once; `None`: one for each worker.
    pub max_concurrency: Option<u32>,
    /// Chunks after which a worker is replaced; `None`: any number.
    pub worker_max_chunks: Option<u64>,
    /// Resident memory above which a worker is replaced, in bytes; `None`: any amount.
    pub worker_max_memory: Option<u64>,
    /// Shown in `/health`.
    pub hot_queue_safety_factor: f64,
    /// What a worker's start is taken to cost until it is measured.
    pub cold_start_time: Duration,
    /// A worker silent for longer on one chunk is killed.
    pub lane_timeout: Duration,
    /// Drain time that counts as load 1.0.
    pub routing_drain_cap: Duration,
    /// More estimated waiting than this is refused.
    pub max_queue: Duration,
    /// How long a transcript is kept for the same request to come again; zero: it is not.
    pub result_cache: Duration,
    /// Largest upload, in bytes.
    pub max_upload_bytes: u64,
    /// Longest audio.
    pub max_audio: Duration,
    /// Base address of a LibreTranslate server; `None`: whisper itself translates, to English.
    pub libretranslate_url: Option<Url>,
    /// Its key.
    pub libretranslate_api_key: Option<Secret>,
    /// How long it may take for one transcript.
    pub libretranslate_timeout: Duration,
    /// Whose pages may use this server from a browser.
    pub cors_allow_origins: Origins,
    /// Where the node registers itself; `None`: nowhere.
    pub redis_url: Option<Secret>,
    /// The node's name there; `None`: `host:port`.
    pub node_id: Option<String>,
    /// The host that is advertised.
    pub node_host: String,
    /// The port that is advertised; `None`: the one that is bound.
    pub node_port: Option<u16>,
    /// Bearer keys without names.
    pub api_keys: Vec<Secret>,
    /// What the node is among others.
    pub role: Role,
    /// The model of a primary, if this names one.
    pub ct2_small: Option<String>,
    /// The model of a fallback, if this names one.
    pub ct2_medium: Option<String>,
    /// Which texts are had again from the fallback.
    pub escalation: EscalationPolicy,
    /// Base address of the node with the larger model.
    pub fallback_url: Option<Url>,
    /// Its key.
    pub fallback_api_key: Option<Secret>,
    /// A larger model on this node.
    pub fallback_model: Option<String>,
    /// How long the fallback may take for one piece of audio.
    pub fallback_timeout: Duration,
    /// What is deployed, by its operator's word.
    pub server_commit: Option<String>,
    /// A file of keys with names. Without keys of either, the server is open.
    pub api_keys_file: Option<PathBuf>,
    /// Whether `/metrics` needs a key.
    pub metrics_keyed: bool,
    /// Requests for work that a client may send in a second; `None`: any number.
    pub rate_limit_rps: Option<f64>,
    /// Requests for work that a client may send at once; `None`: by the rate.
    pub rate_limit_burst: Option<u32>,
    /// Audio that a client may have transcribed in a day; `None`: any amount.
    pub max_audio_per_day: Option<Duration>,
    /// Most connections at once.
    pub max_connections: u32,
    /// Proxies whose word on a client's address counts.
    pub trusted_proxies: Vec<IpNet>,
    /// Where inference runs.
    pub device: Device,
    /// Which GPU.
    pub device_index: u32,
    /// Trace routing and workers.
    pub debug: bool,
    /// The log's shape.
    pub log_format: LogFormat,
    /// Variables that somebody has set.
    set: BTreeSet<&'static str>,
}

/// What tells speech from silence (`VAD_MODEL`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VadModel {
    /// Silero VAD, with the weights of the models folder, fetched if need be.
    Silero,
    /// The same, with these weights.
    File(PathBuf),
    /// Nothing: all audio counts as speech.
    Off,
}

/// Whose pages may use this server from a browser (`CORS_ALLOW_ORIGINS`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origins {
    /// Nobody's but its own.
    None,
    /// Anybody's.
    Any,
    /// Those of these origins, each as browsers send it.
    These(Vec<String>),
}

/// Where inference runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// A GPU that this build knows, else the CPU.
    Auto,
    /// The CPU.
    Cpu,
    /// NVIDIA.
    Cuda,
    /// Any GPU with Vulkan.
    Vulkan,
}

/// The log's shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines: one object a line.
    Json,
}

/// Why the settings cannot be used: one line, for people.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum SettingsError {
    /// A value that cannot be read.
    #[error("{name}={value} ({origin}) is not valid: {allowed}")]
    Value {
        /// The variable.
        name: String,
        /// Its value, hidden if secret.
        value: String,
        /// Where it was set.
        origin: String,
        /// What is allowed.
        allowed: String,
    },
    /// A file that cannot be read.
    #[error("{0}")]
    File(String),
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings").finish_non_exhaustive()
    }
}

impl Settings {
    /// Whether somebody has set this variable, be it to its default.
    pub fn is_set(&self, name: &str) -> bool {
        self.set.contains(name)
    }
}

#[cfg(test)]
mod tests;
