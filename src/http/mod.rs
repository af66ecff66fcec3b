//! The HTTP side: one file per resource, each with a `configure` of its own. Handlers check, send
//! one message through [`Stt`], await the reply and render it.

mod auth;
mod body;
mod caller;
mod connections;
mod cors;
mod limits;
mod pipeline;
mod reply;
mod request_log;
mod routes;
mod translation;
mod usage;

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use actix_web::dev::Server;
use actix_web::middleware::from_fn;
use actix_web::{App, HttpRequest, HttpServer, Route, web};
use stt_actors::Stt;

use crate::keys::Keyring;
use crate::libretranslate::LibreTranslate;
use crate::metrics::Exporter;
use crate::settings::Settings;
pub use body::upload::UploadStore;
use connections::{Seats, guard};
pub use limits::Limits;
use reply::error::ApiError;

/// A slow client may take this long to send its headers.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// Idle connections are kept for the next request this long.
const KEEP_ALIVE: Duration = Duration::from_secs(75);
/// Without a request for so long, a connection is closed whatever comes on it.
const LONGEST_PAUSE: Duration = KEEP_ALIVE.saturating_add(HEADER_TIMEOUT);
/// How often that is looked after.
const ATTEND_EVERY: Duration = Duration::from_secs(5);
/// How long a client whose body is refused unread may go on sending before it is cut off. Shorter,
/// and a big uploader sees a reset in place of the refusal.
const DISCONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long answers may take to get out once the tree has stopped.
const SHUTDOWN_SECONDS: u64 = 5;

/// What handlers share.
#[derive(Clone)]
pub struct AppState {
    /// The tree.
    pub stt: Stt,
    /// The settings in force.
    pub settings: Arc<Settings>,
    /// Where uploads go.
    pub uploads: UploadStore,
    /// Who translates to other languages than English, if anybody.
    pub translator: Option<LibreTranslate>,
    /// The keys in force.
    pub keys: Keyring,
    /// How much one client may ask for.
    pub limits: Limits,
    /// Where metrics go.
    pub metrics: Exporter,
}

/// The server on a bound socket; it runs when awaited. Signals are the caller's.
pub fn server(listener: TcpListener, state: AppState, workers: usize) -> std::io::Result<Server> {
    let most = state.settings.max_connections;
    connections::allow_files_for(most);
    let seats = Seats::new(most);
    seats.close_idle(LONGEST_PAUSE, ATTEND_EVERY);
    let most_of_a_worker = seats.for_each_thread(workers);
    let server = HttpServer::new(move || {
        App::new()
            .app_data(web::Data::new(state.clone()))
            .wrap(from_fn(connections::require_seat))
            .wrap(cors::middleware(&state.settings.cors_allow_origins))
            .wrap(from_fn(cors::tidy))
            .wrap(from_fn(request_log::log_request))
            .wrap(from_fn(guard::hold))
            .configure(routes::configure)
            .default_service(web::to(unknown_path))
    })
    .workers(workers)
    .max_connections(most_of_a_worker)
    .on_connect(move |socket, connection| seats.welcome(socket, connection))
    .keep_alive(KEEP_ALIVE)
    .client_request_timeout(HEADER_TIMEOUT)
    .client_disconnect_timeout(DISCONNECT_TIMEOUT)
    // A client that closes its side is gone: its handler is dropped, and with it its work.
    .h1_allow_half_closed(false)
    .disable_signals()
    .shutdown_timeout(SHUTDOWN_SECONDS)
    .listen(listener)?
    .run();
    Ok(server)
}

async fn unknown_path(request: HttpRequest) -> Result<&'static str, ApiError> {
    Err(ApiError::not_found(request.path()))
}

/// The answer to all other methods of a path than these.
fn only(methods: &'static str) -> Route {
    web::to(move || async move { Err::<&str, _>(ApiError::method_not_allowed(methods)) })
}
