//! The HTTP API. A handler in `routes` checks a request, sends a message through [`Stt`], awaits the
//! reply and renders it.

mod access;
mod auth;
mod body;
mod caller;
mod connections;
mod cors;
mod jobs;
mod limits;
mod pipeline;
mod realtime;
mod reply;
mod request_log;
mod routes;
mod traces;
mod translation;
mod usage;

use std::io;
use std::net::{IpAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use actix_http::{HttpServiceBuilder, ServiceConfig};
use actix_server::Server;
use actix_service::{ServiceFactory, ServiceFactoryExt, fn_service, map_config};
use actix_web::body::MessageBody;
use actix_web::dev::{AppConfig, ServiceRequest, ServiceResponse};
use actix_web::middleware::{NormalizePath, from_fn};
use actix_web::{App, web};
use stt_actors::Stt;
use tokio::net::TcpStream;

use crate::allow_list::AllowList;
use crate::board::Board;
use crate::keys::Keyring;
use crate::metrics::Exporter;
use crate::settings::Settings;
pub use crate::shutdown::DrainRequests;
use crate::tls::server::ServerCertificates;
pub use body::upload::UploadStore;
use caller::Caller;
use connections::acceptor::Acceptor;
pub use connections::files_needed;
use connections::request_reader::{self, RequestReader};
use connections::stream::Stream;
use connections::{ConnectionLimit, guard};
pub use jobs::{Accounts, JobService};
pub use limits::Limits;
pub use realtime::ClientSecrets;
pub use reply::error::ApiError;
pub use reply::load_report::LoadReport;

/// How long a client may take to send the head of a connection's first request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long an idle connection stays open for the next request.
const KEEP_ALIVE: Duration = Duration::from_secs(75);
/// A connection without a request for this long is closed, even if bytes of the next one arrive.
const MAX_IDLE: Duration = KEEP_ALIVE.saturating_add(HEADER_TIMEOUT);
/// How often idle connections are looked for.
const IDLE_CHECK_INTERVAL: Duration = Duration::from_secs(5);
/// How long a client whose body was rejected unread may go on sending before it is disconnected. If
/// this were shorter, a client with a large upload would see a reset instead of the error.
const DISCONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long responses may take to be sent once the actor tree has stopped.
const SHUTDOWN_SECONDS: u64 = 5;

/// What handlers share.
#[derive(Clone)]
pub struct AppState {
    /// The actor tree.
    pub stt: Stt,
    /// The settings in force.
    pub settings: Arc<Settings>,
    /// The folder of uploads.
    pub uploads: UploadStore,
    /// The keys in force.
    pub keys: Keyring,
    /// The limits on requests and audio per client.
    pub limits: Limits,
    /// Reports the load to Envoy.
    pub load_report: LoadReport,
    /// The ephemeral keys for realtime sessions.
    pub client_secrets: ClientSecrets,
    /// The networks whose clients may use the server.
    pub allow_list: AllowList,
    /// Records and exports metrics.
    pub metrics: Exporter,
    /// Reports what the node does.
    pub board: Board,
    /// Takes requests to drain the node.
    pub drain_requests: DrainRequests,
    /// The jobs of this node.
    pub jobs: JobService,
}

/// For servers beside HTTP, whose callers have no keys: the limits for callers without one.
impl AppState {
    /// Checks and counts a request with audio.
    ///
    /// # Errors
    /// The request rate or the audio per day is exceeded.
    pub fn admit_address(&self, address: Option<IpAddr>) -> Result<(), ApiError> {
        self.limits.admit(&Caller::without_key(address))
    }

    /// Counts transcribed audio.
    pub fn charge_address(&self, address: Option<IpAddr>, seconds: f64) {
        let caller = Caller::without_key(address);
        self.limits.charge(&caller, seconds);
        self.metrics.record_key_audio(&caller.name(), seconds);
    }
}

/// Creates the server on a bound socket; it runs when awaited. It handles no signals. `certificates`: for HTTPS.
///
/// # Errors
/// The socket cannot be used.
pub fn server(
    listener: TcpListener,
    state: AppState,
    certificates: Option<ServerCertificates>,
    workers: usize,
) -> std::io::Result<Server> {
    let max_connections = state.settings.max_connections;
    connections::raise_file_limit(max_connections);
    let limit = ConnectionLimit::new(max_connections);
    limit.close_idle(MAX_IDLE, IDLE_CHECK_INTERVAL);
    let server = Server::build()
        .workers(workers)
        .max_concurrent_connections(limit.per_thread(workers))
        .disable_signals()
        .shutdown_timeout(SHUTDOWN_SECONDS);
    let shutdown = server.graceful_shutdown_signal();
    let acceptor = Arc::new(Acceptor::new(
        state.allow_list.clone(),
        state.settings.trusted_proxies.clone(),
        certificates,
    ));
    let service = move || {
        let (limit, shutdown) = (limit.clone(), shutdown.clone());
        let config = ServiceConfig::default();
        let (accepting, stopping) = (Arc::clone(&acceptor), shutdown.clone());
        let accept = fn_service(move |socket: TcpStream| {
            let (acceptor, config) = (Arc::clone(&accepting), config.clone());
            let stopping = stopping.clone();
            async move {
                tokio::select! {
                    biased;
                    accepted = acceptor.accept(socket, config) => accepted,
                    // A handshake delays the end of the server as little as an idle connection.
                    () = stopping.notified() => Err(io::Error::from(io::ErrorKind::ConnectionAborted).into()),
                }
            }
        });
        let acceptor = Arc::clone(&acceptor);
        let http = HttpServiceBuilder::default()
            // Idle connections close when the server stops, so that it need not wait for them.
            .graceful_shutdown_signal(move || {
                let shutdown = shutdown.clone();
                async move { shutdown.notified().await }
            })
            .keep_alive(KEEP_ALIVE)
            .client_request_timeout(HEADER_TIMEOUT)
            .client_disconnect_timeout(DISCONNECT_TIMEOUT)
            // When a client closes its side, its handler is dropped, which cancels the job.
            .h1_allow_half_closed(false)
            .on_connect_ext(move |connection: &RequestReader<Stream>, data| {
                limit.on_connect(connection.stream().socket(), data);
                data.insert(acceptor.peer(connection.stream()));
                data.insert(connection.end_of_input());
            })
            .h1(map_config(app(state.clone()), |()| AppConfig::default()));
        accept.and_then(http)
    };
    Ok(server.listen("http", listener, service)?.run())
}

/// The routes and what surrounds them. A request passes the last middleware first.
fn app(
    state: AppState,
) -> App<
    impl ServiceFactory<
        ServiceRequest,
        Config = (),
        Response = ServiceResponse<impl MessageBody>,
        Error = actix_web::Error,
        InitError = (),
    >,
> {
    let origins = state.settings.cors_allow_origins.clone();
    let board = state.settings.board;
    App::new()
        .app_data(web::Data::new(state))
        .wrap(from_fn(connections::require_permit))
        .wrap(cors::middleware(&origins))
        .wrap(from_fn(cors::normalize))
        .wrap(from_fn(access::require_access))
        .wrap(from_fn(request_reader::reject_malformed))
        .wrap(from_fn(request_log::log_request))
        .wrap(from_fn(guard::guard_connection))
        // Slashes that are doubled or at the end come from base URLs and mean nothing.
        .wrap(NormalizePath::trim())
        .configure(move |config| routes::configure(config, board))
        .default_service(web::to(routes::unknown_path))
}
