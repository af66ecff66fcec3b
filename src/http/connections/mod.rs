//! A limit on open connections. Connections beyond it may call the probe routes; other requests on them
//! get 503.

pub mod acceptor;
pub mod guard;
mod idle;
pub mod request_reader;
pub mod stream;

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use actix_web::body::{EitherBody, MessageBody};
use actix_web::dev::{Extensions, ServiceRequest, ServiceResponse};
use actix_web::http::{ConnectionType, StatusCode};
use actix_web::middleware::Next;
use actix_web::{Error, ResponseError, web};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tracing::warn;

use crate::http::AppState;
use crate::http::reply::error::ApiError;
use crate::http::request_log::PROBES;
use idle::{IdleTracker, RequestInProgress, TrackedConnection};

/// Connections that are accepted beyond the limit, for probes. More than these wait to be accepted.
const PROBE_CONNECTIONS: usize = 32;
/// Open files that are not connections of HTTP: those of Wyoming, sockets of workers, pipes of ffmpeg, the log.
const OTHER_FILES: u64 = 512;
/// The connection, its duplicate in the idle tracker, and the file of its upload.
const FILES_PER_CONNECTION: u64 = 3;

/// Limits the number of open connections.
#[derive(Clone, Debug)]
pub struct ConnectionLimit(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    limit: usize,
    in_use: AtomicUsize,
    idle_tracker: IdleTracker,
}

impl ConnectionLimit {
    pub fn new(limit: u32) -> Self {
        Self(Arc::new(Inner {
            limit: limit as usize,
            in_use: AtomicUsize::new(0),
            idle_tracker: IdleTracker::default(),
        }))
    }

    /// The most connections that each of `threads` accepts, including those for probes.
    pub fn per_thread(&self, threads: usize) -> usize {
        (self.0.limit + PROBE_CONNECTIONS).div_ceil(threads)
    }

    /// Starts to close connections that had no request for `limit`, checking every `interval`.
    pub fn close_idle(&self, limit: Duration, interval: Duration) {
        self.0.idle_tracker.close_idle(limit, interval);
    }

    #[cfg(test)]
    pub fn idle_tracker(&self) -> &IdleTracker {
        &self.0.idle_tracker
    }

    /// Registers a new connection, and gives it a permit if one is free.
    pub fn on_connect(&self, socket: &dyn Any, connection: &mut Extensions) {
        connection.insert(ConnectionPermit {
            tracked: self.0.idle_tracker.track(socket),
            limit: self.clone(),
            acquired: AtomicBool::new(self.try_acquire()),
        });
    }

    fn try_acquire(&self) -> bool {
        let one_more = |in_use: usize| (in_use < self.0.limit).then_some(in_use + 1);
        let relaxed = Ordering::Relaxed;
        self.0
            .in_use
            .fetch_update(relaxed, relaxed, one_more)
            .is_ok()
    }
}

/// A connection's permit, acquired or still missing. It is released when the connection closes.
#[derive(Debug)]
pub struct ConnectionPermit {
    tracked: Option<TrackedConnection>,
    limit: ConnectionLimit,
    acquired: AtomicBool,
}

impl ConnectionPermit {
    /// Marks the connection as busy until the returned guard is dropped.
    pub fn begin_request(&self) -> Option<RequestInProgress> {
        self.tracked.as_ref().map(TrackedConnection::begin_request)
    }

    /// Whether the connection has a permit. Tries again to acquire a missing one.
    fn ensure_acquired(&self) -> bool {
        // Not a race: one thread serves all requests of a connection.
        let acquired = self.acquired.load(Ordering::Relaxed) || self.limit.try_acquire();
        self.acquired.store(acquired, Ordering::Relaxed);
        acquired
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        if self.acquired.load(Ordering::Relaxed) {
            self.limit.0.in_use.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Whether the server drains.
fn is_draining<B>(response: &ServiceResponse<B>) -> bool {
    let state = response.request().app_data::<web::Data<AppState>>();
    state.is_some_and(|state| state.stt.is_draining())
}

/// Rejects requests on a connection without a permit, except for probes, and closes the connection. While the server
/// drains, it closes each connection after its next response.
pub async fn require_permit<B: MessageBody>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B>>, Error> {
    let permit = request.request().conn_data::<ConnectionPermit>();
    let is_permitted = permit.is_none_or(ConnectionPermit::ensure_acquired);
    let mut response = if is_permitted || PROBES.contains(&request.path()) {
        next.call(request).await?.map_into_left_body()
    } else {
        let error = ApiError::too_many_connections().error_response();
        request.into_response(error).map_into_right_body()
    };
    // Without a permit, to free the connection for the next probe. While the server drains, so that the client's next
    // connection can lead to another node.
    let is_upgraded = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    if !is_permitted || (is_draining(&response) && !is_upgraded) {
        let head = response.response_mut().head_mut();
        head.set_connection_type(ConnectionType::Close);
    }
    Ok(response)
}

/// Open files of a server with this many connections.
pub fn files_needed(connections: u32) -> u64 {
    u64::from(connections) * FILES_PER_CONNECTION + OTHER_FILES
}

/// Raises the process's limit on open files to what this many connections need, as far as the system
/// allows.
pub fn raise_file_limit(connections: u32) {
    let needed = files_needed(connections);
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return;
    };
    if soft < needed {
        let allowed = needed.min(hard);
        if allowed < needed {
            warn!(
                allowed,
                needed, "the limit on open files is too low for MAX_CONNECTIONS"
            );
        }
        if let Err(reason) = setrlimit(Resource::RLIMIT_NOFILE, allowed, hard) {
            warn!(%reason, "raising the limit on open files failed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_permit_is_released_and_a_connection_without_one_gets_it() {
        let limit = ConnectionLimit::new(1);
        let connect = || {
            let mut connection = Extensions::new();
            limit.on_connect(&(), &mut connection);
            connection
        };
        let is_permitted = |connection: &Extensions| {
            let permit = connection.get::<ConnectionPermit>();
            permit.is_some_and(ConnectionPermit::ensure_acquired)
        };
        let (first, second) = (connect(), connect());
        assert!(is_permitted(&first) && !is_permitted(&second));
        drop(first);
        let third = connect();
        assert!(is_permitted(&third) && !is_permitted(&second));
        drop((second, third));
        assert_eq!(limit.0.in_use.load(Ordering::Relaxed), 0);
    }
}
