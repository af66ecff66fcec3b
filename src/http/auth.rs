//! Bearer keys: checked before a byte of the body is read.

use actix_web::body::{EitherBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::AUTHORIZATION;
use actix_web::middleware::Next;
use actix_web::{Error, ResponseError, web};
use subtle::{Choice, ConstantTimeEq};

use super::AppState;
use super::error::ApiError;

/// Lets a request pass if no keys are configured or it carries one of them.
pub async fn require_key<B: MessageBody>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B>>, Error> {
    let allowed = match request.app_data::<web::Data<AppState>>() {
        Some(state) => is_allowed(&state.settings.api_keys, bearer(&request)),
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

fn bearer(request: &ServiceRequest) -> Option<&str> {
    let header = request.headers().get(AUTHORIZATION)?.to_str().ok()?;
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
