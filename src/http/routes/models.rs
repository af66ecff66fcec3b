//! `/v1/models`: what clients choose from. Every OpenAI name stands for the one served model.

use actix_web::middleware::from_fn;
use actix_web::{HttpResponse, web};

use crate::http::reply::error::ApiError;
use crate::http::reply::schema::{Model, ModelList};
use crate::http::{AppState, auth, only};

/// OpenAI's names of transcription models, and the time at which it made the first.
const ALIASES: &[&str] = &[
    "whisper-1",
    "gpt-4o-transcribe",
    "gpt-4o-mini-transcribe",
    "gpt-4o-transcribe-diarize",
];
const CREATED: u64 = 1_677_610_602;

pub fn configure(config: &mut web::ServiceConfig) {
    config
        .service(
            web::resource("/v1/models")
                .wrap(from_fn(auth::require_key))
                .route(web::get().to(list))
                .default_service(only("GET")),
        )
        .service(
            web::resource("/v1/models/{id}")
                .wrap(from_fn(auth::require_key))
                .route(web::get().to(one))
                .default_service(only("GET")),
        );
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

/// The served model's name; before it is loaded, the configured one unless that is `auto`.
fn served_name(state: &AppState) -> Option<String> {
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
