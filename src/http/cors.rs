//! CORS: which pages of other origins may use the API. None, unless `CORS_ALLOW_ORIGINS` is set.
//!
//! Preflights are answered before keys are checked, because browsers send no key with them. Errors have
//! the CORS headers as well, so that a page can read the reason.

use actix_cors::{Cors, CorsError};
use actix_web::body::{EitherBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::Method;
use actix_web::http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS,
    HOST, HeaderName, HeaderValue, LOCATION, ORIGIN,
};
use actix_web::middleware::{Condition, Next};
use actix_web::{Error, HttpRequest, ResponseError};

use crate::http::pipeline::{X_ROUTE, X_TRANSLATION_MODE};
use crate::http::reply::error::ApiError;
use crate::http::reply::escalation_headers;
use crate::http::request_log::{X_QUEUE_ETA_MS, X_QUEUE_POSITION, X_REQUEST_ID};
use crate::settings::Origins;

/// Response headers that pages may read.
const EXPOSED: [HeaderName; 6] = [
    LOCATION,
    X_ROUTE,
    X_REQUEST_ID,
    X_TRANSLATION_MODE,
    X_QUEUE_POSITION,
    X_QUEUE_ETA_MS,
];
/// How long a browser may cache a preflight. Short, so that a change of the settings takes effect.
const PREFLIGHT_SECONDS: usize = 600;

/// Answers preflights and adds the CORS headers for these origins.
pub fn middleware(origins: &Origins) -> Condition<Cors> {
    let is_on = *origins != Origins::None;
    let cors = Cors::default()
        .allowed_methods([
            Method::GET,
            Method::POST,
            Method::DELETE,
            Method::HEAD,
            Method::OPTIONS,
        ])
        .allow_any_header()
        .expose_headers(EXPOSED)
        .expose_headers(escalation_headers::NAMES)
        .supports_credentials()
        .max_age(PREFLIGHT_SECONDS)
        // A client that is not a browser may send an Origin header, too: serve it.
        .block_on_origin_mismatch(false);
    let origins = origins.clone();
    let cors = cors.allowed_origin_fn(move |origin, _| allows(&origins, origin.as_bytes()));
    Condition::new(is_on, cors)
}

fn allows(origins: &Origins, origin: &[u8]) -> bool {
    match origins {
        Origins::None => false,
        Origins::Any => true,
        Origins::These(these) => these.iter().any(|known| known.as_bytes() == origin),
    }
}

/// Whether a WebSocket may be opened: by a program, by a page of these origins, or by a page of this server. Browsers
/// send no preflight before a WebSocket, and let every page read from it.
pub fn allows_page(origins: &Origins, request: &HttpRequest) -> bool {
    let Some(origin) = request.headers().get(ORIGIN) else {
        return true;
    };
    let host = request.headers().get(HOST).map(HeaderValue::as_bytes);
    let origin = origin.as_bytes();
    let is_own = [&b"http://"[..], b"https://"].iter().any(|scheme| {
        origin
            .strip_prefix(*scheme)
            .is_some_and(|own| Some(own) == host)
    });
    is_own || allows(origins, origin)
}

/// Corrects the library's responses: removes headers that it sends even to origins that are not
/// allowed, and gives its errors the API's format.
pub async fn normalize<B: MessageBody>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B>>, Error> {
    let mut response = next.call(request).await?;
    let error = response.response().error();
    if let Some(error) = error.and_then(|error| error.as_error::<CorsError>()) {
        let error = ApiError::cors_refused(error.to_string()).error_response();
        return Ok(response.into_response(error).map_into_right_body());
    }
    let headers = response.headers_mut();
    if !headers.contains_key(ACCESS_CONTROL_ALLOW_ORIGIN) {
        headers.remove(ACCESS_CONTROL_ALLOW_CREDENTIALS);
        headers.remove(ACCESS_CONTROL_EXPOSE_HEADERS);
    }
    Ok(response.map_into_left_body())
}
