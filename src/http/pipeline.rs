//! What all routes with audio share.

use std::sync::Arc;

use actix_web::http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HeaderName};
use actix_web::{HttpMessage, HttpRequest, HttpResponse};
use stt_actors::transcript::{Task, Transcript};
use stt_actors::{Admission, Identity, Job, Newcomer, Options};
use tracing::warn;

use crate::fallback::ESCALATED;
use crate::http::AppState;
use crate::http::body::Parts;
use crate::http::body::form::{self, AudioForm};
use crate::http::body::language;
use crate::http::caller::Visitor;
use crate::http::reply::error::ApiError;
use crate::http::reply::escalation_headers::{self, Millis};
use crate::http::reply::sse;
use crate::http::request_log::{Arrived, RequestId, Worked};
use crate::http::translation::Translation;
use crate::http::usage::Metered;
use crate::metrics::{
    Endpoint, ErrorType, Transcribed, escalation as escalation_metrics, record_error,
};
use crate::render::{Details, Format};

/// Which lanes did the work.
pub const X_ROUTE: HeaderName = HeaderName::from_static("x-route");
/// Who translated, unless it was whisper itself.
pub const X_TRANSLATION_MODE: HeaderName = HeaderName::from_static("x-translation-mode");

/// A request with audio, admitted and checked.
pub struct AudioRequest {
    /// Its place in the queue.
    pub admission: Admission,
    /// What it asks for.
    pub form: AudioForm,
    /// The path that it came on.
    pub endpoint: Endpoint,
}

/// Checks a request's fields, with what the operator has set for those that are missing.
pub fn check(state: &AppState, parts: Parts, task: Task) -> Result<AudioForm, ApiError> {
    let mut form = form::check(parts, task)?;
    language::check(state, form.options.language.as_deref())?;
    if form.options.language.is_none() && !form.detects_language {
        (form.options.language).clone_from(&state.settings.default_language);
    }
    Ok(form)
}

/// Refuses what the served model cannot do.
pub fn check_can_translate(state: &AppState) -> Result<(), ApiError> {
    // LibreTranslate translates what any model wrote.
    let engine = state.stt.snapshot().last_engine;
    let Some(engine) = engine.filter(|_| state.translator.is_none()) else {
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
    let admission = state.stt.admit(newcomer(request))?;
    request.extensions_mut().insert(admission.outlook());
    Ok(admission)
}

/// Who asks, and how much it brings by its own word.
fn newcomer(request: &HttpRequest) -> Newcomer {
    let visitor = Visitor::of(request);
    let length = request.headers().get(CONTENT_LENGTH);
    Newcomer {
        client: visitor.client(),
        priority: visitor.priority(),
        body_bytes: length.and_then(|length| length.to_str().ok()?.parse().ok()),
    }
}

/// Does the work and answers as it was asked to.
pub async fn answer(
    state: &AppState,
    request: &HttpRequest,
    asked: AudioRequest,
) -> Result<HttpResponse, ApiError> {
    if asked.form.stream {
        return sse::answer(state, request, asked).await;
    }
    let (format, details) = (asked.form.format, asked.form.details);
    let task = asked.form.options.task;
    let written = work(state, request, asked).await?;
    let body = format.render(&written.transcript, task, details);
    Ok(written.reply(format.content_type(), body))
}

/// What became of a request.
pub struct Written {
    /// The text.
    pub transcript: Transcript,
    /// Where the time went.
    pub millis: Millis,
    /// LibreTranslate answers for it.
    by_libretranslate: bool,
}

impl Written {
    /// The answer, with this body.
    pub fn reply(&self, content_type: &str, body: String) -> HttpResponse {
        let mut response = HttpResponse::Ok();
        if self.by_libretranslate {
            response.insert_header((X_TRANSLATION_MODE, "libretranslate"));
        }
        escalation_headers::insert(
            &mut response,
            escalation_headers::headers(&self.transcript, self.millis),
        );
        let mut response = response
            .insert_header((CONTENT_TYPE, content_type))
            .insert_header((X_ROUTE, self.transcript.route.as_str()))
            .body(body);
        let worked = Worked::from(&self.transcript);
        response.extensions_mut().insert(worked);
        response
    }
}

/// Does the work. If the client leaves, this is dropped, and the work ends unless somebody else waits
/// for it.
pub async fn work(
    state: &AppState,
    request: &HttpRequest,
    asked: AudioRequest,
) -> Result<Written, ApiError> {
    let begun = begin(state, request, asked).await?;
    let transcript = begun.events.transcript().await?;
    // The lanes are free again by now.
    let transcript = begun.translation.finish(transcript).await?;
    begun.reply.record(state, &transcript);
    Ok(Written {
        millis: Millis::of(&transcript, Arrived::since(request)),
        transcript,
        by_libretranslate: begun.reply.by_libretranslate,
    })
}

/// A request that is being worked on.
pub struct Begun {
    /// What becomes of it.
    pub events: Metered,
    /// What is to be done with the transcript.
    pub translation: Translation,
    /// What was asked for.
    pub reply: Reply,
}

/// What a reply is to be.
pub struct Reply {
    task: Task,
    endpoint: Endpoint,
    format: Format,
    /// Whether LibreTranslate answers for the text.
    pub by_libretranslate: bool,
    /// What it tells besides the text.
    pub details: Details,
}

impl Reply {
    /// Counts it: it is answered with this.
    pub fn record(&self, state: &AppState, transcript: &Transcript) {
        let metrics = &state.metrics;
        escalation_metrics::record_transcript(transcript);
        if transcript.lacks_fallback() {
            if self.endpoint == Endpoint::Transcribe {
                // It is refused, with the text beside.
                return;
            }
            record_error(ErrorType::Fallback);
        }
        metrics.record_transcript(&Transcribed {
            task: self.task,
            by_libretranslate: self.by_libretranslate,
            endpoint: self.endpoint,
            format: self.format,
            route: transcript.route,
            audio_seconds: transcript.duration,
        });
    }
}

/// Gives a request to the tree.
pub async fn begin(
    state: &AppState,
    request: &HttpRequest,
    asked: AudioRequest,
) -> Result<Begun, ApiError> {
    let AudioRequest {
        admission,
        form,
        endpoint,
    } = asked;
    let translation = Translation::of(state, &form)?;
    let reply = Reply {
        task: form.options.task,
        endpoint,
        format: form.format,
        by_libretranslate: translation.is_libretranslates(),
        details: form.details,
    };
    let job = job(request, form, &translation);
    let events = state.stt.submit(admission, job).await?;
    Ok(Begun {
        events: Metered::new(events, state, Visitor::of(request)),
        translation,
        reply,
    })
}

/// Whether a request may share its work with others that are the same, and leave some of it for later
/// ones: not with `Cache-Control: no-store`.
fn may_be_kept(request: &HttpRequest) -> bool {
    let values = request.headers().get_all(CACHE_CONTROL);
    let mut directives = values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    !directives.any(|directive| directive.trim().eq_ignore_ascii_case("no-store"))
}

/// The work that a request asks for.
pub fn job(request: &HttpRequest, form: AudioForm, translation: &Translation) -> Job {
    let is_escalated = request.headers().contains_key(ESCALATED);
    Job {
        request_id: Arc::clone(&RequestId::of(request).0),
        identity: (may_be_kept(request) && !is_escalated).then(|| Identity {
            owner: Visitor::of(request).owner(),
            digest: form.audio.digest,
        }),
        source: form.audio.source,
        options: Options {
            task: translation.engine_task(),
            ..form.options
        },
        escalates: !is_escalated,
        streamed: form.stream,
    }
}
