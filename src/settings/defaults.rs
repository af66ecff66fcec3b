//! Built-in defaults. The table of variables shows the same values as text.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::read::MEGABYTE;
use super::{
    Device, FallbackTlsSettings, JobSettings, LogFormat, Origins, RedisTlsSettings, Role,
    S3Settings, Settings, TlsSettings, VadModel, WyomingSettings, variables,
};
use crate::engine::EngineChoice;

impl Default for Settings {
    fn default() -> Self {
        Self {
            host: [127, 0, 0, 1].into(),
            port: 9005,
            tls: TlsSettings::default(),
            whisper_model: "auto".to_owned(),
            models_dir: default_models_dir(),
            compute_type: None,
            whisper_fp16: true,
            whisper_threads: None,
            beam_size: 1,
            engine: EngineChoice::Auto,
            vad_model: VadModel::Silero,
            default_language: None,
            cold_pool_size: 10,
            cold_idle_timeout: Duration::from_secs(60),
            cold_idle_stagger: Duration::from_secs(10),
            pool_interval: Duration::from_millis(500),
            min_cold_vram_gb: 4.0,
            hot_idle_timeout: None,
            max_concurrency: None,
            worker_max_chunks: Some(1000),
            worker_max_memory: None,
            hot_queue_safety_factor: 0.8,
            cold_start_time: Duration::from_secs(8),
            lane_timeout: Duration::from_secs(300),
            routing_drain_cap: Duration::from_secs(120),
            drain_delay: None,
            drain_grace: Duration::from_secs(30),
            max_queue: Duration::from_secs(600),
            result_cache: Duration::ZERO,
            max_upload_bytes: 512 * MEGABYTE,
            max_audio: Duration::from_secs(14_400),
            agent_check_port: None,
            board: true,
            max_live_sessions: 64,
            live_idle_timeout: Duration::from_secs(120),
            realtime_session: Duration::from_secs(3600),
            wyoming: WyomingSettings::default(),
            jobs: JobSettings {
                folder: jobs_dir(Role::default()),
                time_to_live: Duration::from_secs(86_400),
                per_client: 100,
                storage_bytes: 10_240 * MEGABYTE,
                client_bytes: 5_120 * MEGABYTE,
                concurrency: 1,
                shared: false,
                s3: S3Settings::default(),
                callback_secret: None,
                callback_hosts: Vec::new(),
            },
            libretranslate_url: None,
            libretranslate_api_key: None,
            libretranslate_timeout: Duration::from_secs(30),
            cors_allow_origins: Origins::None,
            redis_url: None,
            redis_tls: RedisTlsSettings::default(),
            node_id: None,
            node_host: None,
            node_port: None,
            api_keys: Vec::new(),
            role: Role::default(),
            ct2_small: None,
            ct2_medium: None,
            escalation: variables::ESCALATION,
            fallback_url: None,
            fallback_api_key: None,
            fallback_tls: FallbackTlsSettings::default(),
            fallback_model: None,
            fallback_timeout: Duration::from_secs(60),
            server_commit: None,
            api_keys_file: None,
            metrics_keyed: false,
            rate_limit_rps: None,
            rate_limit_burst: None,
            max_audio_per_day: None,
            max_connections: 512,
            trusted_proxies: Vec::new(),
            allowed_networks: Vec::new(),
            device: Device::Auto,
            device_index: 0,
            debug: false,
            log_format: LogFormat::Text,
            log_dir: None,
            log_transcripts: false,
            set: BTreeSet::new(),
        }
    }
}

/// `uttera-stt/jobs` in the user's folder for data. A primary and a fallback of one user have folders of their own,
/// because a folder belongs to one server.
pub(super) fn jobs_dir(role: Role) -> PathBuf {
    let base = directories::BaseDirs::new();
    let data = base.map_or_else(PathBuf::new, |base| base.data_dir().to_owned());
    data.join(match role {
        Role::Hotcold => "uttera-stt/jobs",
        Role::Primary => "uttera-stt/jobs-primary",
        Role::Fallback => "uttera-stt/jobs-fallback",
    })
}

/// `assets/models/whisper` in the working directory if `assets/models` exists, else the user's cache.
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
