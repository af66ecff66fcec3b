//! `/v1/audio/transcriptions` and `/v1/audio/translations`.

use actix_web::middleware::from_fn;
use actix_web::{HttpRequest, HttpResponse, web};
use stt_actors::transcript::Task;

use crate::http::body::{self, FILE};
use crate::http::pipeline::{AudioRequest, admit, answer, check, check_can_translate};
use crate::http::reply::error::ApiError;
use crate::http::{AppState, auth, only};
use crate::metrics::Endpoint;

pub fn configure(config: &mut web::ServiceConfig) {
    config
        .service(
            web::resource("/v1/audio/transcriptions")
                .wrap(from_fn(auth::require_key))
                .route(web::post().to(transcribe))
                .default_service(only("POST")),
        )
        .service(
            web::resource("/v1/audio/translations")
                .wrap(from_fn(auth::require_key))
                .route(web::post().to(translate))
                .default_service(only("POST")),
        );
}

async fn transcribe(
    state: web::Data<AppState>,
    request: HttpRequest,
    body: web::Payload,
) -> Result<HttpResponse, ApiError> {
    run(
        &state,
        &request,
        body,
        Task::Transcribe,
        Endpoint::Transcriptions,
    )
    .await
}

async fn translate(
    state: web::Data<AppState>,
    request: HttpRequest,
    body: web::Payload,
) -> Result<HttpResponse, ApiError> {
    check_can_translate(&state)?;
    run(
        &state,
        &request,
        body,
        Task::Translate,
        Endpoint::Translations,
    )
    .await
}

async fn run(
    state: &AppState,
    request: &HttpRequest,
    body: web::Payload,
    task: Task,
    endpoint: Endpoint,
) -> Result<HttpResponse, ApiError> {
    // Before the body is read: refused work costs nothing. However this ends, the place is given
    // back.
    let admission = admit(state, request)?;
    let parts = body::read(request, body, &state.uploads, FILE).await?;
    let asked = AudioRequest {
        admission,
        form: check(state, parts, task)?,
        endpoint,
    };
    answer(state, request, asked).await
}
