//! What a page of another origin may do (CORS): nothing, unless `CORS_ALLOW_ORIGINS` says so.
//!
//! Preflights are answered before keys are asked for: browsers send none with them. Refusals carry
//! the headers as well, so that a page can read why.

use actix_cors::{Cors, CorsError};
use actix_web::body::{EitherBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::Method;
use actix_web::http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS,
    HeaderName,
};
use actix_web::middleware::{Condition, Next};
use actix_web::{Error, ResponseError};

use crate::http::pipeline::{X_ROUTE, X_TRANSLATION_MODE};
use crate::http::reply::error::ApiError;
use crate::http::reply::escalation_headers;
use crate::http::request_log::{X_QUEUE_ETA_MS, X_QUEUE_POSITION, X_REQUEST_ID};
use crate::settings::Origins;

/// What pages may read besides the body.
const EXPOSED: [HeaderName; 5] = [
    X_ROUTE,
    X_REQUEST_ID,
    X_TRANSLATION_MODE,
    X_QUEUE_POSITION,
    X_QUEUE_ETA_MS,
];
/// How long a browser may go by the answer to a preflight: not long after a change of the settings.
const PREFLIGHT_SECONDS: usize = 600;

/// Answers preflights, and marks what pages of these origins may read.
pub fn middleware(origins: &Origins) -> Condition<Cors> {
    let is_on = *origins != Origins::None;
    let cors = Cors::default()
        .allowed_methods([Method::GET, Method::POST, Method::HEAD, Method::OPTIONS])
        .allow_any_header()
        .expose_headers(EXPOSED)
        .expose_headers(escalation_headers::NAMES)
        .supports_credentials()
        .max_age(PREFLIGHT_SECONDS)
        // Who sends an origin and is no browser gets an answer like anybody.
        .block_on_origin_mismatch(false);
    let origins = origins.clone();
    let allows = move |origin: &[u8]| match &origins {
        Origins::None => false,
        Origins::Any => true,
        Origins::These(these) => these.iter().any(|known| known.as_bytes() == origin),
    };
    let cors = cors.allowed_origin_fn(move |origin, _| allows(origin.as_bytes()));
    Condition::new(is_on, cors)
}

/// What the library leaves: it names what pages may read even where none may, and its refusals have
/// not the shape that ours have.
pub async fn tidy<B: MessageBody>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B>>, Error> {
    let mut response = next.call(request).await?;
    let error = response.response().error();
    if let Some(refusal) = error.and_then(|error| error.as_error::<CorsError>()) {
        let refusal = ApiError::cors_refused(refusal.to_string()).error_response();
        return Ok(response.into_response(refusal).map_into_right_body());
    }
    let headers = response.headers_mut();
    if !headers.contains_key(ACCESS_CONTROL_ALLOW_ORIGIN) {
        headers.remove(ACCESS_CONTROL_ALLOW_CREDENTIALS);
        headers.remove(ACCESS_CONTROL_EXPOSE_HEADERS);
    }
    Ok(response.map_into_left_body())
}
