//! The one place where everything is put together: the tree with its real engines and decoder,
//! and the HTTP server in front of it.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use stt_actors::ports::{NodeDirectory, VramProbe};
use stt_actors::{
    FallbackPort, IdlePolicy, PoolConfig, Ports, RecyclingLimits, Stt, TreeConfig, TreeEnded,
};
use tracing::{error, info, warn};

use crate::audio::vad::VoiceActivity;
use crate::audio::vad::silero::Weights;
use crate::audio::{Decoder, DecoderLimits};
use crate::engine::process::{WorkerConfig, WorkerLauncher};
use crate::fallback::FallbackServer;
use crate::host_memory::HostMemoryProbe;
use crate::http::upload::UploadStore;
use crate::http::{self, AppState, Limits};
use crate::keys::{self, Keyring, Keys, Reload, Reloader};
use crate::libretranslate::LibreTranslate;
use crate::metrics::{self, Exporter, GB, UPKEEP_INTERVAL};
use crate::models::configured::{ConfiguredModel, gpu};
use crate::models::{self, Logged, ModelStore, VOICE_ACTIVITY_NAME};
use crate::nvml::NvmlProbe;
use crate::redis::{NodeAddress, RedisDirectory};
use crate::settings::{Loaded, Secret, Settings, VadModel};
use crate::shutdown::{HangUp, HangUps, StopSignals};

/// How long requests may go on after the signal to stop. With the workers' and the HTTP server's own
/// grace it stays below the unit's `TimeoutStopSec`.
const DRAIN_GRACE: Duration = Duration::from_secs(30);
/// How long a worker may take to end after its socket was closed.
const WORKER_STOP_GRACE: Duration = Duration::from_secs(4);
/// Ample, also on a machine that swaps.
const HELLO_LIMIT: Duration = Duration::from_secs(20);
/// A large model from a slow disk takes minutes.
const LOAD_LIMIT: Duration = Duration::from_secs(600);
/// Threads beyond these gain nothing: handlers only wait.
const MOST_HTTP_THREADS: usize = 4;
/// ggml gains little from more threads on one small model.
const MOST_DEFAULT_THREADS: usize = 8;
/// Lanes' threads for each core. While one lane is in a part of its work that has one thread only,
/// another one uses the rest: on two cores, two lanes of two threads take 0.75 to 0.79 of the time
/// that one takes, and a third gains nothing (`examples/measure_lanes.rs`).
const THREADS_PER_CORE: usize = 2;

/// Starts the tree on real engines, the real decoder and the memory that there is. `directory` is
/// where the node makes itself known.
pub async fn start_tree(
    settings: &Settings,
    directory: Option<Arc<dyn NodeDirectory>>,
) -> anyhow::Result<(Stt, TreeEnded)> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = threads(settings, cores);
    let gpu = gpu(settings);
    let worker = WorkerConfig {
        executable: own_executable()?,
        threads,
        gpu,
        beam_size: settings.beam_size,
        hello_limit: HELLO_LIMIT,
        load_limit: LOAD_LIMIT,
    };
    let models = Arc::new(ConfiguredModel::new(settings));
    let memory: Arc<dyn VramProbe> = match gpu {
        Some(index) => Arc::new(NvmlProbe::new(index)),
        None => Arc::new(HostMemoryProbe::new()),
    };
    let ports = Ports {
        launcher: Arc::new(WorkerLauncher::new(worker.clone(), models)),
        decoder: Arc::new(Decoder::new(
            DecoderLimits {
                max_audio: settings.max_audio,
                concurrent_decoders: cores,
                ..DecoderLimits::default()
            },
            voice_activity(settings)?,
        )),
        memory: Some(memory),
        directory,
        fallback: fallback(settings, worker)?,
    };
    let lanes = gpu.is_none().then(|| default_lanes(cores, threads));
    let config = tree_config(settings, lanes);
    info!(
        cold_pool_size = config.pool.size,
        "at most so many cold workers"
    );
    Ok(Stt::start(ports, config).await?)
}

/// Who makes better texts, by the settings.
fn fallback(settings: &Settings, worker: WorkerConfig) -> anyhow::Result<Option<FallbackPort>> {
    if let Some(url) = &settings.fallback_url {
        let key = settings.fallback_api_key.clone().map(Secret::reveal);
        let server = FallbackServer::new(url, key, settings.fallback_timeout).context(
            "the client of the fallback cannot be made (FALLBACK_URL, FALLBACK_API_KEY)",
        )?;
        info!("texts that are not trusted go to another node (FALLBACK_URL)");
        return Ok(Some(FallbackPort::Node(Arc::new(server))));
    }
    let Some(model) = &settings.fallback_model else {
        return Ok(None);
    };
    info!(
        model,
        "texts that are not trusted go to a larger model of this node"
    );
    let (name, least_bytes) = name_and_memory(model);
    let models = Arc::new(ConfiguredModel::named(settings, model));
    Ok(Some(FallbackPort::Model {
        launcher: Arc::new(WorkerLauncher::new(worker, models)),
        model: name.into(),
        least_bytes,
    }))
}

/// A model's name for people, and the memory that it takes at least, as far as that is known.
fn name_and_memory(model: &str) -> (String, u64) {
    let path = Path::new(model);
    let name = if path.exists() {
        models::name_of(path)
    } else {
        models::canonical(model).to_owned()
    };
    let known = models::find(&name).map(models::CatalogueEntry::memory_bytes);
    let file = std::fs::metadata(path).map_or(0, |file| file.len());
    (name, known.unwrap_or(file))
}

/// What tells speech from silence, by the settings. Weights that are not there yet are fetched
/// meanwhile: until then, and if they cannot be had, all audio counts as speech.
fn voice_activity(settings: &Settings) -> anyhow::Result<VoiceActivity> {
    let load =
        |path: &Path| Weights::load(path).with_context(|| format!("VAD_MODEL: {}", path.display()));
    let store = ModelStore::new(settings.models_dir.clone());
    match (&settings.vad_model, store.voice_activity()) {
        (VadModel::Off, _) => Ok(VoiceActivity::default()),
        (VadModel::File(path), _) => Ok(VoiceActivity::with(load(path)?)),
        (VadModel::Silero, Some(path)) => Ok(VoiceActivity::with(load(&path)?)),
        (VadModel::Silero, None) => {
            let missing = VoiceActivity::default();
            tokio::spawn(fetch_voice_activity(store, missing.clone()));
            Ok(missing)
        }
    }
}

async fn fetch_voice_activity(store: ModelStore, missing: VoiceActivity) {
    let fetched = store.ensure_voice_activity(&Logged::default()).await;
    let weights = fetched
        .map_err(anyhow::Error::from)
        .and_then(|path| Ok(Weights::load(&path)?));
    match weights {
        Ok(weights) => missing.provide(weights),
        Err(error) => warn!(
            reason = format!("{error:#}"),
            "no voice activity detection: silence goes to the model as well. \
             `uttera-stt models pull {VOICE_ACTIVITY_NAME}` fetches what is missing"
        ),
    }
}

/// `lanes`: what the CPU is good for, where inference runs on it.
fn tree_config(settings: &Settings, lanes: Option<usize>) -> TreeConfig {
    let slots = settings.cold_pool_size as usize;
    TreeConfig {
        chunk_timeout: settings.lane_timeout,
        stop_grace: WORKER_STOP_GRACE,
        start_estimate: settings.cold_start_time,
        max_queue: settings.max_queue,
        drain_cap: settings.routing_drain_cap,
        hot_idle_limit: settings.hot_idle_timeout,
        recycling: RecyclingLimits {
            chunks: settings.worker_max_chunks,
            resident_bytes: settings.worker_max_memory,
        },
        pool: PoolConfig {
            size: pool_size(settings, lanes),
            interval: settings.pool_interval,
            idle: IdlePolicy {
                timeout: settings.cold_idle_timeout,
                stagger: settings.cold_idle_stagger,
                pool_size: slots,
            },
        },
        escalation: settings.escalation,
        fallback_limit: settings.fallback_timeout,
        result_cache: settings.result_cache,
        minimum_worker_bytes: (settings.min_cold_vram_gb * GB) as u64,
    }
}

/// Most cold workers. On a CPU the workers share the cores: unless the operator says otherwise,
/// there are no more of them than gain something.
fn pool_size(settings: &Settings, lanes: Option<usize>) -> usize {
    let mut size = settings.cold_pool_size as usize;
    if let Some(lanes) = lanes
        && !settings.is_set("COLD_POOL_SIZE")
    {
        size = size.min(lanes.saturating_sub(1));
    }
    // The hot worker, and the one with the larger model.
    let larger = settings.fallback_url.is_none() && settings.fallback_model.is_some();
    let others = 1 + usize::from(larger);
    let most = settings.max_concurrency.map(|most| most as usize);
    size.min(most.map_or(usize::MAX, |most| most.saturating_sub(others)))
}

/// Threads of a worker. More than there are cores only stand in each other's way.
fn threads(settings: &Settings, cores: usize) -> u32 {
    let most = cores as u32;
    let wanted = settings.whisper_threads;
    if let Some(wanted) = wanted.filter(|wanted| *wanted > most) {
        warn!(
            wanted,
            cores, "WHISPER_THREADS: a worker gets no more threads than there are cores"
        );
    }
    wanted.unwrap_or(MOST_DEFAULT_THREADS as u32).min(most)
}

/// Lanes of so many threads that a CPU is good for, the hot one included.
fn default_lanes(cores: usize, threads: u32) -> usize {
    let lanes = THREADS_PER_CORE * cores / threads.max(1) as usize;
    lanes.clamp(1, cores)
}

/// This program's file. `/proc/self/exe` stays true when the file is replaced by an update while
/// the server runs.
fn own_executable() -> anyhow::Result<PathBuf> {
    let proc = PathBuf::from("/proc/self/exe");
    if proc.exists() {
        return Ok(proc);
    }
    std::env::current_exe().context("the program's own file cannot be found")
}

/// Serves until SIGTERM or Ctrl-C, then drains: no new work, what runs is finished, the tree stops. On
/// SIGHUP, the keys are read again; `reload` gives the settings as they are then.
pub async fn serve(loaded: Loaded, reload: Reload) -> anyhow::Result<()> {
    let mut signals = StopSignals::listen().context("signals cannot be heard")?;
    let mut hang_ups = HangUps::listen().context("SIGHUP cannot be heard")?;
    let settings = &loaded.settings;
    let keys = keys::load(settings)?;
    let address = (settings.host, settings.port);
    let listener = TcpListener::bind(address).with_context(|| {
        format!(
            "{}:{} cannot be bound (HOST, PORT)",
            settings.host, settings.port
        )
    })?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    warn_if_open(settings, &keys);
    let uploads = UploadStore::open(&UploadStore::default_parent(), settings.max_upload_bytes)
        .context("the folder of uploads cannot be made")?;
    let metrics = Exporter::install()?;
    tokio::spawn(keep_up(metrics.clone()));
    metrics::keys::register(keys.names().map(|name| &**name));
    let keyring = Keyring::new(keys);
    let reloader = Reloader::start(keyring.clone(), &loaded, reload);
    let directory = directory(settings, address.port())?;
    let translator = translator(settings)?;
    let (stt, mut tree_ended) = start_tree(settings, directory).await?;
    if let Some(language) = settings.default_language.clone() {
        tokio::spawn(warn_of_language(stt.clone(), language));
    }
    let limits = Limits::new(settings);
    let mut settings = loaded.settings;
    // From here on, their digests are enough.
    settings.api_keys = Vec::new();
    let state = AppState {
        stt: stt.clone(),
        limits,
        keys: keyring,
        settings: Arc::new(settings),
        uploads: uploads.clone(),
        translator,
        metrics,
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let server = http::server(listener, state, threads.min(MOST_HTTP_THREADS))?;
    let server_handle = server.handle();
    let mut server = tokio::spawn(server);
    info!(%address, version = env!("CARGO_PKG_VERSION"), "listening; the model is loading");
    let mut terminal_is_gone = false;
    let unasked = loop {
        tokio::select! {
            signal = signals.next() => {
                info!(signal, "stopping; once more to stop at once");
                stt.drain(DRAIN_GRACE);
            }
            hang_up = hang_ups.next() => match hang_up {
                HangUp::Reload => reloader.ask(),
                // It may come more than once, and asking again would end what is under way.
                HangUp::TerminalGone if terminal_is_gone => {}
                HangUp::TerminalGone => {
                    terminal_is_gone = true;
                    info!("stopping: the terminal was closed");
                    stt.drain(DRAIN_GRACE);
                }
            },
            () = tree_ended.wait() => break !stt.snapshot().draining,
            ended = &mut server => {
                stt.drain(Duration::ZERO);
                tree_ended.wait().await;
                ended??;
                anyhow::bail!("the HTTP server ended by itself");
            }
        }
    };
    // The tree has answered everything by now; this lets the answers out.
    server_handle.stop(true).await;
    uploads.close();
    if unasked {
        error!("the supervision tree ended by itself");
        anyhow::bail!("the supervision tree ended by itself");
    }
    info!("stopped");
    Ok(())
}

async fn keep_up(metrics: Exporter) {
    let mut ticks = tokio::time::interval(UPKEEP_INTERVAL);
    loop {
        ticks.tick().await;
        metrics.upkeep();
    }
}

/// Where the settings have the node registered; `port` is the one that is bound.
fn directory(settings: &Settings, port: u16) -> anyhow::Result<Option<Arc<dyn NodeDirectory>>> {
    let Some(url) = &settings.redis_url else {
        return Ok(None);
    };
    let (host, port) = (
        settings.node_host.clone(),
        settings.node_port.unwrap_or(port),
    );
    let id = settings.node_id.clone();
    let node = NodeAddress {
        id: id.unwrap_or_else(|| format!("{host}:{port}")),
        host,
        port,
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    info!(node_id = node.id, "the node registers itself in Redis");
    Ok(Some(Arc::new(RedisDirectory::new(url, node)?)))
}

/// Says that the default language is none that the model knows, as soon as there is a model. Where
/// its name tells, the settings are refused before.
async fn warn_of_language(stt: Stt, language: String) {
    if let Ok(engine) = stt.ready().await
        && !engine.multilingual
        && language != "en"
    {
        warn!(
            language,
            model = engine.model,
            "DEFAULT_LANGUAGE: the model knows English only; requests without a language are refused"
        );
    }
}

/// Who translates, where somebody is configured.
fn translator(settings: &Settings) -> anyhow::Result<Option<LibreTranslate>> {
    let Some(url) = settings.libretranslate_url.clone() else {
        return Ok(None);
    };
    let key = settings.libretranslate_api_key.clone().map(Secret::reveal);
    let server = LibreTranslate::new(url, key, settings.libretranslate_timeout)
        .context("the client of LibreTranslate cannot be made")?;
    info!("translations are LibreTranslate's");
    Ok(Some(server))
}

fn warn_if_open(settings: &Settings, keys: &Keys) {
    if !settings.host.is_loopback() && keys.is_open() {
        warn!(
            host = %settings.host,
            "anyone who reaches this address can use the server: set API_KEYS or API_KEYS_FILE, or keep it behind a firewall"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Sources;

    fn settings(pairs: &[(&str, &str)]) -> Settings {
        let pair = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let sources = Sources {
            command_line: pairs.iter().map(pair).collect(),
            ..Sources::default()
        };
        Settings::load(&sources).expect("loads").settings
    }

    #[test]
    fn a_cpu_gets_as_many_lanes_as_gain_something() {
        let lanes = |cores| default_lanes(cores, threads(&Settings::default(), cores));
        assert_eq!([1, 2, 4, 8, 16, 64].map(lanes), [1, 2, 2, 2, 4, 16]);
        assert_eq!(default_lanes(2, 1), 2);
    }

    #[test]
    fn the_operators_pool_size_counts_on_a_cpu_and_concurrency_bounds_it() {
        assert_eq!(pool_size(&settings(&[]), Some(2)), 1);
        assert_eq!(pool_size(&settings(&[]), None), 10);
        assert_eq!(
            pool_size(&settings(&[("COLD_POOL_SIZE", "10")]), Some(2)),
            10
        );
        assert_eq!(pool_size(&settings(&[("COLD_POOL_SIZE", "0")]), None), 0);
        assert_eq!(pool_size(&settings(&[("MAX_CONCURRENCY", "3")]), None), 2);
        assert_eq!(pool_size(&settings(&[("MAX_CONCURRENCY", "1")]), None), 0);
    }
}
