//! Request ids, and one log line per request.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::StatusCode;
use actix_web::http::header::{HeaderName, HeaderValue};
use actix_web::middleware::Next;
use actix_web::{Error, HttpMessage, HttpRequest, ResponseError};
use stt_actors::WaitEstimate;
use stt_actors::domain::transcript::Transcript;
use tokio::time::Instant;
use tracing::field::display;
use tracing::{debug, error, info, warn};
use uuid::Uuid;

use crate::board::history::{self, End};
use crate::http::caller::Caller;
use crate::http::reply::error::ApiError;
use crate::metrics::{self, record_error, record_request, takes_audio};

/// The request id, in requests and responses.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// A client's own id is used up to this length.
const MAX_ID_LENGTH: usize = 128;

/// The number of requests ahead of this one in the queue at admission.
pub const X_QUEUE_POSITION: HeaderName = HeaderName::from_static("x-queue-position");
/// The estimated wait for a lane at admission.
pub const X_QUEUE_ETA_MS: HeaderName = HeaderName::from_static("x-queue-eta-ms");

/// Routes that monitoring calls every few seconds.
pub const PROBES: &[&str] = &["/health", "/livez", "/readyz", "/metrics", "/v1/health"];
/// A route that programs call every few seconds, and that is no probe: it may need a key.
const STATUS: &str = "/v1/status";
/// nginx's status for a request whose client closed the connection before the response.
const CLIENT_CLOSED_REQUEST: u16 = 499;

/// A request's id: the client's own, or ours.
#[derive(Clone, Debug)]
pub struct RequestId(pub Arc<str>);

impl RequestId {
    /// The id that [`log_request`] assigned.
    pub fn of(request: &HttpRequest) -> Self {
        let known = request.extensions().get::<Self>().cloned();
        known.unwrap_or_else(Self::random)
    }

    fn random() -> Self {
        Self(Uuid::new_v4().to_string().into())
    }

    /// The client's id, if it is short, visible ASCII: it goes into headers and logs.
    fn from_client(request: &ServiceRequest) -> Option<Self> {
        let value = request.headers().get(&X_REQUEST_ID)?.to_str().ok()?;
        let is_valid = (1..=MAX_ID_LENGTH).contains(&value.len())
            && value.bytes().all(|byte| byte.is_ascii_graphic());
        is_valid.then(|| Self(value.into()))
    }
}

/// When a request's head had arrived.
#[derive(Clone, Copy, Debug)]
pub struct ArrivalTime(Instant);

impl ArrivalTime {
    /// The time since then.
    pub fn since(request: &HttpRequest) -> Duration {
        let arrived = request.extensions().get::<Self>().copied();
        arrived.map_or(Duration::ZERO, |Self(at)| at.elapsed())
    }
}

/// What a transcription adds to the log line.
#[derive(Clone, Debug)]
pub struct WorkSummary {
    route: &'static str,
    audio_seconds: f64,
    queue_seconds: f64,
    decode_seconds: f64,
    inference_seconds: f64,
}

impl From<&Transcript> for WorkSummary {
    fn from(transcript: &Transcript) -> Self {
        Self {
            route: transcript.route.as_str(),
            audio_seconds: transcript.duration,
            queue_seconds: transcript.timings.queue_wait,
            decode_seconds: transcript.timings.decode,
            inference_seconds: transcript.timings.inference,
        }
    }
}

/// A request's log line and metrics, written when the request ends or its client disconnects.
#[derive(Debug)]
struct LogLine {
    id: RequestId,
    method: String,
    path: String,
    /// The pattern of the route.
    pattern: Option<String>,
    caller: Caller,
    started_at: Instant,
    written: bool,
}

impl LogLine {
    /// Starts the clock, also for [`ArrivalTime`].
    fn start(request: &ServiceRequest, id: RequestId) -> Self {
        let started_at = Instant::now();
        request.extensions_mut().insert(ArrivalTime(started_at));
        Self {
            id,
            method: request.method().to_string(),
            path: request.path().to_owned(),
            pattern: request.match_pattern(),
            caller: Caller::identify(request),
            started_at,
            written: false,
        }
    }

    fn write(&mut self, status: u16, work: Option<&WorkSummary>, error: Option<&ApiError>) {
        self.written = true;
        self.record(status, error);
        let (id, method, path) = (&self.id.0, &self.method, &self.path);
        let total_seconds = self.started_at.elapsed().as_secs_f64();
        let client = &*self.caller.name();
        let address = self.caller.address.map(display);
        if let Some(failure) = error {
            let code = failure.code();
            if failure.status_code().is_server_error() {
                error!(request_id = %id, client, address, method, path, status, code, reason = %failure, total_seconds, "request");
            } else {
                info!(request_id = %id, client, address, method, path, status, code, reason = %failure, total_seconds, "request");
            }
            return;
        }
        match work {
            Some(work) => info!(
                request_id = %id, client, address, method, path, status, route = work.route,
                audio_seconds = work.audio_seconds, queue_seconds = work.queue_seconds,
                decode_seconds = work.decode_seconds,
                inference_seconds = work.inference_seconds, total_seconds, "request"
            ),
            // Probes would fill the log.
            None if PROBES.contains(&path.as_str()) || path == STATUS => {
                debug!(request_id = %id, client, address, method, path, status, total_seconds, "request");
            }
            None => {
                info!(request_id = %id, client, address, method, path, status, total_seconds, "request");
            }
        }
    }

    fn record(&self, status: u16, error: Option<&ApiError>) {
        let (pattern, took) = (self.pattern.as_deref(), self.started_at.elapsed());
        // A streamed reply may fail after its status was sent.
        let outcome = error.map_or(status, |error| error.status_code().as_u16());
        record_request(pattern, &self.method, status, outcome, took);
        self.record_history(outcome);
        if self.caller.was_key_required() {
            metrics::keys::record_request(&self.caller.name(), status);
        }
        let error = error.map(ApiError::error_type);
        if let Some(error) = error {
            record_error(error);
        }
        let took = metrics::was_worked_on(outcome).then_some(took);
        metrics::escalation::record_request(pattern, &self.method, error, took);
    }
}

impl LogLine {
    /// Records a request with audio for the board.
    fn record_history(&self, outcome: u16) {
        if self.method != "POST" || !self.pattern.as_deref().is_some_and(takes_audio) {
            return;
        }
        let end = match outcome {
            CLIENT_CLOSED_REQUEST => End::Left,
            ..400 => End::Answered,
            400..500 => End::ClientError,
            500.. => End::ServerError,
        };
        history::record(end, self.started_at.elapsed());
    }
}

/// The log line of a streamed reply: written at the end of the body, or when the client disconnects.
#[derive(Clone, Debug, Default)]
pub struct StreamedLogLine(Arc<Mutex<Option<LogLine>>>);

impl StreamedLogLine {
    /// Writes the line.
    pub fn end(&self, work: Option<&WorkSummary>, error: Option<&ApiError>) {
        if let Some(mut line) = self.lock().take() {
            line.write(StatusCode::OK.as_u16(), work, error);
        }
    }

    fn take_over(&self, line: LogLine) {
        *self.lock() = Some(line);
    }

    fn lock(&self) -> MutexGuard<'_, Option<LogLine>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for LogLine {
    fn drop(&mut self) {
        if !self.written {
            self.record(CLIENT_CLOSED_REQUEST, None);
            let total_seconds = self.started_at.elapsed().as_secs_f64();
            let (client, address) = (&*self.caller.name(), self.caller.address.map(display));
            warn!(request_id = %self.id.0, client, address, method = self.method, path = self.path, total_seconds,
                "the client disconnected before the response was complete");
        }
    }
}

/// Assigns the request id, adds the id and queue headers to the response, and writes the log line.
pub async fn log_request<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    let id = RequestId::from_client(&request).unwrap_or_else(RequestId::random);
    request.extensions_mut().insert(id.clone());
    let mut line = LogLine::start(&request, id.clone());
    let mut response = match next.call(request).await {
        Ok(response) => response,
        // The API's errors are responses; this is one of the framework.
        Err(error) => {
            line.write(error.as_response_error().status_code().as_u16(), None, None);
            return Err(error);
        }
    };
    add_headers(&mut response, &id);
    let (streamed, work, error) = {
        let extensions = response.response().extensions();
        (
            extensions.get::<StreamedLogLine>().cloned(),
            extensions.get::<WorkSummary>().cloned(),
            extensions.get::<ApiError>().cloned(),
        )
    };
    match streamed {
        Some(streamed) => streamed.take_over(line),
        None => line.write(response.status().as_u16(), work.as_ref(), error.as_ref()),
    }
    Ok(response)
}

/// Adds the request id and, for an admitted request, its queue position and estimated wait.
fn add_headers<B>(response: &mut ServiceResponse<B>, id: &RequestId) {
    if let Ok(value) = HeaderValue::from_str(&id.0) {
        response.headers_mut().insert(X_REQUEST_ID, value);
    }
    let wait_estimate = response
        .request()
        .extensions()
        .get::<WaitEstimate>()
        .copied();
    if let Some(wait_estimate) = wait_estimate {
        let millis = wait_estimate.wait.as_millis() as u64;
        let headers = response.headers_mut();
        headers.insert(X_QUEUE_POSITION, wait_estimate.position.into());
        headers.insert(X_QUEUE_ETA_MS, millis.into());
    }
}
