//! Settings: built-in default < file < environment < command line.
//!
//! One table ([`variables`]) lists every variable with its default, its meaning and its parser. An
//! invalid value stops the start with one line that names the variable, the value and what is
//! allowed. Secrets are never printed.

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
use stt_actors::{DrainPlan, EscalationPolicy};
use thiserror::Error;

use crate::engine::EngineChoice;
use crate::models::ComputeType;
pub use load::Loaded;
pub use role::Role;
pub use secret::Secret;
pub use sources::Sources;

/// How long routers may take to read the record again: they do so each second or two.
const ROUTER_DELAY: Duration = Duration::from_secs(3);

/// All settings of the server. `Debug` prints no field, since the URLs may contain passwords.
#[derive(Clone)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a setting of its own"
)]
pub struct Settings {
    /// Address to bind.
    pub host: IpAddr,
    /// Port to bind.
    pub port: u16,
    /// TLS by the server itself.
    pub tls: TlsSettings,
    /// A catalogue name, a ggml file or a CTranslate2 folder; `auto`: by device.
    pub whisper_model: String,
    /// The models folder.
    pub models_dir: PathBuf,
    /// Number format of the weights; `None`: as in the model file.
    pub compute_type: Option<ComputeType>,
    /// Use 16-bit weights; `false`: 32-bit.
    pub whisper_fp16: bool,
    /// CPU threads per worker; `None`: derived from the number of cores.
    pub whisper_threads: Option<u32>,
    /// Beam size of the decoder; 1: greedy.
    pub beam_size: u32,
    /// Which implementation of Whisper is used.
    pub engine: EngineChoice,
    /// The voice activity detector.
    pub vad_model: VadModel,
    /// ISO 639-1; `None`: detect.
    pub default_language: Option<String>,
    /// Maximum number of cold workers.
    pub cold_pool_size: u32,
    /// Idle time before a cold worker ends.
    pub cold_idle_timeout: Duration,
    /// Added to `cold_idle_timeout` for each slot of the pool that is free when the worker starts.
    pub cold_idle_stagger: Duration,
    /// Interval of pool sizing and of publishing the record in Redis.
    pub pool_interval: Duration,
    /// Free GPU memory that a worker is assumed to need until measured, in GB (2³⁰ bytes); 0: no
    /// check.
    pub min_cold_vram_gb: f64,
    /// Idle time after which even the hot model is freed; `None`: never.
    pub hot_idle_timeout: Option<Duration>,
    /// Maximum number of chunks in inference at the same time, which only lowers the number of workers; `None`: one
    /// per worker.
    pub max_concurrency: Option<u32>,
    /// Number of chunks after which a worker is replaced; `None`: no limit.
    pub worker_max_chunks: Option<u64>,
    /// Resident memory above which a worker is replaced, in bytes; `None`: no limit.
    pub worker_max_memory: Option<u64>,
    /// Shown in `/health`.
    pub hot_queue_safety_factor: f64,
    /// Assumed start time of a worker until it is measured.
    pub cold_start_time: Duration,
    /// A worker that gives no result for a chunk within this time is killed.
    pub lane_timeout: Duration,
    /// Drain time that counts as load 1.0.
    pub routing_drain_cap: Duration,
    /// How long requests are still taken after the node has left its record; `None`: see [`Settings::drain_plan`].
    pub drain_delay: Option<Duration>,
    /// How long running requests may take after that.
    pub drain_grace: Duration,
    /// Longest estimated wait; requests beyond it are rejected.
    pub max_queue: Duration,
    /// How long a transcript is cached for identical requests; zero: no cache.
    pub result_cache: Duration,
    /// Largest upload, in bytes.
    pub max_upload_bytes: u64,
    /// Longest audio.
    pub max_audio: Duration,
    /// Port of HAProxy's agent check; `None`: there is none.
    pub agent_check_port: Option<u16>,
    /// Whether the page at `/` and the board are served.
    pub board: bool,
    /// Maximum number of live sessions.
    pub max_live_sessions: u32,
    /// Time without audio and requests after which a live session is ended.
    pub live_idle_timeout: Duration,
    /// The longest realtime session.
    pub realtime_session: Duration,
    /// The Wyoming protocol.
    pub wyoming: WyomingSettings,
    /// Jobs.
    pub jobs: JobSettings,
    /// Base URL of a LibreTranslate server; `None`: whisper translates, to English only.
    pub libretranslate_url: Option<Url>,
    /// API key of the LibreTranslate server.
    pub libretranslate_api_key: Option<Secret>,
    /// Time limit for translating one transcript.
    pub libretranslate_timeout: Duration,
    /// Origins whose pages may use this server from a browser.
    pub cors_allow_origins: Origins,
    /// Redis server where the node registers itself; `None`: the node does not register.
    pub redis_url: Option<Secret>,
    /// Certificates for the connections to Redis.
    pub redis_tls: RedisTlsSettings,
    /// The node's name in Redis; `None`: `host:port`.
    pub node_id: Option<String>,
    /// The advertised host; `None`: see [`crate::redis::reach`].
    pub node_host: Option<String>,
    /// The advertised port; `None`: the bound port.
    pub node_port: Option<u16>,
    /// Bearer keys without names.
    pub api_keys: Vec<Secret>,
    /// The node's role among several nodes.
    pub role: Role,
    /// Model of a primary (`CT2_SMALL_PATH`).
    pub ct2_small: Option<String>,
    /// Model of a fallback (`CT2_MEDIUM_PATH`).
    pub ct2_medium: Option<String>,
    /// Thresholds below which a text is escalated to the fallback.
    pub escalation: EscalationPolicy,
    /// Base URL of the fallback node.
    pub fallback_url: Option<Url>,
    /// API key of the fallback node.
    pub fallback_api_key: Option<Secret>,
    /// Certificates for the connection to the fallback node.
    pub fallback_tls: FallbackTlsSettings,
    /// Fallback model on this node.
    pub fallback_model: Option<String>,
    /// Time limit of the fallback for one chunk.
    pub fallback_timeout: Duration,
    /// The deployed commit, as the operator states it.
    pub server_commit: Option<String>,
    /// File of named keys. Without any key, the server is open.
    pub api_keys_file: Option<PathBuf>,
    /// Whether `/metrics` needs a key.
    pub metrics_keyed: bool,
    /// Requests for work per second and client; `None`: no limit.
    pub rate_limit_rps: Option<f64>,
    /// Burst size of the rate limit per client; `None`: derived from the rate.
    pub rate_limit_burst: Option<u32>,
    /// Audio per client and day; `None`: no limit.
    pub max_audio_per_day: Option<Duration>,
    /// Maximum number of open connections.
    pub max_connections: u32,
    /// Proxies whose `X-Forwarded-For` is trusted.
    pub trusted_proxies: Vec<IpNet>,
    /// Clients that may use the server; empty: all.
    pub allowed_networks: Vec<IpNet>,
    /// Device for inference.
    pub device: Device,
    /// Index of the GPU.
    pub device_index: u32,
    /// Log routing and workers in detail.
    pub debug: bool,
    /// Format of log lines.
    pub log_format: LogFormat,
    /// Folder of the log files; `None`: the log goes to standard error only.
    pub log_dir: Option<PathBuf>,
    /// Whether transcripts may appear in the log.
    pub log_transcripts: bool,
    /// Variables that were set explicitly.
    set: BTreeSet<&'static str>,
}

/// The voice activity detector (`VAD_MODEL`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VadModel {
    /// Silero VAD with the weights in the models folder, downloaded if missing.
    Silero,
    /// Silero VAD with the weights in this file.
    File(PathBuf),
    /// No detector: all audio counts as speech.
    Off,
}

/// TLS by the server itself (`TLS_…`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsSettings {
    /// The file with the certificate and its chain; `None`: plain HTTP.
    pub certificate: Option<PathBuf>,
    /// The file with its private key.
    pub key: Option<PathBuf>,
    /// The file with the authorities of the clients' certificates; `None`: clients need no certificate.
    pub client_ca: Option<PathBuf>,
}

impl TlsSettings {
    /// Whether the server speaks HTTPS.
    pub fn is_on(&self) -> bool {
        self.certificate.is_some()
    }
}

/// Certificates for the connection to the fallback node (`FALLBACK_…`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FallbackTlsSettings {
    /// The file with the only trusted authorities; `None`: those of the system.
    pub ca: Option<PathBuf>,
    /// The file with the certificate that this node presents, and its chain.
    pub certificate: Option<PathBuf>,
    /// The file with its private key.
    pub key: Option<PathBuf>,
}

/// Certificates for the connections to Redis (`REDIS_…`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RedisTlsSettings {
    /// The file with the only trusted authorities; `None`: those of the system.
    pub ca: Option<PathBuf>,
    /// The file with the certificate that this node presents, and its chain.
    pub certificate: Option<PathBuf>,
    /// The file with its private key.
    pub key: Option<PathBuf>,
}

/// Settings of the Wyoming protocol (`WYOMING_…`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WyomingSettings {
    /// Port on the address `HOST`; `None`: none.
    pub port: Option<u16>,
    /// Further addresses.
    pub addresses: Vec<WyomingAddress>,
    /// Codes of the languages that clients may choose; empty: all of the model.
    pub languages: Vec<String>,
    /// Name of the announcement in the local network; `None`: no announcement.
    pub name: Option<String>,
    /// Whether clients get text while the utterance is spoken.
    pub partials: bool,
}

impl WyomingSettings {
    /// Whether the server speaks the protocol.
    pub fn is_on(&self) -> bool {
        self.port.is_some() || !self.addresses.is_empty()
    }
}

/// Settings of jobs (`JOB…`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobSettings {
    /// The folder for audio and, without Redis, for the database.
    pub folder: PathBuf,
    /// How long a job is kept after its end.
    pub time_to_live: Duration,
    /// Most jobs of one client that are kept.
    pub per_client: usize,
    /// Most bytes of stored audio of all jobs.
    pub storage_bytes: u64,
    /// Most bytes of stored audio of one client's jobs.
    pub client_bytes: u64,
    /// How many jobs run at the same time.
    pub concurrency: usize,
    /// Whether the jobs are in Redis, and the audio is where all nodes see it.
    pub shared: bool,
    /// Where the audio is, if not in the folder.
    pub s3: S3Settings,
    /// Signs callbacks; `None`: there are none.
    pub callback_secret: Option<Secret>,
    /// Hosts that callbacks may go to although their address is not public, in lower case.
    pub callback_hosts: Vec<String>,
}

/// A bucket of an S3 store (`JOB_AUDIO_URL`, `AWS_…`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct S3Settings {
    /// The bucket; empty: none is used.
    pub bucket: String,
    /// The folder in the bucket.
    pub prefix: String,
    /// The store; `None`: Amazon's.
    pub endpoint: Option<Url>,
    /// The region; `None`: the store's default.
    pub region: Option<String>,
    /// The id of the access key; `None`: the one of this machine's identity.
    pub key_id: Option<String>,
    /// The access key.
    pub key: Option<Secret>,
}

impl S3Settings {
    /// Whether the audio of jobs is there.
    pub fn is_used(&self) -> bool {
        !self.bucket.is_empty()
    }
}

/// An address for the Wyoming protocol (`WYOMING_URI`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WyomingAddress {
    /// A host, as a name or an address, and a port.
    Tcp(String),
    /// The path of a socket's file.
    Unix(PathBuf),
}

/// Origins whose pages may use this server from a browser (`CORS_ALLOW_ORIGINS`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origins {
    /// Only the server's own origin.
    None,
    /// All origins.
    Any,
    /// These origins, each as browsers send it.
    These(Vec<String>),
}

/// Device for inference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// A GPU if this build supports one, else the CPU.
    Auto,
    /// The CPU.
    Cpu,
    /// An NVIDIA GPU.
    Cuda,
    /// A GPU with Vulkan support.
    Vulkan,
}

/// Format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Text for people.
    Text,
    /// One JSON object per line.
    Json,
    /// `name=value` pairs.
    Logfmt,
}

/// Why the settings are unusable: one line, for people.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum SettingsError {
    /// A variable has an invalid value.
    #[error("{name}={value} ({origin}) is invalid: {allowed}")]
    Value {
        /// The variable.
        name: String,
        /// Its value, hidden if secret.
        value: String,
        /// The source that set it.
        origin: String,
        /// What is allowed.
        allowed: String,
    },
    /// The file of settings cannot be read.
    #[error("{0}")]
    File(String),
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings").finish_non_exhaustive()
    }
}

impl Settings {
    /// Whether a source sets this variable, even to its default value.
    pub fn is_set(&self, name: &str) -> bool {
        self.set.contains(name)
    }

    /// How the node ends. Without an explicit delay, a node that routers find in Redis or ask by the agent check waits for
    /// as long as these need to ask again.
    pub fn drain_plan(&self) -> DrainPlan {
        let has_routers = self.redis_url.is_some() || self.agent_check_port.is_some();
        let default = if has_routers {
            ROUTER_DELAY
        } else {
            Duration::ZERO
        };
        DrainPlan {
            delay: self.drain_delay.unwrap_or(default),
            grace: self.drain_grace,
        }
    }

    /// Whether only clients with certain addresses or certificates may use the server.
    pub fn admits_chosen_clients_only(&self) -> bool {
        !self.allowed_networks.is_empty() || self.tls.client_ca.is_some()
    }
}

#[cfg(test)]
mod tests;
