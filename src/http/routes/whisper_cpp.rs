//! `/inference`, as whisper.cpp's server has it: OpenAI's form, with a switch for translating.

use actix_web::middleware::from_fn;
use actix_web::{HttpRequest, HttpResponse, web};
use stt_actors::transcript::Task;

use crate::http::body::form;
use crate::http::body::{self, FILE_OF_A_FORM};
use crate::http::pipeline::{AudioRequest, admit, answer, check, check_can_translate};
use crate::http::reply::error::ApiError;
use crate::http::{AppState, auth, only};
use crate::metrics::Endpoint;

pub fn configure(config: &mut web::ServiceConfig) {
    config.service(
        web::resource("/inference")
            .wrap(from_fn(auth::require_key))
            .route(web::post().to(inference))
            .default_service(only("POST")),
    );
}

async fn inference(
    state: web::Data<AppState>,
    request: HttpRequest,
    body: web::Payload,
) -> Result<HttpResponse, ApiError> {
    let admission = admit(&state, &request)?;
    let parts = body::read(&request, body, &state.uploads, FILE_OF_A_FORM).await?;
    let task = if form::switch(&parts, "translate", false)? {
        check_can_translate(&state)?;
        Task::Translate
    } else {
        Task::Transcribe
    };
    let asked = AudioRequest {
        admission,
        form: check(&state, parts, task)?,
        endpoint: Endpoint::Inference,
    };
    answer(&state, &request, asked).await
}
