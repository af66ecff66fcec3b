//! OpenAI's `/v1/audio/transcriptions` and `/v1/audio/translations`.

use actix_web::{HttpRequest, HttpResponse, web};
use stt_actors::domain::transcript::Task;

use super::keyed_post;
use crate::http::body::OPENAI_BODY;
use crate::http::reply::error::ApiError;
use crate::http::{AppState, pipeline};
use crate::metrics::Endpoint;

pub fn configure(config: &mut web::ServiceConfig) {
    keyed_post(config, Endpoint::Transcriptions.path(), transcribe);
    keyed_post(config, Endpoint::Translations.path(), translate);
}

async fn transcribe(
    state: web::Data<AppState>,
    request: HttpRequest,
    body: web::Payload,
) -> Result<HttpResponse, ApiError> {
    let admitted = pipeline::admit(&state, &request)?;
    let parts = admitted.read(body, OPENAI_BODY).await?;
    let form = admitted.check(parts, Task::Transcribe)?;
    admitted.answer(Endpoint::Transcriptions, form).await
}

async fn translate(
    state: web::Data<AppState>,
    request: HttpRequest,
    body: web::Payload,
) -> Result<HttpResponse, ApiError> {
    let admitted = pipeline::admit(&state, &request)?;
    let parts = admitted.read(body, OPENAI_BODY).await?;
    let form = admitted.check(parts, Task::Translate)?;
    admitted.answer(Endpoint::Translations, form).await
}
