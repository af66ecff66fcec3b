//! `/v1/audio/transcriptions` and `/v1/audio/translations`, and what all paths with audio share.

use std::sync::Arc;

use actix_web::http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderName};
use actix_web::middleware::from_fn;
use actix_web::{HttpMessage, HttpRequest, HttpResponse, web};
use stt_actors::transcript::{Task, Transcript};
use stt_actors::{Admission, Identity, Job, Newcomer, Priority};
use tracing::warn;

use super::error::ApiError;
use super::form::{self, AudioForm};
use super::parts::{self, FILE, Parts};
use super::request_log::{RequestId, Worked};
use super::{AppState, auth, method_not_allowed, stream};
use crate::metrics::{Endpoint, Transcribed};

/// Which lanes did the work.
pub const X_ROUTE: HeaderName = HeaderName::from_static("x-route");

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

/// A request with audio, admitted and checked.
pub struct AudioRequest {
    /// Its place in the queue.
    pub admission: Admission,
    /// What it asks for.
    pub form: AudioForm,
    /// The path that it came on.
    pub endpoint: Endpoint,
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
    let parts = parts::read(request, body, &state.uploads, FILE).await?;
    let asked = AudioRequest {
        admission,
        form: check(state, parts, task)?,
        endpoint,
    };
    answer(state, request, asked).await
}

/// Checks a request's fields, with what the operator has set for those that are missing.
pub fn check(state: &AppState, parts: Parts, task: Task) -> Result<AudioForm, ApiError> {
    form::check(parts, task, state.settings.default_language.as_deref())
}

/// Refuses what the served model cannot do.
pub fn check_can_translate(state: &AppState) -> Result<(), ApiError> {
    let Some(engine) = state.stt.snapshot().last_engine else {
        return Ok(());
    };
    if !engine.multilingual {
        return Err(ApiError::translation_unsupported(&engine.model));
    }
    if engine.model.contains("turbo") {
        warn!(
            model = engine.model,
            "this model was trained little for translation"
        );
    }
    Ok(())
}

/// Takes a place in the queue.
pub fn admit(state: &AppState, request: &HttpRequest) -> Result<Admission, ApiError> {
    let admission = state.stt.admit(newcomer(state, request))?;
    request.extensions_mut().insert(admission.outlook());
    Ok(admission)
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

/// Does the work and answers as it was asked to.
pub async fn answer(
    state: &AppState,
    request: &HttpRequest,
    asked: AudioRequest,
) -> Result<HttpResponse, ApiError> {
    let (format, task) = (asked.form.format, asked.form.options.task);
    if asked.form.stream {
        return stream::answer(state, request, asked).await;
    }
    let transcript = work(state, request, asked).await?;
    let body = format.render(&transcript, task);
    Ok(reply(&transcript, format.content_type(), body))
}

/// Does the work. If the client leaves, this is dropped, and the work ends unless somebody else waits
/// for it.
pub async fn work(
    state: &AppState,
    request: &HttpRequest,
    asked: AudioRequest,
) -> Result<Transcript, ApiError> {
    let AudioRequest {
        admission,
        form,
        endpoint,
    } = asked;
    let (format, task) = (form.format, form.options.task);
    let job = job(state, request, form);
    let transcript = state.stt.submit(admission, job).await?.transcript().await?;
    state.metrics.record_transcript(&Transcribed {
        task,
        endpoint,
        format,
        route: transcript.route,
        audio_seconds: transcript.duration,
    });
    Ok(transcript)
}

/// The answer to work that is done.
pub fn reply(transcript: &Transcript, content_type: &str, body: String) -> HttpResponse {
    let mut response = HttpResponse::Ok()
        .insert_header((CONTENT_TYPE, content_type))
        .insert_header((X_ROUTE, transcript.route.as_str()))
        .body(body);
    response.extensions_mut().insert(Worked::from(transcript));
    response
}

/// The work that a request asks for.
pub fn job(state: &AppState, request: &HttpRequest, form: AudioForm) -> Job {
    Job {
        request_id: Arc::clone(&RequestId::of(request).0),
        identity: Some(Identity {
            owner: auth::owner_of(&state.settings.api_keys, request),
            digest: form.audio.digest,
        }),
        source: form.audio.source,
        options: form.options,
        streamed: form.stream,
    }
}
