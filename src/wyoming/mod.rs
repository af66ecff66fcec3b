//! The Wyoming protocol, which Home Assistant's voice assistants speak: speech-to-text over a socket.
//!
//! A client connects, sends `transcribe`, `audio-start`, chunks of audio and `audio-stop`, and gets a `transcript`. Each
//! utterance is a live session of the tree, opened when its audio begins; `describe` is answered from memory. The
//! protocol has no keys.
//!
//! | module | content |
//! |---|---|
//! | `frame` | bytes to events and back |
//! | `event`, `info` | what the events mean, and the replies |
//! | `connection`, `utterance` | one connection; one utterance with its live session |
//! | `listener` | the sockets |
//! | `discovery` | the announcement by which Home Assistant finds the server |

mod connection;
mod discovery;
mod event;
mod frame;
pub mod fuzzing;
mod info;
mod listener;
mod utterance;

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use stt_actors::Stt;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

use crate::allow_list::AllowList;
use crate::models;
use crate::settings::Settings;
use discovery::Announcement;
pub use event::Failure;
use info::Model;
pub use listener::Sockets;

/// The most connections at the same time.
pub const MAX_CONNECTIONS: usize = 256;
/// How long the last replies may take when the server stops.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);

/// The accounts of callers, who have no key and are known by their addresses; `None` is a unix socket.
pub trait Callers: Send + Sync {
    /// Checks and counts an utterance.
    ///
    /// # Errors
    /// A limit is exceeded.
    fn admit(&self, address: Option<IpAddr>) -> Result<(), Failure>;

    /// Counts transcribed audio.
    fn charge(&self, address: Option<IpAddr>, seconds: f64);
}

/// Who is at the other end of a connection.
#[derive(Clone, Debug)]
struct Caller {
    /// The address and port, or `unix`, for the log.
    peer: String,
    /// `None`: a unix socket.
    address: Option<IpAddr>,
    /// The id of the connection.
    id: Arc<str>,
}

/// The settings of a connection.
#[derive(Clone, Debug)]
struct ConnectionSettings {
    idle_limit: Duration,
    partials: bool,
    default_language: Option<String>,
    languages: Vec<String>,
    /// What is known of the model before it is loaded.
    model: Model,
}

/// What all connections share.
struct Server {
    stt: Stt,
    settings: ConnectionSettings,
    callers: Arc<dyn Callers>,
    allow_list: AllowList,
    /// Cancelled when the server begins to stop.
    draining: CancellationToken,
}

impl Server {
    /// The model that transcribes.
    fn model(&self) -> Model {
        Model::of(
            self.stt.snapshot().last_engine.as_ref(),
            &self.settings.model,
        )
    }
}

/// The running server.
pub struct Wyoming {
    draining: CancellationToken,
    tasks: TaskTracker,
    announcement: Option<Announcement>,
}

impl Wyoming {
    /// Serves on these sockets, to clients in these networks.
    ///
    /// # Errors
    /// A socket cannot be used.
    pub fn start(
        sockets: Sockets,
        settings: &Settings,
        stt: Stt,
        callers: Arc<dyn Callers>,
        allow_list: AllowList,
    ) -> std::io::Result<Self> {
        let announcement = announcement(&sockets, settings);
        let draining = CancellationToken::new();
        let tasks = TaskTracker::new();
        let server = Server {
            stt,
            settings: ConnectionSettings {
                idle_limit: settings.live_idle_timeout,
                partials: settings.wyoming.partials,
                default_language: settings.default_language.clone(),
                languages: settings.wyoming.languages.clone(),
                model: configured_model(settings),
            },
            callers,
            allow_list,
            draining: draining.clone(),
        };
        sockets.serve(Arc::new(server), &tasks)?;
        tasks.close();
        Ok(Self {
            draining,
            tasks,
            announcement,
        })
    }

    /// Announces in the network that the server is gone. It still accepts connections.
    pub fn leave(&mut self) {
        self.announcement = None;
    }

    /// Accepts no more connections, closes those without an utterance, and each other one after its reply.
    pub fn drain(&mut self) {
        self.leave();
        self.draining.cancel();
    }

    /// Waits until all connections are closed, at most a few seconds.
    pub async fn closed(mut self) {
        self.drain();
        if tokio::time::timeout(CLOSE_LIMIT, self.tasks.wait())
            .await
            .is_err()
        {
            warn!("clients of Wyoming did not read their last replies");
        }
    }
}

/// Announces the first TCP socket in the network, if the settings give a name for it.
fn announcement(sockets: &Sockets, settings: &Settings) -> Option<Announcement> {
    let name = settings.wyoming.name.as_deref()?;
    let started = match sockets.first_address() {
        Some(address) => Announcement::start(name, address),
        None => Err("there is no TCP socket".to_owned()),
    };
    started
        .inspect_err(|reason| warn!(name, reason, "WYOMING_NAME: the server is not announced"))
        .ok()
}

/// What the settings tell about the model.
fn configured_model(settings: &Settings) -> Model {
    let configured = settings.whisper_model.as_str();
    let path = Path::new(configured);
    let name = if configured == "auto" {
        models::configured::automatic(None).to_owned()
    } else if path.exists() {
        models::name_of(path)
    } else {
        models::canonical(configured).to_owned()
    };
    Model {
        english_only: name.contains(".en"),
        name,
    }
}
