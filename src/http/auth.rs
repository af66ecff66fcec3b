//! Bearer keys: checked before a byte of the body is read.

use std::slice;

use actix_web::body::{EitherBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::Method;
use actix_web::http::header::{AUTHORIZATION, HeaderMap};
use actix_web::middleware::Next;
use actix_web::{Error, HttpRequest, ResponseError, web};
use stt_actors::Client;
use subtle::{Choice, ConstantTimeEq};

use super::AppState;
use super::error::ApiError;

/// Lets a request pass if no keys are configured or it carries one of them. `OPTIONS` is open: what
/// may be done is no secret, and browsers ask without a key.
pub async fn require_key<B: MessageBody>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B>>, Error> {
    let allowed = match request.app_data::<web::Data<AppState>>() {
        _ if request.method() == Method::OPTIONS => true,
        Some(state) => is_allowed(&state.settings.api_keys, bearer(request.headers())),
        None => false,
    };
    if !allowed {
        let refusal = ApiError::invalid_api_key().error_response();
        return Ok(request.into_response(refusal).map_into_right_body());
    }
    next.call(request)
        .await
        .map(ServiceResponse::map_into_left_body)
}

/// Whose request this is, for fairness: that of a key where keys are configured, that of an address
/// otherwise. A key is known by its place in the list, so that it appears nowhere.
pub fn client_of(keys: &[String], request: &HttpRequest) -> Client {
    if let Some(given) = bearer(request.headers())
        && let Some(place) = keys
            .iter()
            .position(|key| is_allowed(slice::from_ref(key), Some(given)))
    {
        return Client::new(format!("key {place}"));
    }
    let address = request.peer_addr().map(|address| address.ip());
    Client::new(address.map_or_else(String::new, |address| address.to_string()))
}

/// Who may hear what others hear that sent the same: all with one key; where there are no keys, all.
pub fn owner_of(keys: &[String], request: &HttpRequest) -> Client {
    if keys.is_empty() {
        return Client::new("everybody");
    }
    client_of(keys, request)
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let header = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, key) = header.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
}

/// Compares with every key in constant time, so that timing tells nothing about any.
fn is_allowed(keys: &[String], given: Option<&str>) -> bool {
    if keys.is_empty() {
        return true;
    }
    let Some(given) = given else { return false };
    let matches = keys.iter().fold(Choice::from(0), |matches, key| {
        matches | key.as_bytes().ct_eq(given.as_bytes())
    });
    matches.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_configured_key_opens_and_nothing_else_does() {
        let keys = ["old".to_owned(), "new".to_owned()];
        assert!(is_allowed(&[], None));
        assert!(is_allowed(&keys, Some("old")) && is_allowed(&keys, Some("new")));
        for wrong in [None, Some(""), Some("ol"), Some("older")] {
            assert!(!is_allowed(&keys, wrong), "{wrong:?}");
        }
    }
}
