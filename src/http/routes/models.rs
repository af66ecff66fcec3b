//! `/v1/models`: the names under which clients can request the one served model.

use actix_web::middleware::from_fn;
use actix_web::{HttpResponse, web};

use super::readable;
use crate::http::reply::error::ApiError;
use crate::http::reply::schema::{Model, ModelList};
use crate::http::{AppState, auth};

/// OpenAI's transcription models: aliases of the served model.
const ALIASES: &[&str] = &[
    "whisper-1",
    "gpt-4o-transcribe",
    "gpt-4o-mini-transcribe",
    "gpt-4o-transcribe-diarize",
];
/// When OpenAI created the first of them, in Unix time.
const CREATED: u64 = 1_677_610_602;

pub fn configure(config: &mut web::ServiceConfig) {
    config
        .service(readable("/v1/models", list).wrap(from_fn(auth::require_key)))
        .service(readable("/v1/models/{id}", one).wrap(from_fn(auth::require_key)));
}

async fn list(state: web::Data<AppState>) -> HttpResponse {
    let mut data = vec![model("whisper-1")];
    if let Some(served) = served_name(&state) {
        data.push(model(&served));
    }
    HttpResponse::Ok().json(ModelList {
        object: "list",
        data,
    })
}

async fn one(state: web::Data<AppState>, id: web::Path<String>) -> Result<HttpResponse, ApiError> {
    let known =
        ALIASES.contains(&id.as_str()) || served_name(&state).is_some_and(|served| served == *id);
    if known {
        Ok(HttpResponse::Ok().json(model(&id)))
    } else {
        Err(ApiError::model_not_found(&id))
    }
}

/// The name of the served model; before it is loaded, the configured name unless that is `auto` or a path.
pub fn served_name(state: &AppState) -> Option<String> {
    if let Some(engine) = state.stt.snapshot().last_engine {
        return Some(engine.model);
    }
    let configured = &state.settings.whisper_model;
    (configured != "auto" && !configured.contains('/')).then(|| configured.clone())
}

fn model(id: &str) -> Model {
    Model {
        id: id.to_owned(),
        object: "model",
        created: CREATED,
        owned_by: "uttera",
    }
}
