//! Middleware that decides who may use the server at all: by the client's address (`ALLOWED_NETWORKS`) and by its
//! certificate (`TLS_CLIENT_CA`). Most clients that may not are refused before a request; here are those that come
//! through a proxy, and those on this machine.

use actix_web::body::{EitherBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::middleware::Next;
use actix_web::{Error, ResponseError, web};

use crate::allow_list::is_in;
use crate::http::AppState;
use crate::http::caller::Caller;
use crate::http::connections::acceptor::Peer;
use crate::http::reply::error::ApiError;

/// What this machine and the trusted proxies may always ask.
const HEALTH: &[&str] = &["/health", "/livez", "/readyz", "/v1/health"];

/// Rejects requests of clients that may not use the server.
pub async fn require_access<B: MessageBody>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B>>, Error> {
    match check(&request) {
        Ok(()) => {
            let response = next.call(request).await;
            response.map(ServiceResponse::map_into_left_body)
        }
        Err(error) => Ok(request
            .into_response(error.error_response())
            .map_into_right_body()),
    }
}

fn check(request: &ServiceRequest) -> Result<(), ApiError> {
    let peer = request.request().conn_data::<Peer>();
    let peer = peer.copied().unwrap_or_default();
    let asks_for_health = HEALTH.contains(&request.path());
    if peer.lacks_certificate && !asks_for_health {
        return Err(ApiError::client_certificate_required());
    }
    let state = request.app_data::<web::Data<AppState>>();
    let state = state.ok_or_else(ApiError::internal)?;
    let settings = &state.settings;
    if state.allow_list.is_open() {
        return Ok(());
    }
    let client = Caller::of(request.request()).address;
    let client = client.ok_or_else(ApiError::internal)?;
    let own = request
        .peer_addr()
        .map(|address| address.ip().to_canonical());
    let is_neighbour =
        own == Some(client) && (peer.is_this_machine || is_in(client, &settings.trusted_proxies));
    if state.allow_list.admits(client) || (asks_for_health && is_neighbour) {
        return Ok(());
    }
    Err(ApiError::address_not_allowed(client))
}
