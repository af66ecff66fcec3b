//! The door: bearer keys and limits, looked at before a byte of the body is read.

use actix_web::body::{EitherBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::Method;
use actix_web::middleware::Next;
use actix_web::{Error, ResponseError, web};

use crate::http::AppState;
use crate::http::caller::{Shown, Visitor};
use crate::http::reply::error::ApiError;

/// Lets a request pass if no keys are configured or it carries one of them, and if it is within the
/// limits. `OPTIONS` is open: what may be done is no secret, and browsers ask without a key.
pub async fn require_key<B: MessageBody>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B>>, Error> {
    if let Err(refusal) = let_in(&request) {
        let refusal = refusal.error_response();
        return Ok(request.into_response(refusal).map_into_right_body());
    }
    next.call(request)
        .await
        .map(ServiceResponse::map_into_left_body)
}

/// The same where `METRICS_KEYED` says so.
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

fn let_in(request: &ServiceRequest) -> Result<(), ApiError> {
    if request.method() == Method::OPTIONS {
        return Ok(());
    }
    let state = request.app_data::<web::Data<AppState>>();
    let state = state.ok_or_else(ApiError::internal)?;
    let visitor = Visitor::of(request.request());
    visitor.mark_asked();
    match &visitor.key {
        Shown::NotNeeded | Shown::Known(_) => {}
        Shown::Nothing => return Err(ApiError::invalid_api_key()),
        // A right key passes however many wrong ones came from there.
        Shown::Wrong => return Err(state.limits.refuse_wrong_key(visitor.address)),
    }
    // Work is what is limited: looking is free.
    if request.method() == Method::POST {
        state.limits.admit(&visitor)?;
    }
    Ok(())
}
