//! `/health`, `/livez`, `/readyz` and `/v1/health`, from the tree's snapshot: no message to an actor.

use actix_web::{HttpResponse, web};
use stt_actors::Snapshot;
use stt_actors::ports::MemoryKind;

use super::readable;
use crate::http::AppState;
use crate::http::reply::schema::{Health, Probe, Routing, SmartRouting, TierHealth};
use crate::metrics::GB;
use crate::settings::Settings;

pub fn configure(config: &mut web::ServiceConfig) {
    config
        .service(readable("/health", health))
        .service(readable("/livez", livez))
        .service(readable("/readyz", readyz))
        .service(readable("/v1/health", node_health));
}

/// Always 200: the body has the state.
async fn health(state: web::Data<AppState>) -> HttpResponse {
    HttpResponse::Ok().json(report(&state.stt.snapshot(), &state.settings))
}

/// The health route of a primary and a fallback. Always 200.
async fn node_health(state: web::Data<AppState>) -> HttpResponse {
    let snapshot = state.stt.snapshot();
    HttpResponse::Ok().json(TierHealth {
        ok: true,
        status: snapshot.status(),
        role: state.settings.role.to_string(),
        model: model(&snapshot, &state.settings).to_owned(),
        version: env!("CARGO_PKG_VERSION"),
    })
}

async fn livez() -> HttpResponse {
    HttpResponse::Ok().json(Probe {
        status: "alive",
        reason: None,
    })
}

/// 200 while the server can transcribe; 503 until it has transcribed a clip, and while draining.
async fn readyz(state: web::Data<AppState>) -> HttpResponse {
    let snapshot = state.stt.snapshot();
    let status = snapshot.status();
    if status == "ok" {
        HttpResponse::Ok().json(Probe {
            status: "ready",
            reason: None,
        })
    } else {
        HttpResponse::ServiceUnavailable().json(Probe {
            status,
            reason: snapshot.hot_error().map(str::to_owned),
        })
    }
}

/// The served model.
pub fn model<'a>(snapshot: &'a Snapshot, settings: &'a Settings) -> &'a str {
    match &snapshot.last_engine {
        Some(engine) => &engine.model,
        None => &settings.whisper_model,
    }
}

fn report(snapshot: &Snapshot, settings: &Settings) -> Health {
    Health {
        status: snapshot.status(),
        version: env!("CARGO_PKG_VERSION"),
        model: model(snapshot, settings).to_owned(),
        device: (snapshot.last_engine.as_ref()).map(|engine| engine.device.clone()),
        hot_worker_loaded: snapshot.engine().is_some(),
        hot_worker_error: snapshot.hot_error().map(str::to_owned),
        routing: Routing {
            load_score: snapshot.load_score(),
            accepts_requests: snapshot.accepts_requests(),
        },
        smart_routing: smart_routing(snapshot, settings),
    }
}

/// Unknown numbers are null, and so are those about VRAM without a GPU.
fn smart_routing(snapshot: &Snapshot, settings: &Settings) -> SmartRouting {
    let memory = snapshot.memory;
    let on_gpu = memory.kind == MemoryKind::Vram;
    let vram_gb = |bytes: Option<u64>| {
        let bytes = bytes.filter(|_| on_gpu);
        bytes.map(|bytes| bytes as f64 / GB)
    };
    SmartRouting {
        ema_sps: snapshot.hot_real_time_factor,
        cold_start_calibrated: snapshot.measured_start.is_some(),
        cold_ema_start_seconds: snapshot.measured_start.map(|start| start.as_secs_f64()),
        queue_depth: snapshot.queue_depth,
        queue_audio_seconds: snapshot.remaining.audio_seconds(),
        queue_drain_estimate_seconds: snapshot.drain_estimate().as_secs_f64(),
        pool_workers_active: snapshot.pool.active,
        pool_workers_loading: snapshot.pool.loading,
        pool_workers_optimal: snapshot.pool.wanted,
        pool_size_cap: snapshot.pool.size_cap,
        vram_free_gb: vram_gb(memory.free_bytes),
        cold_vram_ema_gb: vram_gb(memory.worker_bytes),
        vram_sufficient_for_cold: !on_gpu || memory.fits_one_more,
        cold_start_configured_seconds: settings.cold_start_time.as_secs_f64(),
        safety_factor: settings.hot_queue_safety_factor,
        min_cold_vram_gb: settings.min_cold_vram_gb,
        cold_vram_per_worker_gb: vram_gb(memory.need_bytes),
    }
}
