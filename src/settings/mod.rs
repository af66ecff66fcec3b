//! Settings: built-in default < file < environment < command line.
//!
//! The variables stand in one table ([`variables`]) with their defaults, what they mean and how
//! they are read. A value that cannot be read stops the start with one line that names the
//! variable, the value and what is allowed. Secrets never appear in what is printed.

pub mod env_file;
pub mod variables;

mod defaults;
mod read;
mod role;
mod secret;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use reqwest::Url;
use stt_actors::EscalationPolicy;
use thiserror::Error;

use crate::models::{self, ComputeType};
pub use role::Role;
pub use secret::Secret;
use variables::{VARIABLES, Variable};

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

/// Settings and what there is to say about them.
#[derive(Debug)]
pub struct Loaded {
    /// To run with.
    pub settings: Settings,
    /// One line each: unknown names, values without effect.
    pub warnings: Vec<String>,
    /// Each variable with the text that is in force; secrets hidden.
    pub in_force: Vec<(&'static str, String)>,
}

/// Where values come from, lowest first. There are secrets among them: it is not for showing.
#[derive(Default)]
pub struct Sources {
    /// The file's name and its assignments.
    pub file: Option<(PathBuf, Vec<env_file::Assignment>)>,
    /// The process environment.
    pub environment: BTreeMap<String, String>,
    /// From the command line.
    pub command_line: Vec<(String, String)>,
    /// Some of the defaults are a role's own.
    pub role: Role,
}

impl Sources {
    /// The file named by `config` or `CONFIG_PATH`, else the role's usual one: `.env` here or in the
    /// parent folder (where the Python original looked as well); the environment; and the command
    /// line's pairs.
    pub fn of_process(
        role: Role,
        config: Option<&Path>,
        command_line: Vec<(String, String)>,
    ) -> Result<Self, SettingsError> {
        let environment: BTreeMap<String, String> = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        let named = config.map(Path::to_path_buf).or_else(|| {
            let path = environment.get("CONFIG_PATH")?;
            (!path.is_empty()).then(|| PathBuf::from(path))
        });
        let found = named.or_else(|| role.usual_file().map(Path::to_path_buf));
        let file = match found {
            Some(path) => {
                let read = env_file::read(&path).map_err(SettingsError::File)?;
                Some((path, read))
            }
            None => None,
        };
        Ok(Self {
            file,
            environment,
            command_line,
            role,
        })
    }

    /// The value in force of a variable and where it comes from. An empty value counts as unset.
    fn find(&self, name: &str) -> Option<(&str, String)> {
        let from_command_line = (self.command_line.iter().rev())
            .find(|(n, _)| n == name)
            .map(|(_, value)| (value.as_str(), "command line".to_owned()));
        let from_environment =
            (self.environment.get(name)).map(|value| (value.as_str(), "environment".to_owned()));
        let from_file = self.file.as_ref().and_then(|(path, assignments)| {
            let last = assignments.iter().rev().find(|a| a.name == name)?;
            Some((last.value.as_str(), path.display().to_string()))
        });
        [from_command_line, from_environment, from_file]
            .into_iter()
            .flatten()
            .find(|(value, _)| !value.trim().is_empty())
    }

    fn unknown_names(&self) -> Vec<String> {
        let file = self.file.iter().flat_map(|(_, assignments)| assignments);
        let from_file = file.map(|a| a.name.as_str());
        let from_command_line = self.command_line.iter().map(|(name, _)| name.as_str());
        let mut unknown: Vec<String> = (from_file.chain(from_command_line))
            .filter(|name| variables::find(name).is_none())
            .map(unknown_name)
            .collect();
        unknown.dedup();
        unknown
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings").finish_non_exhaustive()
    }
}

fn unknown_name(name: &str) -> String {
    if variables::OF_THE_PYTHON_ORIGINAL.contains(&name) {
        return format!("{name} has no meaning here: there is no Python to point at");
    }
    let nearest = VARIABLES
        .iter()
        .map(|v| (strsim::jaro_winkler(v.name, name), v.name))
        .max_by(|a, b| a.0.total_cmp(&b.0));
    match nearest {
        Some((likeness, nearest)) if likeness > 0.8 => {
            format!("{name} is not known and ignored; did you mean {nearest}?")
        }
        Some(_) | None => format!("{name} is not known and ignored"),
    }
}

impl Settings {
    /// Whether somebody has set this variable, be it to its default.
    pub fn is_set(&self, name: &str) -> bool {
        self.set.contains(name)
    }

    /// Settings that have no effect as others are.
    fn contradictions(&self) -> Vec<String> {
        let mut found = Vec::new();
        if self.rate_limit_burst.is_some() && self.rate_limit_rps.is_none() {
            found.push("RATE_LIMIT_BURST has no effect without RATE_LIMIT_RPS".to_owned());
        }
        if self.metrics_keyed && self.api_keys.is_empty() && self.api_keys_file.is_none() {
            found.push("METRICS_KEYED has no effect without keys".to_owned());
        }
        if self.fallback_url.is_some() && self.fallback_model.is_some() {
            found.push("FALLBACK_MODEL has no effect: FALLBACK_URL is set".to_owned());
        }
        if matches!(self.device, Device::Cuda | Device::Vulkan) && !crate::BUILT_FOR_GPU {
            let text =
                "DEVICE names a GPU, but this build knows the CPU only: inference runs on it";
            found.push(text.to_owned());
        }
        found
    }

    /// Puts the sources together.
    ///
    /// # Errors
    /// The first value that cannot be read.
    pub fn load(sources: &Sources) -> Result<Loaded, SettingsError> {
        let mut settings = Self {
            role: sources.role,
            ..Self::default()
        };
        let mut warnings = sources.unknown_names();
        let mut in_force = Vec::new();
        for variable in VARIABLES {
            let found = sources.find(variable.name);
            let text = match &found {
                Some((value, origin)) => {
                    apply(&mut settings, variable, value.trim(), origin)?;
                    settings.set.insert(variable.name);
                    if !variable.in_effect {
                        warnings.push(format!(
                            "{} is set, but this version does not act on it yet",
                            variable.name
                        ));
                    }
                    if variable.secret { "***" } else { value.trim() }
                }
                None => default(&mut settings, variable, sources.role)?,
            };
            in_force.push((variable.name, text.to_owned()));
        }
        choose_model(&mut settings, sources);
        check_default_language(&settings, sources)?;
        warnings.extend(settings.contradictions());
        Ok(Loaded {
            settings,
            warnings,
            in_force,
        })
    }
}

fn apply(
    settings: &mut Settings,
    variable: &Variable,
    value: &str,
    origin: &str,
) -> Result<(), SettingsError> {
    (variable.read)(settings, value).map_err(|allowed| SettingsError::Value {
        name: variable.name.to_owned(),
        value: if variable.secret { "***" } else { value }.to_owned(),
        origin: origin.to_owned(),
        allowed,
    })
}

/// What holds where nobody says anything, in this role.
fn default(
    settings: &mut Settings,
    variable: &Variable,
    role: Role,
) -> Result<&'static str, SettingsError> {
    let of_role = role.defaults().iter();
    let mut of_role = of_role.filter(|(name, _)| *name == variable.name);
    let Some((_, value)) = of_role.next() else {
        return Ok(variable.default);
    };
    apply(settings, variable, value, &format!("role {role}"))?;
    Ok(value)
}

/// `CT2_SMALL_PATH` and `CT2_MEDIUM_PATH` win over `WHISPER_MODEL`, unless that was said on the command
/// line.
fn choose_model(settings: &mut Settings, sources: &Sources) {
    let said_last = |name: &str| sources.command_line.iter().any(|(said, _)| said == name);
    let Some((name, path)) = variables::ct2_path(settings) else {
        return;
    };
    if !said_last("WHISPER_MODEL") || said_last(name) {
        settings.whisper_model = path.to_owned();
    }
}

/// Refuses a default language that the model does not know, where its name tells.
fn check_default_language(settings: &Settings, sources: &Sources) -> Result<(), SettingsError> {
    let named = models::find(&settings.whisper_model);
    let is_english_only = named.is_some_and(|entry| entry.name.contains(".en"));
    let name = "DEFAULT_LANGUAGE";
    match (&settings.default_language, sources.find(name)) {
        (Some(code), Some((value, origin))) if is_english_only && code != "en" => {
            Err(SettingsError::Value {
                name: name.to_owned(),
                value: value.trim().to_owned(),
                origin,
                allowed: format!(
                    "the model {} (WHISPER_MODEL) knows English only",
                    settings.whisper_model
                ),
            })
        }
        _ => Ok(()),
    }
}

/// `assets/models` below the working directory where it exists, else the user's cache.
fn default_models_dir() -> PathBuf {
    let beside = Path::new("assets/models");
    if beside.is_dir() {
        return beside.join("whisper");
    }
    match directories::BaseDirs::new() {
        Some(base) => base.cache_dir().join("whisper"),
        None => beside.join("whisper"),
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
