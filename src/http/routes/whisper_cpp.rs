//! `/inference`, as in whisper.cpp's server: OpenAI's form with a `translate` switch.

use actix_web::{HttpRequest, HttpResponse, web};
use stt_actors::domain::transcript::Task;

use super::keyed_post;
use crate::http::body::{OPENAI_FORM, form};
use crate::http::reply::error::ApiError;
use crate::http::{AppState, pipeline};
use crate::metrics::Endpoint;

pub fn configure(config: &mut web::ServiceConfig) {
    keyed_post(config, Endpoint::Inference.path(), inference);
}

async fn inference(
    state: web::Data<AppState>,
    request: HttpRequest,
    body: web::Payload,
) -> Result<HttpResponse, ApiError> {
    let admitted = pipeline::admit(&state, &request)?;
    let parts = admitted.read(body, OPENAI_FORM).await?;
    let task = if form::switch(&parts, "translate", false)? {
        Task::Translate
    } else {
        Task::Transcribe
    };
    let form = admitted.check(parts, task)?;
    admitted.answer(Endpoint::Inference, form).await
}
