//! `/metrics` in Prometheus's text format and `/v1/metrics` in JSON. Both read from memory only.

use actix_web::http::header::CONTENT_TYPE;
use actix_web::middleware::from_fn;
use actix_web::{HttpResponse, web};

use super::{health, readable};
use crate::http::{AppState, auth};
use crate::metrics::escalation;

/// The content type that Prometheus and Telegraf request.
const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

pub fn configure(config: &mut web::ServiceConfig) {
    config
        .service(readable("/metrics", scrape).wrap(from_fn(auth::require_key_for_metrics)))
        .service(readable("/v1/metrics", report).wrap(from_fn(auth::require_key)));
}

/// The metrics of a primary and a fallback as JSON.
async fn report(state: web::Data<AppState>) -> HttpResponse {
    let snapshot = state.stt.snapshot();
    let settings = &state.settings;
    HttpResponse::Ok().json(escalation::report(
        &snapshot,
        settings.role.to_string(),
        health::model(&snapshot, settings).to_owned(),
        settings.server_commit.clone(),
    ))
}

async fn scrape(state: web::Data<AppState>) -> HttpResponse {
    let libretranslate = state.stt.has_translator();
    let (snapshot, lanes) = (state.stt.snapshot(), state.stt.lanes());
    let text = state.metrics.render(&snapshot, &lanes, libretranslate);
    HttpResponse::Ok()
        .insert_header((CONTENT_TYPE, TEXT_FORMAT))
        .body(text)
}
