//! One file for each resource, each with a `configure` of its own.

mod bazarr;
mod docs;
mod health;
mod metrics;
mod models;
mod openai;
mod transcribe;
mod whisper_cpp;

use actix_web::web;

/// Registers all resources.
pub fn configure(config: &mut web::ServiceConfig) {
    health::configure(config);
    metrics::configure(config);
    models::configure(config);
    openai::configure(config);
    transcribe::configure(config);
    bazarr::configure(config);
    whisper_cpp::configure(config);
    docs::configure(config);
}
