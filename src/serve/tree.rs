//! The ports and limits of the supervision tree, made from the settings.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use stt_actors::ports::{NodeDirectory, Translator, VramProbe};
use stt_actors::{
    FallbackPort, IdlePolicy, LiveConfig, PoolConfig, Ports, RecyclingLimits, Stt, TreeConfig,
    TreeEnded,
};
use tracing::{error, info, warn};

use super::sizing::{default_lanes, pool_size, threads};
use crate::audio::vad::VoiceActivity;
use crate::audio::vad::silero::Weights;
use crate::audio::{Decoder, DecoderLimits};
use crate::engine::devices::{self, DeviceProbe};
use crate::engine::own_executable;
use crate::engine::process::{WorkerConfig, WorkerLauncher};
use crate::fallback::FallbackServer;
use crate::host_memory::HostMemoryProbe;
use crate::keys::Further;
use crate::libretranslate::LibreTranslate;
use crate::metrics::GB;
use crate::models::configured::ConfiguredModel;
use crate::models::{self, Logged, ModelStore, VOICE_ACTIVITY_NAME};
use crate::nvml::NvmlProbe;
use crate::redis::nodes::NodeReader;
use crate::redis::reach::{self, NodeHost};
use crate::redis::{NodeAddress, RedisDirectory, RedisPem};
use crate::settings::{self, Secret, Settings, VadModel};
use crate::tls::redis::RedisFiles;

/// How long a worker may take to exit after its socket was closed.
const WORKER_STOP_GRACE: Duration = Duration::from_secs(4);
/// How long a worker process may take to answer its first message; ample even on a machine that swaps.
const HELLO_LIMIT: Duration = Duration::from_secs(20);
/// How long a worker may take to load its model: minutes for a large one on a slow disk.
const LOAD_LIMIT: Duration = Duration::from_secs(600);

/// Other servers that the node uses.
pub struct Neighbours {
    /// The id under which the node registers itself.
    pub node_id: Option<String>,
    /// Reads the records of all nodes, for the board.
    pub(super) node_reader: Option<NodeReader>,
    /// Where the node registers itself.
    directory: Option<Arc<RedisDirectory>>,
    /// The certificates of the connections to Redis.
    redis_files: RedisFiles,
    /// Translates transcripts.
    translator: Option<Arc<dyn Translator>>,
    /// The fallback node.
    fallback: Option<FallbackServer>,
}

impl Neighbours {
    /// The configured neighbours; `port` is the bound port.
    ///
    /// # Errors
    /// A client cannot be created.
    pub async fn of(settings: &Settings, port: u16) -> anyhow::Result<Self> {
        let node = node_address(settings, port).await;
        let redis_files = RedisFiles::of(&settings.redis_tls);
        let pem = redis_files.read()?;
        let reader = |url: &Secret| NodeReader::new(url, &pem);
        Ok(Self {
            node_id: node.as_ref().map(|node| node.id.clone()),
            node_reader: settings.redis_url.as_ref().map(reader).transpose()?,
            directory: directory(settings, node, &pem)?,
            redis_files,
            translator: translator(settings)?,
            fallback: fallback_node(settings)?,
        })
    }

    /// Those that also a command without a server uses.
    ///
    /// # Errors
    /// A client cannot be created.
    pub fn of_command(settings: &Settings) -> anyhow::Result<Self> {
        Ok(Self {
            node_id: None,
            node_reader: None,
            directory: None,
            redis_files: RedisFiles::default(),
            translator: None,
            fallback: fallback_node(settings)?,
        })
    }

    /// What reads the certificates of the neighbours again.
    pub(super) fn reload(&self) -> impl Iterator<Item = Further> + use<> {
        let fallback = self.fallback.clone();
        let of_fallback = fallback.map(|fallback| Box::new(move || fallback.reload()) as Further);
        let (files, directory) = (self.redis_files.clone(), self.directory.clone());
        let reader = self.node_reader.clone().filter(|_| !files.is_empty());
        let of_redis = reader.map(|reader| {
            Box::new(move || reload_redis(&files, &reader, directory.as_deref())) as Further
        });
        of_fallback.into_iter().chain(of_redis)
    }
}

/// Starts the tree with real ports.
///
/// # Errors
/// A port cannot be created, or the tree does not start.
pub async fn start_tree(
    settings: &Settings,
    neighbours: Neighbours,
) -> anyhow::Result<(Stt, TreeEnded)> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = threads(settings, cores);
    let executable = own_executable().context("cannot find the executable of this program")?;
    let device = chosen_gpu(settings).await?;
    let gpu = device.as_ref().map(|(index, _)| *index);
    let worker = WorkerConfig {
        executable: executable.clone(),
        threads,
        gpu,
        beam_size: settings.beam_size,
        engine: settings.engine,
        hello_limit: HELLO_LIMIT,
        load_limit: LOAD_LIMIT,
    };
    let vram = device.as_ref().map(|(_, device)| device.total);
    let models = Arc::new(ConfiguredModel::new(settings, vram));
    let memory: Arc<dyn VramProbe> = match gpu {
        Some(index) if cfg!(feature = "vulkan") => Arc::new(DeviceProbe::new(executable, index)),
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
        directory: (neighbours.directory).map(|directory| directory as Arc<dyn NodeDirectory>),
        fallback: fallback(settings, neighbours.fallback, worker),
        translator: neighbours.translator,
    };
    let lanes = gpu.is_none().then(|| default_lanes(cores, threads));
    let config = tree_config(settings, lanes);
    info!(cold_pool_size = config.pool.size, "limit of cold workers");
    Ok(Stt::start(ports, config).await?)
}

/// The GPU that the settings choose, with its index; `None`: inference runs on the CPU. With `DEVICE=auto`, the log
/// says why a build for GPUs uses the CPU.
///
/// # Errors
/// The settings name a GPU, and there is none; the message says why.
async fn chosen_gpu(settings: &Settings) -> anyhow::Result<Option<(u32, devices::Device)>> {
    if !crate::BUILT_FOR_GPU || settings.device == settings::Device::Cpu {
        return Ok(None);
    }
    let index = settings.device_index;
    match devices::find(index).await {
        Ok(device) => {
            info!(device = device.title(), index, "inference runs on a GPU");
            Ok(Some((index, device)))
        }
        Err(reason) if settings.device == settings::Device::Auto => {
            warn!(reason, "no GPU can be used: inference runs on the CPU");
            Ok(None)
        }
        Err(reason) => {
            anyhow::bail!(
                "DEVICE names a GPU, but {reason}; DEVICE=auto or DEVICE=cpu uses the CPU"
            )
        }
    }
}

/// The configured fallback: another node, or a second model on this node.
fn fallback(
    settings: &Settings,
    node: Option<FallbackServer>,
    worker: WorkerConfig,
) -> Option<FallbackPort> {
    if let Some(node) = node {
        info!("doubtful texts are escalated to the fallback node (FALLBACK_URL)");
        return Some(FallbackPort::Node(Arc::new(node)));
    }
    let model = settings.fallback_model.as_ref()?;
    info!(
        model,
        "doubtful texts are escalated to the fallback model of this node"
    );
    let (name, least_bytes) = name_and_memory(model);
    let models = Arc::new(ConfiguredModel::named(settings, model));
    Some(FallbackPort::Model {
        launcher: Arc::new(WorkerLauncher::new(worker, models)),
        model: name.into(),
        least_bytes,
    })
}

/// The client of the fallback node, if the settings name one.
fn fallback_node(settings: &Settings) -> anyhow::Result<Option<FallbackServer>> {
    FallbackServer::of(settings).context("cannot create the client of the fallback")
}

/// A model's name for people, and the memory in bytes that it needs at least; 0 if unknown.
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

/// The configured voice activity detector. Missing weights are downloaded in the background; until
/// then, and if the download fails, all audio counts as speech.
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
             `uttera-stt models pull {VOICE_ACTIVITY_NAME}` downloads the weights"
        ),
    }
}

/// The tree's limits. `lanes`: how many lanes the CPU supports, if inference runs on it.
fn tree_config(settings: &Settings, lanes: Option<usize>) -> TreeConfig {
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
        live: LiveConfig {
            sessions: settings.max_live_sessions as usize,
            idle_limit: settings.live_idle_timeout,
        },
        pool: PoolConfig {
            size: pool_size(settings, lanes),
            interval: settings.pool_interval,
            idle: IdlePolicy {
                timeout: settings.cold_idle_timeout,
                stagger: settings.cold_idle_stagger,
            },
        },
        escalation: settings.escalation,
        fallback_limit: settings.fallback_timeout,
        translation_limit: settings.libretranslate_timeout,
        result_cache: settings.result_cache,
        minimum_worker_bytes: (settings.min_cold_vram_gb * GB) as u64,
    }
}

/// The configured Redis directory, for this node.
fn directory(
    settings: &Settings,
    node: Option<NodeAddress>,
    pem: &RedisPem,
) -> anyhow::Result<Option<Arc<RedisDirectory>>> {
    let (Some(url), Some(node)) = (&settings.redis_url, node) else {
        return Ok(None);
    };
    info!(
        node_id = node.id,
        host = node.host,
        port = node.port,
        "the node registers itself in Redis"
    );
    Ok(Some(Arc::new(RedisDirectory::new(url, pem, node)?)))
}

/// Reads the certificates for Redis again; the next call of each client opens a connection with them. If anything is wrong
/// with them, the current ones stay in use.
fn reload_redis(files: &RedisFiles, reader: &NodeReader, directory: Option<&RedisDirectory>) {
    let reloaded = files.read().map_err(anyhow::Error::from).and_then(|pem| {
        reader.replace_certificates(&pem)?;
        if let Some(directory) = directory {
            directory.replace_certificates(&pem)?;
        }
        Ok(())
    });
    match reloaded {
        Ok(()) => info!("the certificates for Redis were reloaded"),
        Err(reason) => error!(
            reason = format!("{reason:#}"),
            "the certificates for Redis could not be reloaded; the current ones stay in use"
        ),
    }
}

/// What this node registers; `None`: it does not. `port` is the bound port.
async fn node_address(settings: &Settings, port: u16) -> Option<NodeAddress> {
    let url = settings.redis_url.as_ref()?;
    let found = reach::node_host(url, settings.node_host.as_deref(), settings.host).await;
    match &found {
        NodeHost::Named(_) | NodeHost::ThisMachine => {}
        NodeHost::Guessed(address) => {
            info!(%address, "NODE_HOST is not set: the node registers the address from which it reaches Redis");
        }
        NodeHost::Unknown => warn!(
            host = %settings.host,
            "the node does not register itself: NODE_HOST is not set, and this machine has no address that routers could \
             use and that the server listens on (link-local ones do not count, and HOST=0.0.0.0 has IPv4 only); set \
             NODE_HOST"
        ),
        NodeHost::Unreachable => warn!(
            host = %settings.host,
            "the node does not register itself: it reaches Redis over the network, but the server listens on this machine's \
             own address only; set HOST=0.0.0.0, or NODE_HOST if a proxy on this machine passes requests on"
        ),
    }
    let host = found.text()?;
    let port = settings.node_port.unwrap_or(port);
    let id = settings.node_id.clone();
    Some(NodeAddress {
        id: id.unwrap_or_else(|| format!("{host}:{port}")),
        host,
        port,
        version: env!("CARGO_PKG_VERSION").to_owned(),
    })
}

/// The configured LibreTranslate server.
fn translator(settings: &Settings) -> anyhow::Result<Option<Arc<dyn Translator>>> {
    let Some(url) = settings.libretranslate_url.clone() else {
        return Ok(None);
    };
    let key = settings.libretranslate_api_key.clone().map(Secret::reveal);
    let server =
        LibreTranslate::new(url, key).context("cannot create the client of LibreTranslate")?;
    info!("LibreTranslate makes the translations");
    Ok(Some(Arc::new(server)))
}
