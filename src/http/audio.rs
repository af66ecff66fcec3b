//! `/v1/audio/transcriptions` and `/v1/audio/translations`.

use std::sync::Arc;

use actix_web::http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderName};
use actix_web::middleware::from_fn;
use actix_web::{HttpMessage, HttpRequest, HttpResponse, web};
use stt_actors::transcript::Task;
use stt_actors::{Job, Newcomer, Options, Priority};
use tracing::warn;

use super::error::ApiError;
use super::form::{self, AudioForm};
use super::request_log::{RequestId, Worked};
use super::translation::Translation;
use super::{AppState, auth, method_not_allowed, spoken_language};
use crate::metrics::Transcribed;

/// Which lanes did the work.
pub const X_ROUTE: HeaderName = HeaderName::from_static("x-route");
/// Who translated, unless it was whisper itself.
pub const X_TRANSLATION_MODE: HeaderName = HeaderName::from_static("x-translation-mode");

pub fn configure(config: &mut web::ServiceConfig) {
    config
        .service(
            web::resource("/v1/audio/transcriptions")
                .wrap(from_fn(auth::require_key))
                .route(web::post().to(transcribe))
                .default_service(web::to(method_not_allowed)),
        )
        .service(
            web::resource("/v1/audio/translations")
                .wrap(from_fn(auth::require_key))
                .route(web::post().to(translate))
                .default_service(web::to(method_not_allowed)),
        );
}

async fn transcribe(
    state: web::Data<AppState>,
    request: HttpRequest,
    body: web::Payload,
) -> Result<HttpResponse, ApiError> {
    run(&state, &request, body, Task::Transcribe).await
}

async fn translate(
    state: web::Data<AppState>,
    request: HttpRequest,
    body: web::Payload,
) -> Result<HttpResponse, ApiError> {
    if state.translator.is_none()
        && let Some(engine) = state.stt.snapshot().last_engine
    {
        if !engine.multilingual {
            return Err(ApiError::translation_unsupported(&engine.model));
        }
        if engine.model.contains("turbo") {
            warn!(
                model = engine.model,
                "this model was trained little for translation"
            );
        }
    }
    run(&state, &request, body, Task::Translate).await
}

async fn run(
    state: &AppState,
    request: &HttpRequest,
    body: web::Payload,
    task: Task,
) -> Result<HttpResponse, ApiError> {
    // Before the body is read: refused work costs nothing. However this ends, the place is given
    // back.
    let admission = state.stt.admit(newcomer(state, request))?;
    request.extensions_mut().insert(admission.outlook());
    let form = form::read(request, body, &state.uploads, task).await?;
    spoken_language::check(state, form.language.as_deref())?;
    let translation = Translation::of(state, &form, task)?;
    let format = form.format;
    let job = job(state, request, form, translation.engine_task());
    // If the client leaves, this future is dropped, the stream with it, and the work ends.
    let transcript = state.stt.submit(admission, job).await?.transcript().await?;
    // The lanes are free again by now.
    let transcript = translation.finish(transcript).await?;
    state.metrics.record_transcript(&Transcribed {
        task,
        by_libretranslate: translation.is_libretranslates(),
        format,
        route: transcript.route,
        audio_seconds: transcript.duration,
    });
    let mut response = HttpResponse::Ok();
    if translation.is_libretranslates() {
        response.insert_header((X_TRANSLATION_MODE, "libretranslate"));
    }
    let mut response = response
        .insert_header((CONTENT_TYPE, format.content_type()))
        .insert_header((X_ROUTE, transcript.route.as_str()))
        .body(format.render(&transcript, task));
    response.extensions_mut().insert(Worked::from(&transcript));
    Ok(response)
}

/// Who asks, and how much it brings by its own word.
fn newcomer(state: &AppState, request: &HttpRequest) -> Newcomer {
    let length = request.headers().get(CONTENT_LENGTH);
    Newcomer {
        client: auth::client_of(&state.settings.api_keys, request),
        priority: Priority::default(),
        body_bytes: length.and_then(|length| length.to_str().ok()?.parse().ok()),
    }
}

fn job(state: &AppState, request: &HttpRequest, form: AudioForm, task: Task) -> Job {
    Job {
        request_id: Arc::clone(&RequestId::of(request).0),
        source: form.source,
        options: Options {
            task,
            language: (form.language).or_else(|| state.settings.default_language.clone()),
            prompt: form.prompt,
            temperature: form.temperature,
            voice_activity: form.vad_filter,
            hallucination_guard: form.hallucination_guard,
            multilingual: form.multilingual,
        },
    }
}
