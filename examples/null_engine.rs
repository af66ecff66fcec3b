//! Runs the whole server with an engine that answers every chunk at once, for measuring everything else, such
//! as memory during hours of audio.
//!
//! ```text
//! cargo run --release --example null_engine -- --vad silero-vad-16k.safetensors [--port 9005]
//! ```
//!
//! Prints its address on a separate line, and serves until it is killed.

use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use clap::Parser;
use stt_actors::domain::error::{EngineError, EngineExit, LaunchError};
use stt_actors::domain::ids::WorkerId;
use stt_actors::domain::transcript::{ChunkTranscript, Segment};
use stt_actors::ports::{
    ChunkRequest, Engine, EngineInfo, EngineLauncher, LanguageHeard, NodeDirectory,
};
use stt_actors::{IdlePolicy, PoolConfig, Ports, RecyclingLimits, Stt, TreeConfig};
use tokio::sync::watch;
use uttera_stt::allow_list::AllowList;
use uttera_stt::audio::vad::VoiceActivity;
use uttera_stt::audio::vad::silero::Weights;
use uttera_stt::audio::{Decoder, DecoderLimits};
use uttera_stt::board::{Board, Identity};
use uttera_stt::http::UploadStore;
use uttera_stt::http::{
    self, Accounts, AppState, ClientSecrets, DrainRequests, JobService, Limits, LoadReport,
};
use uttera_stt::keys::Keyring;
use uttera_stt::metrics::Exporter;
use uttera_stt::redis::{NodeAddress, RedisDirectory, RedisPem};
use uttera_stt::settings::Settings;

#[derive(Parser)]
struct Args {
    /// Path of Silero's weights. Without it, all audio counts as speech.
    #[arg(long)]
    vad: Option<PathBuf>,
    /// Port; 0: any free port.
    #[arg(long, default_value_t = 9005)]
    port: u16,
    /// Duration of the engine's work for a chunk, in milliseconds.
    #[arg(long, default_value_t = 0)]
    work_millis: u64,
    /// URL of a Redis in which the node registers itself, for measuring routers.
    #[arg(long)]
    redis: Option<String>,
}

struct Launcher {
    work: Duration,
}

#[async_trait]
impl EngineLauncher for Launcher {
    async fn launch(&self, _worker: &WorkerId) -> Result<Arc<dyn Engine>, LaunchError> {
        Ok(Arc::new(Null {
            info: EngineInfo {
                model: "null".to_owned(),
                multilingual: true,
                device: "CPU".to_owned(),
                process_id: None,
                load_time: Duration::from_millis(1),
                calibration: None,
            },
            work: self.work,
            exit: watch::Sender::new(None),
        }))
    }
}

/// Returns one word for each chunk.
struct Null {
    info: EngineInfo,
    work: Duration,
    exit: watch::Sender<Option<EngineExit>>,
}

#[async_trait]
impl Engine for Null {
    fn info(&self) -> &EngineInfo {
        &self.info
    }

    async fn transcribe(
        &self,
        request: ChunkRequest,
        _heard: LanguageHeard,
    ) -> Result<ChunkTranscript, EngineError> {
        // Even a sleep of no time lasts until the timer's next millisecond.
        if !self.work.is_zero() {
            tokio::time::sleep(self.work).await;
        }
        Ok(ChunkTranscript {
            segments: vec![Segment {
                id: 0,
                seek: 0,
                start: 0.0,
                end: request.audio.duration_seconds(),
                text: " word".to_owned(),
                tokens: vec![1],
                logprobs: Vec::new(),
                temperature: 0.0,
                avg_logprob: -0.1,
                compression_ratio: 1.0,
                no_speech_prob: 0.0,
                words: Vec::new(),
            }],
            language: request.language.unwrap_or_else(|| "en".to_owned()),
            language_probability: None,
            encoder_passes: 0,
            doubt: None,
            inference_seconds: self.work.as_secs_f64().max(1e-6),
        })
    }

    fn abort(&self) {}

    async fn exited(&self) -> EngineExit {
        let mut exit = self.exit.subscribe();
        match exit.wait_for(Option::is_some).await {
            Ok(exit) => exit.clone().unwrap_or(EngineExit::Stopped),
            Err(_closed) => EngineExit::Stopped,
        }
    }

    async fn stop(&self, _grace: Duration) -> EngineExit {
        self.exit.send_replace(Some(EngineExit::Stopped));
        EngineExit::Stopped
    }

    fn kill_timed_out(&self) {
        self.exit.send_replace(Some(EngineExit::TimedOut));
    }

    fn resident_bytes(&self) -> Option<u64> {
        None
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let settings = Settings::default();
    let voice_activity = match &args.vad {
        Some(path) => VoiceActivity::with(Weights::load(path)?),
        None => VoiceActivity::default(),
    };
    let listener = TcpListener::bind(("127.0.0.1", args.port))?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let ports = Ports {
        launcher: Arc::new(Launcher {
            work: Duration::from_millis(args.work_millis),
        }),
        decoder: Arc::new(Decoder::new(DecoderLimits::default(), voice_activity)),
        memory: None,
        directory: directory(args.redis.as_deref(), address.port())?,
        fallback: None,
        translator: None,
    };
    let (stt, mut ended) = Stt::start(ports, config(&settings)).await?;
    stt.ready().await.map_err(anyhow::Error::msg)?;
    let uploads = UploadStore::open(&UploadStore::default_parent(), settings.max_upload_bytes)?;
    let (limits, keys, metrics) = (
        Limits::new(&settings),
        Keyring::default(),
        Exporter::install()?,
    );
    let accounts = Accounts {
        limits: limits.clone(),
        keys: keys.clone(),
        metrics: metrics.clone(),
    };
    let state = AppState {
        jobs: JobService::new(&settings, None, stt.clone(), accounts),
        board: Board::new(stt.clone(), Identity::default(), None),
        stt,
        keys,
        client_secrets: ClientSecrets::default(),
        allow_list: AllowList::new(&settings.allowed_networks),
        load_report: LoadReport::default(),
        drain_requests: DrainRequests::default(),
        limits,
        settings: Arc::new(settings),
        uploads,
        metrics,
    };
    let server = http::server(listener, state, None, 2)?;
    println!("http://{address}");
    tokio::select! {
        ended = server => Ok(ended?),
        () = ended.wait() => anyhow::bail!("the tree has ended"),
    }
}

/// The record in Redis of the node on this port.
fn directory(url: Option<&str>, port: u16) -> anyhow::Result<Option<Arc<dyn NodeDirectory>>> {
    let Some(url) = url else { return Ok(None) };
    let node = NodeAddress {
        id: format!("127.0.0.1:{port}"),
        host: "127.0.0.1".to_owned(),
        port,
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    Ok(Some(Arc::new(RedisDirectory::new(
        url,
        &RedisPem::default(),
        node,
    )?)))
}

fn config(settings: &Settings) -> TreeConfig {
    TreeConfig {
        chunk_timeout: settings.lane_timeout,
        stop_grace: Duration::from_secs(1),
        start_estimate: settings.cold_start_time,
        max_queue: settings.max_queue,
        drain_cap: settings.routing_drain_cap,
        hot_idle_limit: None,
        recycling: RecyclingLimits::default(),
        live: stt_actors::LiveConfig {
            sessions: 64,
            idle_limit: Duration::from_secs(120),
        },
        pool: PoolConfig {
            size: 0,
            interval: settings.pool_interval,
            idle: IdlePolicy {
                timeout: settings.cold_idle_timeout,
                stagger: settings.cold_idle_stagger,
            },
        },
        escalation: settings.escalation,
        fallback_limit: settings.fallback_timeout,
        translation_limit: Duration::ZERO,
        result_cache: Duration::ZERO,
        minimum_worker_bytes: 0,
    }
}
