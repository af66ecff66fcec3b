//! `/openapi.json`, and `/docs`, a page that shows it. They need no key: they contain no data about
//! requests. The page's assets are part of the program.

use std::sync::Arc;

use actix_web::{HttpResponse, web};
use utoipa_swagger_ui::Config;

use super::readable;
use crate::http::AppState;
use crate::http::reply::error::ApiError;
use crate::http::reply::openapi;

/// The page. It uses relative paths, so that it works behind a proxy that adds a prefix.
const PAGE: &str = include_str!("docs.html");
/// The assets that the page loads; the package has more.
const ASSETS: [&str; 2] = ["swagger-ui.css", "swagger-ui-bundle.js"];

pub fn configure(config: &mut web::ServiceConfig) {
    config
        .service(readable("/openapi.json", document))
        .service(readable("/docs", page))
        .service(readable("/docs/{asset}", asset));
}

async fn document(state: web::Data<AppState>) -> HttpResponse {
    let keys_required = !state.keys.now().is_open();
    HttpResponse::Ok().json(openapi::document(keys_required))
}

async fn page() -> HttpResponse {
    HttpResponse::Ok()
        .content_type("text/html; charset=utf-8")
        .body(PAGE)
}

async fn asset(name: web::Path<String>) -> Result<HttpResponse, ApiError> {
    let found = ASSETS
        .contains(&name.as_str())
        .then(|| utoipa_swagger_ui::serve(&name, Arc::new(Config::from("openapi.json"))));
    match found {
        Some(Ok(Some(file))) => Ok(HttpResponse::Ok()
            .content_type(file.content_type)
            .body(file.bytes.into_owned())),
        Some(Err(_)) => Err(ApiError::internal()),
        Some(Ok(None)) | None => Err(ApiError::not_found(&format!("/docs/{name}"), None)),
    }
}
