//! Middleware that checks API keys and rate limits, before the body is read.

use actix_web::body::{EitherBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::Method;
use actix_web::middleware::Next;
use actix_web::{Error, ResponseError, web};

use crate::http::AppState;
use crate::http::caller::{Caller, PresentedKey};
use crate::http::reply::error::ApiError;

/// Rejects a request without a valid key, if keys are configured, and one that exceeds the limits.
/// `OPTIONS` needs no key: browsers send none with it.
pub async fn require_key<B: MessageBody>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B>>, Error> {
    if let Err(error) = authorize(&request) {
        let response = error.error_response();
        return Ok(request.into_response(response).map_into_right_body());
    }
    next.call(request)
        .await
        .map(ServiceResponse::map_into_left_body)
}

/// Requires a key if `METRICS_KEYED` is set.
pub async fn require_key_for_metrics<B: MessageBody>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B>>, Error> {
    let state = request.app_data::<web::Data<AppState>>();
    if state.is_none_or(|state| state.settings.metrics_keyed) {
        return require_key(request, next).await;
    }
    next.call(request)
        .await
        .map(ServiceResponse::map_into_left_body)
}

fn authorize(request: &ServiceRequest) -> Result<(), ApiError> {
    if request.method() == Method::OPTIONS {
        return Ok(());
    }
    let state = request.app_data::<web::Data<AppState>>();
    let state = state.ok_or_else(ApiError::internal)?;
    let caller = Caller::of(request.request());
    caller.mark_key_required();
    match &caller.key {
        PresentedKey::NotRequired | PresentedKey::Valid(_) => {}
        PresentedKey::Missing => return Err(ApiError::invalid_api_key()),
        // Only wrong keys are limited: a valid key from the same address passes.
        PresentedKey::Invalid => return Err(state.limits.reject_wrong_key(caller.address)),
    }
    // Limits count transcriptions, not reads.
    if request.method() == Method::POST {
        state.limits.admit(&caller)?;
    }
    Ok(())
}
