//! `POST /admin/drain`: the server finishes its work and ends, as on SIGTERM.

use std::time::Duration;

use actix_web::http::header::{FORWARDED, HeaderName, ORIGIN, X_FORWARDED_FOR};
use actix_web::{HttpRequest, HttpResponse, web};
use stt_actors::{Drain, Snapshot};

use super::keyed_post;
use crate::board::report::seconds;
use crate::http::AppState;
use crate::http::caller::{Caller, PresentedKey};
use crate::http::reply::error::ApiError;
use crate::http::reply::schema::DrainState;

/// The path.
pub const PATH: &str = "/admin/drain";

/// How long the tree may take to begin. It needs microseconds.
const BEGIN_LIMIT: Duration = Duration::from_secs(2);

/// Headers that proxies add, and browsers.
const OF_OTHERS: [HeaderName; 4] = [
    FORWARDED,
    ORIGIN,
    X_FORWARDED_FOR,
    HeaderName::from_static("x-real-ip"),
];

pub fn configure(config: &mut web::ServiceConfig) {
    keyed_post(config, PATH, drain);
}

/// Begins a drain, and says what is left to do. A drain that runs already goes on as it is.
async fn drain(state: web::Data<AppState>, request: HttpRequest) -> Result<HttpResponse, ApiError> {
    if !may_drain(&request) {
        return Err(ApiError::drain_not_allowed());
    }
    state.drain_requests.request();
    let begun = tokio::time::timeout(BEGIN_LIMIT, state.stt.until_draining()).await;
    begun.map_err(|_elapsed| ApiError::internal())?;
    Ok(HttpResponse::Accepted().json(describe(&state.stt.snapshot())))
}

/// Whether the caller has a key or, where none are configured, is a program on this machine. A proxy or a page on it
/// acts for others.
fn may_drain(request: &HttpRequest) -> bool {
    if matches!(Caller::of(request).key, PresentedKey::Valid(_)) {
        return true;
    }
    let peer = request.peer_addr().map(|peer| peer.ip().to_canonical());
    let headers = request.headers();
    peer.is_some_and(|address| address.is_loopback())
        && !OF_OTHERS.iter().any(|name| headers.contains_key(name))
}

fn describe(snapshot: &Snapshot) -> DrainState {
    let Drain {
        rejects_in,
        cancels_in,
    } = snapshot.drain.unwrap_or(Drain {
        rejects_in: Duration::ZERO,
        cancels_in: Duration::ZERO,
    });
    DrainState {
        status: snapshot.status(),
        rejects_in_seconds: seconds(rejects_in),
        cancels_in_seconds: seconds(cancels_in),
        requests: snapshot.requests,
        live_sessions: snapshot.live_sessions,
        audio_seconds: snapshot.remaining.audio_seconds(),
        drain_seconds: seconds(snapshot.drain_estimate()),
    }
}
