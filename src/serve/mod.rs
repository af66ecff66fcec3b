//! Composes the server: the supervision tree with its real ports (`tree`), and HTTP in front of it.

mod sizing;
mod tree;
mod wyoming;

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use actix_web::dev::ServerHandle;
use anyhow::Context;
use stt_actors::supervisor::ANNOUNCE_LIMIT;
use stt_actors::{DrainPlan, Stt, TreeEnded};
use tokio::task::JoinHandle;
use tracing::{error, info, warn};

use crate::agent_check::{AgentCheck, AgentSocket};
use crate::allow_list::AllowList;
use crate::board::{Board, Identity};
use crate::http::UploadStore;
use crate::http::{self, Accounts, AppState, ClientSecrets, JobService, Limits, LoadReport};
use crate::keys::{self, Further, Keyring, Keys, Reload, Reloader};
use crate::metrics::{self, Exporter, UPKEEP_INTERVAL};
use crate::notify::Notifier;
use crate::redis::nodes::NodeReader;
use crate::settings::{Loaded, Settings};
use crate::shutdown::{DrainRequests, HangUp, HangUps, StopSignals};
use crate::tls::server::ServerCertificates;
use crate::wyoming::{Sockets, Wyoming};
pub use tree::{Neighbours, start_tree};

/// How long the workers and the HTTP server may take to end after a drain. With the default times of a drain, the sum
/// stays below `TimeoutStopSec` of the systemd unit.
const END_LIMIT: Duration = Duration::from_secs(20);
/// Handlers only wait for the tree, so more threads gain nothing.
const MAX_HTTP_THREADS: usize = 4;

/// Serves until SIGTERM, Ctrl-C or `POST /admin/drain`, then drains: tells routers, rejects new requests, finishes
/// running ones and stops the tree. On SIGHUP it reloads the keys from the settings that `reload` returns, and the certificates.
///
/// # Errors
/// The settings are unusable, or a part of the server ended unexpectedly.
pub async fn serve(loaded: Loaded, reload: Reload) -> anyhow::Result<()> {
    let signals = Signals::listen()?;
    let settings = &loaded.settings;
    let keys = keys::load(settings)?;
    let certificates = ServerCertificates::load(&settings.tls)?;
    let listener = bind(settings)?;
    let address = listener.local_addr()?;
    let wyoming_sockets = Sockets::bind(settings)?;
    let agent_socket = AgentSocket::bind(settings)?;
    warn_if_open(settings, &keys);
    let uploads = UploadStore::open(&UploadStore::default_parent(), settings.max_upload_bytes)
        .context("cannot create the upload folder")?;
    let metrics = Exporter::install()?;
    metrics::keys::register(keys.names().map(|name| &**name));
    if let Some(certificates) = &certificates {
        certificates.report();
    }
    let keyring = Keyring::new(keys);
    let neighbours = Neighbours::of(settings, address.port()).await?;
    let own = certificates.clone();
    let own = own.map(|own| Box::new(move || own.reload()) as Further);
    let further = own.into_iter().chain(neighbours.reload()).collect();
    let allow_list = AllowList::new(&settings.allowed_networks);
    let reloader = Reloader::start(
        keyring.clone(),
        allow_list.clone(),
        &loaded,
        reload,
        further,
    );
    let node_id = neighbours.node_id.clone();
    let node_reader = neighbours.node_reader.clone();
    let (stt, tree_ended) = start_tree(settings, neighbours).await?;
    tokio::spawn(keep_up(metrics.clone(), stt.clone()));
    let board = board(&stt, settings, node_id.clone(), node_reader);
    let drain_plan = settings.drain_plan();
    let drain_requests = DrainRequests::default();
    if let Some(language) = settings.default_language.clone() {
        tokio::spawn(warn_of_language(stt.clone(), language));
    }
    let limits = Limits::new(settings);
    let accounts = Accounts {
        limits: limits.clone(),
        keys: keyring.clone(),
        metrics: metrics.clone(),
    };
    let jobs = JobService::new(settings, node_id.as_deref(), stt.clone(), accounts);
    jobs.resume().await;
    let mut settings = loaded.settings;
    // The keyring holds their digests; nothing needs the keys themselves from here on.
    settings.api_keys = Vec::new();
    let state = AppState {
        stt: stt.clone(),
        limits,
        load_report: LoadReport::default(),
        client_secrets: ClientSecrets::default(),
        keys: keyring,
        settings: Arc::new(settings),
        uploads: uploads.clone(),
        allow_list,
        metrics,
        board: board.clone(),
        drain_requests: drain_requests.clone(),
        jobs: jobs.clone(),
    };
    let wyoming = wyoming::start(wyoming_sockets, &state.settings, state.clone())?;
    // It answers until everything else has ended, so that HAProxy sees the node drain.
    let agent_check = agent_socket.map(|socket| {
        let allow_list = state.allow_list.for_another_port();
        AgentCheck::start(socket, allow_list, stt.clone())
    });
    let _agent_check = agent_check.transpose()?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = threads.min(MAX_HTTP_THREADS);
    let server = http::server(listener, state, certificates, threads)?;
    let running = Running {
        notifier: Some(Notifier::start(&stt)),
        drain_plan,
        drain_requests,
        stt,
        tree_ended,
        board,
        jobs,
        wyoming,
        server_handle: server.handle(),
        server: tokio::spawn(server),
    };
    info!(%address, version = env!("CARGO_PKG_VERSION"), "listening; the model is loading");
    let result = running.until_end(signals, &reloader).await;
    uploads.close();
    result
}

fn bind(settings: &Settings) -> anyhow::Result<TcpListener> {
    let (host, port) = (settings.host, settings.port);
    let listener = TcpListener::bind((host, port))
        .with_context(|| format!("cannot listen on {host}:{port} (HOST, PORT)"))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Signals that the server handles.
struct Signals {
    stop: StopSignals,
    hang_up: HangUps,
}

impl Signals {
    fn listen() -> anyhow::Result<Self> {
        Ok(Self {
            stop: StopSignals::listen().context("cannot listen for SIGTERM and SIGINT")?,
            hang_up: HangUps::listen().context("cannot listen for SIGHUP")?,
        })
    }
}

/// The running server.
struct Running {
    /// `None`: the server drains, and systemd knows it.
    notifier: Option<Notifier>,
    drain_plan: DrainPlan,
    drain_requests: DrainRequests,
    stt: Stt,
    tree_ended: TreeEnded,
    board: Board,
    jobs: JobService,
    wyoming: Option<Wyoming>,
    server_handle: ServerHandle,
    server: JoinHandle<std::io::Result<()>>,
}

impl Running {
    /// Handles signals until the tree or the HTTP server has ended.
    async fn until_end(mut self, mut signals: Signals, reloader: &Reloader) -> anyhow::Result<()> {
        let mut is_signalled = false;
        let mut is_rejecting = false;
        let unexpected = loop {
            tokio::select! {
                signal = signals.stop.next() => {
                    if std::mem::replace(&mut is_signalled, true) {
                        info!(signal, "stopping immediately");
                        self.stt.drain(Duration::ZERO);
                    } else {
                        // Also after `POST /admin/drain`: a service manager that sends both must not cut it short.
                        info!(signal, "draining; signal again to stop immediately");
                        self.drain();
                    }
                }
                () = self.drain_requests.next() => {
                    info!("draining: a client asks for it");
                    self.drain();
                }
                () = self.stt.until_rejecting(), if !is_rejecting => {
                    is_rejecting = true;
                    if let Some(wyoming) = &mut self.wyoming {
                        wyoming.drain();
                    }
                }
                hang_up = signals.hang_up.next() => match hang_up {
                    HangUp::Reload => reloader.request(),
                    // The signal may repeat.
                    HangUp::TerminalClosed => {
                        info!("draining: the terminal was closed");
                        self.drain();
                    }
                },
                () = self.tree_ended.wait() => break !self.stt.snapshot().draining,
                ended = &mut self.server => {
                    self.stt.drain(Duration::ZERO);
                    self.tree_ended.wait().await;
                    ended??;
                    anyhow::bail!("the HTTP server ended unexpectedly");
                }
            }
        };
        self.jobs.stopped().await;
        // Viewers would keep their connections open.
        self.board.close();
        // The tree has answered every request; the servers still have to send the last responses.
        if let Some(wyoming) = self.wyoming {
            wyoming.closed().await;
        }
        self.server_handle.stop(true).await;
        if unexpected {
            error!("the supervision tree ended unexpectedly");
            anyhow::bail!("the supervision tree ended unexpectedly");
        }
        info!("stopped");
        Ok(())
    }
}

impl Running {
    /// Begins to drain. Only the first call has an effect: a second message to the tree would cut the drain short.
    fn drain(&mut self) {
        let Some(notifier) = self.notifier.take() else {
            return;
        };
        let DrainPlan { delay, grace } = self.drain_plan;
        let announcement = if delay.is_zero() {
            Duration::ZERO
        } else {
            ANNOUNCE_LIMIT
        };
        let steps = [announcement, delay, grace, END_LIMIT];
        notifier.stopping(
            steps
                .into_iter()
                .fold(Duration::ZERO, Duration::saturating_add),
        );
        if let Some(wyoming) = &mut self.wyoming {
            wyoming.leave();
        }
        self.stt.drain(self.drain_plan);
    }
}

/// The board of this node.
fn board(
    stt: &Stt,
    settings: &Settings,
    node_id: Option<String>,
    reader: Option<NodeReader>,
) -> Board {
    let identity = Identity {
        role: settings.role.to_string(),
        model: settings.whisper_model.clone(),
        node_id,
    };
    Board::new(stt.clone(), identity, reader)
}

/// Keeps the metrics current that no request changes.
async fn keep_up(metrics: Exporter, stt: Stt) {
    let mut ticks = tokio::time::interval(UPKEEP_INTERVAL);
    loop {
        ticks.tick().await;
        metrics.upkeep();
        let (metrics, workers) = (metrics.clone(), stt.worker_processes());
        let sample = move || metrics.sample_processes(&workers);
        if tokio::task::spawn_blocking(sample).await.is_err() {
            warn!("sampling the processes for the metrics panicked");
        }
    }
}

/// Warns, once the model is loaded, if it does not support the default language. If the model's name
/// shows that already, the settings reject it.
async fn warn_of_language(stt: Stt, language: String) {
    if let Ok(engine) = stt.ready().await
        && !engine.multilingual
        && language != "en"
    {
        warn!(
            language,
            model = engine.model,
            "DEFAULT_LANGUAGE: the model knows English only; requests that name no language are rejected"
        );
    }
}

fn warn_if_open(settings: &Settings, keys: &Keys) {
    if !settings.host.is_loopback() && keys.is_open() && !settings.admits_chosen_clients_only() {
        warn!(
            host = %settings.host,
            "anyone who reaches this address can use the server: set API_KEYS or API_KEYS_FILE, or protect it with a firewall"
        );
    }
}
