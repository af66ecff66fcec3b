//! The one place where everything is put together: the tree with its real engines and decoder,
//! and the HTTP server in front of it.

use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use stt_actors::{Ports, Stt, TreeConfig, TreeEnded};
use tracing::{error, info, warn};

use crate::audio::{Decoder, DecoderLimits};
use crate::engine::process::{WorkerConfig, WorkerLauncher};
use crate::http::upload::UploadStore;
use crate::http::{self, AppState};
use crate::models::configured::{ConfiguredModel, gpu};
use crate::settings::Settings;
use crate::shutdown::StopSignals;

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

/// Starts the tree on real engines and the real decoder.
pub async fn start_tree(settings: &Settings) -> anyhow::Result<(Stt, TreeEnded)> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let default_threads = cores.min(MOST_DEFAULT_THREADS) as u32;
    let worker = WorkerConfig {
        executable: own_executable()?,
        threads: settings.whisper_threads.unwrap_or(default_threads),
        gpu: gpu(settings),
        hello_limit: HELLO_LIMIT,
        load_limit: LOAD_LIMIT,
    };
    let models = Arc::new(ConfiguredModel::new(settings));
    let ports = Ports {
        launcher: Arc::new(WorkerLauncher::new(worker, models)),
        decoder: Arc::new(Decoder::new(DecoderLimits {
            max_audio: settings.max_audio,
            concurrent_decoders: cores,
            ..DecoderLimits::default()
        })),
    };
    let config = TreeConfig {
        chunk_timeout: settings.lane_timeout,
        stop_grace: WORKER_STOP_GRACE,
        start_estimate: settings.cold_start_time,
        max_queue: settings.max_queue,
    };
    Ok(Stt::start(ports, config).await?)
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

/// Serves until SIGTERM or Ctrl-C, then drains: no new work, what runs is finished, the tree stops.
pub async fn serve(settings: Settings) -> anyhow::Result<()> {
    let mut signals = StopSignals::listen().context("signals cannot be heard")?;
    let address = (settings.host, settings.port);
    let listener = TcpListener::bind(address).with_context(|| {
        format!(
            "{}:{} cannot be bound (HOST, PORT)",
            settings.host, settings.port
        )
    })?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    warn_if_open(&settings);
    let uploads = UploadStore::open(&UploadStore::default_parent(), settings.max_upload_bytes)
        .context("the folder of uploads cannot be made")?;
    let (stt, mut tree_ended) = start_tree(&settings).await?;
    let state = AppState {
        stt: stt.clone(),
        settings: Arc::new(settings),
        uploads,
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let server = http::server(listener, state, threads.min(MOST_HTTP_THREADS))?;
    let server_handle = server.handle();
    let mut server = tokio::spawn(server);
    info!(%address, version = env!("CARGO_PKG_VERSION"), "listening; the model is loading");
    let unasked = loop {
        tokio::select! {
            name = signals.next() => {
                info!(signal = name, "stopping; once more to stop at once");
                stt.drain(DRAIN_GRACE);
            }
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
    if unasked {
        error!("the supervision tree ended by itself");
        anyhow::bail!("the supervision tree ended by itself");
    }
    info!("stopped");
    Ok(())
}

fn warn_if_open(settings: &Settings) {
    if !settings.host.is_loopback() && settings.api_keys.is_empty() {
        warn!(
            host = %settings.host,
            "anyone who reaches this address can use the server: set API_KEYS, or keep it behind a firewall"
        );
    }
}
