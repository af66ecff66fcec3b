//! `/health`, `/livez`, `/readyz`: from the tree's published state, asking no actor.

use actix_web::{HttpResponse, web};
use serde_json::{Value, json};
use stt_actors::{HotState, Snapshot};

use super::{AppState, method_not_allowed};
use crate::settings::Settings;

pub fn configure(config: &mut web::ServiceConfig) {
    for (path, handler) in [
        ("/health", web::get().to(health)),
        ("/livez", web::get().to(livez)),
        ("/readyz", web::get().to(readyz)),
    ] {
        let head = match path {
            "/health" => web::head().to(health),
            "/livez" => web::head().to(livez),
            _ => web::head().to(readyz),
        };
        config.service(
            web::resource(path)
                .route(handler)
                .route(head)
                .default_service(web::to(method_not_allowed)),
        );
    }
}

/// Always 200: what is wrong is in the body.
async fn health(state: web::Data<AppState>) -> HttpResponse {
    HttpResponse::Ok().json(report(&state.stt.snapshot(), &state.settings))
}

async fn livez() -> HttpResponse {
    HttpResponse::Ok().json(json!({"status": "alive"}))
}

/// 200 while requests can be served; 503 until a clip has been transcribed, and while draining.
async fn readyz(state: web::Data<AppState>) -> HttpResponse {
    let snapshot = state.stt.snapshot();
    let status = status(&snapshot);
    if status == "ok" {
        HttpResponse::Ok().json(json!({"status": "ready"}))
    } else {
        HttpResponse::ServiceUnavailable()
            .json(json!({"status": status, "reason": snapshot.hot_error()}))
    }
}

fn status(snapshot: &Snapshot) -> &'static str {
    match &snapshot.hot {
        _ if snapshot.draining => "draining",
        HotState::Ready(_) => "ok",
        HotState::Starting => "loading",
        HotState::Restarting { .. } | HotState::Failed { .. } => "degraded",
    }
}

fn report(snapshot: &Snapshot, settings: &Settings) -> Value {
    let loaded = snapshot.engine().is_some();
    let load_score = snapshot.load_score(settings.routing_drain_cap);
    let accepts = loaded && load_score < 1.0 && !snapshot.draining;
    let model = match &snapshot.last_engine {
        Some(engine) => engine.model.as_str(),
        None => settings.whisper_model.as_str(),
    };
    json!({
        "status": status(snapshot),
        "version": env!("CARGO_PKG_VERSION"),
        "model": model,
        "hot_worker_loaded": loaded,
        "hot_worker_error": snapshot.hot_error(),
        "routing": {"load_score": load_score, "accepts_requests": accepts},
        "smart_routing": {
            "ema_sps": snapshot.hot_real_time_factor,
            "cold_start_calibrated": false,
            "cold_ema_start_seconds": null,
            "queue_depth": snapshot.queue_depth,
            "queue_audio_seconds": snapshot.queue_audio.as_secs_f64(),
            "queue_drain_estimate_seconds": snapshot.drain_estimate().as_secs_f64(),
            "pool_workers_active": 0,
            "pool_workers_loading": 0,
            "pool_workers_optimal": 0,
            "pool_size_cap": settings.cold_pool_size,
            "vram_free_gb": null,
            "cold_vram_ema_gb": null,
            "vram_sufficient_for_cold": true,
            "cold_start_configured_seconds": settings.cold_start_time.as_secs_f64(),
            "safety_factor": settings.hot_queue_safety_factor,
            "min_cold_vram_gb": settings.min_cold_vram_gb,
            "cold_vram_per_worker_gb": null,
        },
    })
}
