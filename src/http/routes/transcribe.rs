//! `/v1/transcribe`, as clients of a primary and a fallback use it: the audio as `audio`, and a reply that
//! tells how much it is to be trusted and who made it.

use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::middleware::{Next, from_fn};
use actix_web::{Error, HttpRequest, HttpResponse, web};
use serde_json::{Value, json};
use stt_actors::transcript::Task;

use crate::fallback::ESCALATED;
use crate::http::body::{self, Wanted};
use crate::http::pipeline::{AudioRequest, Written, admit, check, work};
use crate::http::reply::error::ApiError;
use crate::http::reply::escalation_headers;
use crate::http::request_log::{Arrived, RequestId};
use crate::http::{AppState, auth, only};
use crate::metrics::Endpoint;
use crate::render::{Details, segments, short};

const AUDIO: Wanted = Wanted {
    names: &["audio", "file"],
    raw: false,
    json: false,
};

pub fn configure(config: &mut web::ServiceConfig) {
    config.service(
        web::resource(Endpoint::Transcribe.path())
            .wrap(from_fn(auth::require_key))
            // The last one is the first to see a request: refusals have these headers as well.
            .wrap(from_fn(explain))
            .route(web::post().to(transcribe))
            .default_service(only("POST")),
    );
}

/// Names every reply, and says in headers why there is no transcript.
async fn explain<B: MessageBody>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<B>, Error> {
    let id = RequestId::of(request.request());
    let mut response = next.call(request).await?;
    let refusal = response.response().extensions().get::<ApiError>().cloned();
    let headers = response.headers_mut();
    headers.insert(
        escalation_headers::X_REQ_ID,
        escalation_headers::ascii(&id.0),
    );
    if let Some(refusal) = refusal {
        headers.insert(
            escalation_headers::X_ERROR_TYPE,
            escalation_headers::ascii(refusal.code()),
        );
        headers.insert(
            escalation_headers::X_ERROR_MESSAGE,
            escalation_headers::ascii(&refusal.to_string()),
        );
    }
    Ok(response)
}

async fn transcribe(
    state: web::Data<AppState>,
    request: HttpRequest,
    body: web::Payload,
) -> Result<HttpResponse, ApiError> {
    let admission = admit(&state, &request)?;
    let mut parts = body::read(&request, body, &state.uploads, AUDIO).await?;
    parts.file_name = Some(AUDIO.names[0]);
    // The reply has one shape, and comes in one piece.
    parts
        .fields
        .retain(|(name, _)| !matches!(name.as_str(), "response_format" | "stream"));
    if request.headers().contains_key(ESCALATED) && parts.field("language").is_none() {
        // Whoever asks wants to know what is spoken, and not what this server takes it for.
        parts.add("language".to_owned(), "auto".to_owned())?;
    }
    let form = check(&state, parts, Task::Transcribe)?;
    let details = form.details;
    let asked = AudioRequest {
        admission,
        form,
        endpoint: Endpoint::Transcribe,
    };
    let written = work(&state, &request, asked)
        .await
        .map_err(|error| error.bad_gateway_if_fallback_failed(Arrived::since(&request)))?;
    let id = RequestId::of(&request);
    let body = render(&written, details, &id.0);
    let escalation = written.transcript.escalation.as_ref();
    if let Some(error) = escalation.and_then(|escalation| escalation.error.as_ref()) {
        let headers = escalation_headers::headers(&written.transcript, written.millis);
        return Err(ApiError::with_primary(error, body, headers));
    }
    Ok(written.reply("application/json", body.to_string()))
}

fn render(written: &Written, details: Details, id: &str) -> Value {
    let Written {
        transcript, millis, ..
    } = written;
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
            "queue_wait_ms": millis.queue_wait,
            "primary_infer_ms": millis.primary_infer,
            "fallback_infer_ms": millis.fallback_infer,
            "total_ms": millis.total,
        },
    })
}
