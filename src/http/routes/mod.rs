//! The HTTP routes: one file per resource, each with a `configure` of its own.

mod bazarr;
mod docs;
mod drain;
mod health;
mod jobs;
mod metrics;
mod models;
mod nearest;
mod openai;
mod page;
mod realtime;
mod status;
mod transcribe;
mod whisper_cpp;

use actix_web::middleware::from_fn;
use actix_web::{FromRequest, Handler, HttpRequest, Resource, Responder, Route, web};

use crate::http::auth;
use crate::http::reply::error::ApiError;

/// Registers all routes. `board`: those of the page and of the board as well.
pub fn configure(config: &mut web::ServiceConfig, board: bool) {
    if board {
        page::configure(config);
        status::configure(config);
    }
    health::configure(config);
    metrics::configure(config);
    models::configure(config);
    openai::configure(config);
    jobs::configure(config);
    realtime::configure(config);
    transcribe::configure(config);
    bazarr::configure(config);
    whisper_cpp::configure(config);
    docs::configure(config);
    drain::configure(config);
}

/// A path that GET and HEAD read.
fn readable<F, Args>(path: &str, handler: F) -> Resource
where
    F: Handler<Args>,
    Args: FromRequest + 'static,
    F::Output: Responder + 'static,
{
    web::resource(path)
        .route(web::get().to(handler.clone()))
        .route(web::head().to(handler))
        .default_service(only("GET, HEAD"))
}

/// Registers a path that takes POST requests and, where keys are configured, requires one.
fn keyed_post<F, Args>(config: &mut web::ServiceConfig, path: &str, handler: F)
where
    F: Handler<Args>,
    Args: FromRequest + 'static,
    F::Output: Responder + 'static,
{
    config.service(
        web::resource(path)
            .wrap(from_fn(auth::require_key))
            .route(web::post().to(handler))
            .default_service(only("POST")),
    );
}

/// Replies with 404 to a path that does not exist.
pub async fn unknown_path(request: HttpRequest) -> Result<&'static str, ApiError> {
    let path = request.path();
    // With BOARD=0, some known paths do not exist.
    let nearest = nearest::path(path).filter(|nearest| *nearest != path);
    Err(ApiError::not_found(path, nearest))
}

/// Replies with 405 to a method other than these.
fn only(methods: &'static str) -> Route {
    web::to(move || async move { Err::<&str, _>(ApiError::method_not_allowed(methods)) })
}
