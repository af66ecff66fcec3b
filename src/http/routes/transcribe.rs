//! `/v1/transcribe`, for clients of a primary and a fallback: the audio as `audio`, and a reply with the
//! text's confidence and the model that wrote it.

use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::middleware::{Next, from_fn};
use actix_web::{Error, HttpRequest, HttpResponse, web};
use serde_json::{Value, json};
use stt_actors::domain::transcript::Task;

use super::only;
use crate::fallback::ESCALATED;
use crate::http::body::{BodyFormat, Parts, base_name};
use crate::http::pipeline::{self, Finished};
use crate::http::reply::error::ApiError;
use crate::http::reply::escalation_headers;
use crate::http::request_log::{ArrivalTime, RequestId};
use crate::http::{AppState, auth};
use crate::metrics::Endpoint;
use crate::render::{Details, segments, short};

const AUDIO: BodyFormat = BodyFormat {
    file_names: &["audio", "file"],
    raw_samples: false,
    json: false,
    max_files: 1,
};

pub fn configure(config: &mut web::ServiceConfig) {
    config.service(
        web::resource(Endpoint::Transcribe.path())
            .wrap(from_fn(auth::require_key))
            // The last middleware sees a request first: authorization errors get these headers, too.
            .wrap(from_fn(add_headers))
            .route(web::post().to(transcribe))
            .default_service(only("POST")),
    );
}

/// Adds the request id to every reply, and the error to every failed one.
async fn add_headers<B: MessageBody>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<B>, Error> {
    let id = RequestId::of(request.request());
    let mut response = next.call(request).await?;
    let error = response.response().extensions().get::<ApiError>().cloned();
    let ascii = escalation_headers::ascii;
    let headers = response.headers_mut();
    headers.insert(escalation_headers::X_REQ_ID, ascii(&id.0));
    if let Some(error) = error {
        let message = error.to_string();
        headers.insert(escalation_headers::X_ERROR_TYPE, ascii(error.code()));
        headers.insert(escalation_headers::X_ERROR_MESSAGE, ascii(&message));
    }
    Ok(response)
}

async fn transcribe(
    state: web::Data<AppState>,
    request: HttpRequest,
    body: web::Payload,
) -> Result<HttpResponse, ApiError> {
    let admitted = pipeline::admit(&state, &request)?;
    let mut parts = admitted.read(body, AUDIO).await?;
    adapt(&mut parts, request.headers().contains_key(ESCALATED))?;
    let form = admitted.check(parts, Task::Transcribe)?;
    let details = form.details;
    let finished = admitted
        .work(Endpoint::Transcribe, form)
        .await
        .map_err(|error| error.bad_gateway_if_fallback_failed(ArrivalTime::since(&request)))?;
    let body = render(&finished, details, &RequestId::of(&request).0);
    let escalation = finished.transcript.escalation.as_ref();
    if let Some(error) = escalation.and_then(|escalation| escalation.error.as_ref()) {
        let headers = escalation_headers::headers(&finished.transcript, finished.timings);
        return Err(ApiError::with_primary(error, body, headers));
    }
    Ok(finished.reply("application/json", body.to_string()))
}

/// Adapts the fields to this route.
fn adapt(parts: &mut Parts, is_escalated: bool) -> Result<(), ApiError> {
    parts.file_param = AUDIO.file_names[0];
    // The reply has one shape and is not streamed.
    parts
        .fields
        .retain(|(name, _)| !matches!(base_name(name), "response_format" | "stream"));
    if is_escalated && parts.field("language").is_none() {
        // The primary wants the language detected: this node's DEFAULT_LANGUAGE must not apply.
        parts.add("language".to_owned(), "auto".to_owned())?;
    }
    Ok(())
}

fn render(finished: &Finished, details: Details, id: &str) -> Value {
    let (transcript, timings) = (&finished.transcript, finished.timings);
    let escalation = transcript.escalation.as_ref();
    json!({
        "text": transcript.text(),
        "language": transcript.language,
        "language_probability": transcript.language_probability.map(short),
        "confidence": transcript.confidence().map(short),
        "duration": transcript.duration,
        "model": transcript.model,
        "fallback_used": escalation.is_some_and(|escalation| escalation.used),
        "request_id": id,
        "segments": segments(transcript, details.words),
        "timings": {
            "queue_wait_ms": timings.queue_wait_ms,
            "primary_infer_ms": timings.primary_infer_ms,
            "fallback_infer_ms": timings.fallback_infer_ms,
            "total_ms": timings.total_ms,
        },
    })
}
