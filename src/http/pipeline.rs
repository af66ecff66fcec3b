//! What all routes with audio share: admit the request, read and check its body, submit the work, reply.
//!
//! The steps are methods of [`AdmittedRequest`], in the order in which a route calls them.

use std::sync::Arc;

use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName};
use actix_web::{HttpMessage, HttpRequest, HttpResponse, web};
use stt_actors::domain::transcript::{Task, Transcript};
use stt_actors::{Admission, AdmissionRequest, Identity, Job, Options, Urgency};

use crate::fallback::ESCALATED;
use crate::http::AppState;
use crate::http::body::form::{self, AudioForm};
use crate::http::body::upload::UploadStore;
use crate::http::body::{self, BodyFormat, Parts, language};
use crate::http::caller::Caller;
use crate::http::reply::accept;
use crate::http::reply::error::ApiError;
use crate::http::reply::escalation_headers::{self, ReplyTimings};
use crate::http::reply::sse;
use crate::http::request_log::{ArrivalTime, RequestId, WorkSummary};
use crate::http::traces;
use crate::http::translation::{self, Translation};
use crate::http::usage::MeteredEvents;
use crate::metrics::{Endpoint, ErrorType, Transcribed, record_error, record_timings};
use crate::render::{Details, Format};

/// The lanes that transcribed the audio.
pub const X_ROUTE: HeaderName = HeaderName::from_static("x-route");
/// Present if LibreTranslate translated the text.
pub const X_TRANSLATION_MODE: HeaderName = HeaderName::from_static("x-translation-mode");

/// A request with audio that holds an admission slot. Dropping it gives the slot back.
pub struct AdmittedRequest<'a> {
    state: &'a AppState,
    request: &'a HttpRequest,
    admission: Admission,
}

/// Takes an admission slot, before the body is read: a rejected request costs nothing.
///
/// # Errors
/// The tree does not accept the request: it is loading, overloaded or draining.
pub fn admit<'a>(
    state: &'a AppState,
    request: &'a HttpRequest,
) -> Result<AdmittedRequest<'a>, ApiError> {
    let caller = Caller::of(request);
    let admission = AdmissionRequest {
        client: caller.client(),
        priority: caller.priority(),
        background: false,
        body_bytes: body::length(request),
    };
    let admission = state.stt.admit(admission);
    let admission = admission.map_err(|error| ApiError::from(error).before_work())?;
    request.extensions_mut().insert(admission.wait_estimate());
    Ok(AdmittedRequest {
        state,
        request,
        admission,
    })
}

impl AdmittedRequest<'_> {
    /// Reads the whole body and stores the audio.
    pub async fn read(&self, body: web::Payload, format: BodyFormat) -> Result<Parts, ApiError> {
        read(self.state, self.request, body, &self.state.uploads, format).await
    }

    /// Checks the request's fields: see [`check`].
    pub fn check(&self, parts: Parts, task: Task) -> Result<AudioForm, ApiError> {
        check(self.state, parts, task)
    }

    /// The job that the form asks for.
    pub fn job(&self, form: AudioForm, translation: &Translation) -> Job {
        let is_escalated = self.request.headers().contains_key(ESCALATED);
        let is_shareable = !forbids_sharing(self.request) && !is_escalated;
        Job {
            request_id: Arc::clone(&RequestId::of(self.request).0),
            identity: is_shareable.then(|| Identity {
                owner: Caller::of(self.request).owner(),
                digest: form.audio.digest,
            }),
            audio: form.audio.source.into(),
            options: Options {
                task: translation.engine_task(),
                ..form.options
            },
            escalates: !is_escalated,
            streamed: form.stream,
            urgency: Urgency::default(),
            finished: None,
            trace: traces::of(self.request),
        }
    }

    /// Submits a job to the tree. Dropping the events cancels the job, unless another request shares it.
    pub async fn submit(self, job: Job) -> Result<MeteredEvents, ApiError> {
        let events = self.state.stt.submit(self.admission, job).await?;
        let caller = Caller::of(self.request);
        Ok(MeteredEvents::new(events, self.state, caller))
    }

    /// Submits the form's job. `endpoint` labels its metrics.
    pub async fn begin(self, endpoint: Endpoint, form: AudioForm) -> Result<Submitted, ApiError> {
        let request_id = Arc::clone(&RequestId::of(self.request).0);
        let translation = Translation::of(self.state, &form, request_id);
        let plan = ReplyPlan {
            state: self.state.clone(),
            task: form.options.task,
            endpoint,
            format: form.format,
            by_libretranslate: translation.uses_libretranslate(),
            details: form.details,
        };
        let job = self.job(form, &translation);
        Ok(Submitted {
            events: self.submit(job).await?,
            translation,
            plan,
        })
    }

    /// Transcribes and, where the form asks for it, translates.
    pub async fn work(self, endpoint: Endpoint, form: AudioForm) -> Result<Finished, ApiError> {
        let request = self.request;
        let submitted = self.begin(endpoint, form).await?;
        let transcript = submitted.events.transcript().await?;
        // The lanes are free by now: LibreTranslate keeps no worker waiting.
        let transcript = submitted.translation.finish(transcript).await?;
        submitted.plan.record(&transcript);
        let summary = submitted.plan.summary(&transcript);
        request.extensions_mut().insert(summary);
        Ok(Finished {
            timings: ReplyTimings::of(&transcript, ArrivalTime::since(request)),
            transcript,
            by_libretranslate: submitted.plan.by_libretranslate,
        })
    }

    /// Does the work and replies in the format that the form asks for.
    pub async fn answer(
        self,
        endpoint: Endpoint,
        form: AudioForm,
    ) -> Result<HttpResponse, ApiError> {
        if form.stream {
            return sse::answer(self.begin(endpoint, form).await?).await;
        }
        let (format, details, task) = (form.format, form.details, form.options.task);
        let content_type = accept::content_type(self.request, format.content_type());
        let finished = self.work(endpoint, form).await?;
        let body = format.render(&finished.transcript, task, details);
        Ok(finished.reply(content_type, body))
    }
}

/// Reads the whole body of a request or a job, and stores the audio in `uploads`, unless the server cancels what is
/// running.
pub async fn read(
    state: &AppState,
    request: &HttpRequest,
    body: web::Payload,
    uploads: &UploadStore,
    format: BodyFormat,
) -> Result<Parts, ApiError> {
    tokio::select! {
        parts = body::read(request, body, uploads, format) => parts,
        refusal = state.stt.until_cancelling() => Err(refusal.into()),
    }
}

/// Checks the fields of a request with audio. A missing language becomes the configured default.
pub fn check(state: &AppState, parts: Parts, task: Task) -> Result<AudioForm, ApiError> {
    let mut form = form::check(parts, task)?;
    if task == Task::Translate {
        translation::check_supported(state, &form.target)?;
    }
    language::check(state, form.options.language.as_deref())?;
    if form.options.language.is_none() && !form.detects_language {
        (form.options.language).clone_from(&state.settings.default_language);
    }
    Ok(form)
}

/// Whether the client forbids that identical requests share its work and its result:
/// `Cache-Control: no-store`.
fn forbids_sharing(request: &HttpRequest) -> bool {
    let values = request.headers().get_all(CACHE_CONTROL);
    let mut directives = values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    directives.any(|directive| directive.trim().eq_ignore_ascii_case("no-store"))
}

/// A job in the tree and how to reply to it.
pub struct Submitted {
    /// The job's events.
    pub events: MeteredEvents,
    /// What to do with the transcript.
    pub translation: Translation,
    /// How to reply.
    pub plan: ReplyPlan,
}

/// How to reply to a request, and under which labels its metrics are recorded.
pub struct ReplyPlan {
    state: AppState,
    task: Task,
    endpoint: Endpoint,
    format: Format,
    /// Whether the text comes from LibreTranslate.
    pub by_libretranslate: bool,
    /// What a JSON reply contains besides the text.
    pub details: Details,
}

impl ReplyPlan {
    /// What the log line says of a transcript.
    pub fn summary(&self, transcript: &Transcript) -> WorkSummary {
        WorkSummary::of(transcript, self.state.settings.log_transcripts)
    }

    /// Records the metrics of a transcript.
    pub fn record(&self, transcript: &Transcript) {
        record_timings(transcript);
        if transcript.lacks_fallback() {
            if self.endpoint == Endpoint::Transcribe {
                // This route replies with an error and adds the text to it.
                return;
            }
            record_error(ErrorType::Fallback);
        }
        self.state.metrics.record_transcript(&Transcribed {
            task: self.task,
            by_libretranslate: self.by_libretranslate,
            endpoint: self.endpoint,
            format: self.format,
            route: transcript.route,
            audio_seconds: transcript.duration,
        });
    }
}

/// The result of a request.
pub struct Finished {
    pub transcript: Transcript,
    pub timings: ReplyTimings,
    by_libretranslate: bool,
}

impl Finished {
    /// The response with this body.
    pub fn reply(&self, content_type: &str, body: String) -> HttpResponse {
        let mut response = HttpResponse::Ok();
        if self.by_libretranslate {
            response.insert_header((X_TRANSLATION_MODE, "libretranslate"));
        }
        let headers = escalation_headers::headers(&self.transcript, self.timings);
        escalation_headers::insert(&mut response, headers);
        response
            .insert_header((CONTENT_TYPE, content_type))
            .insert_header((X_ROUTE, self.transcript.route.as_str()))
            .body(body)
    }
}
