//! Request ids, and one log line per request.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::StatusCode;
use actix_web::http::header::{CONTENT_LENGTH, HeaderName, HeaderValue};
use actix_web::middleware::Next;
use actix_web::{Error, HttpMessage, HttpRequest, ResponseError, web};
use stt_actors::WaitEstimate;
use stt_actors::domain::error::FallbackError;
use stt_actors::domain::transcript::Transcript;
use tokio::time::Instant;
use tracing::{Span, debug, error, info, warn};
use uuid::Uuid;

use crate::board::history::{self, End};
use crate::http::AppState;
use crate::http::caller::Caller;
use crate::http::reply::error::ApiError;
use crate::http::reply::load_report::ENDPOINT_LOAD_METRICS;
use crate::http::traces;
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
    /// ISO 639-1 code.
    pub language: String,
    /// The model or models that wrote the text.
    pub model: String,
    route: &'static str,
    /// Whether any of the text is from the fallback; `None`: the request has none.
    fallback_used: Option<bool>,
    fallback_error: Option<String>,
    audio_seconds: f64,
    queue_seconds: f64,
    decode_seconds: f64,
    inference_seconds: f64,
    /// The text, if the log may contain it (`LOG_TRANSCRIPTS`).
    text: Option<String>,
}

impl WorkSummary {
    /// The summary of a transcript. `with_text`: whether the log may contain its text.
    pub fn of(transcript: &Transcript, with_text: bool) -> Self {
        let escalation = transcript.escalation.as_ref();
        let error = escalation.and_then(|escalation| escalation.error.as_ref());
        Self {
            language: transcript.language.clone(),
            model: transcript.model.clone(),
            route: transcript.route.as_str(),
            fallback_used: escalation.map(|escalation| escalation.used),
            fallback_error: error.map(FallbackError::for_log),
            audio_seconds: transcript.duration,
            queue_seconds: transcript.timings.queue_wait,
            decode_seconds: transcript.timings.decode,
            inference_seconds: transcript.timings.inference,
            text: with_text.then(|| transcript.text()),
        }
    }
}

/// The bytes of a request's body that have arrived.
#[derive(Clone, Debug, Default)]
pub struct ReceivedBytes(Arc<AtomicU64>);

impl ReceivedBytes {
    /// The counter of a request.
    pub fn of(request: &HttpRequest) -> Self {
        let known = request.extensions().get::<Self>().cloned();
        known.unwrap_or_default()
    }

    /// Counts bytes.
    pub fn add(&self, bytes: usize) {
        self.0.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// `None`: there are none.
    fn so_far(&self) -> Option<u64> {
        Some(self.0.load(Ordering::Relaxed)).filter(|bytes| *bytes > 0)
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
    received: ReceivedBytes,
    /// Its trace; ends with the line.
    span: Span,
    started_at: Instant,
    written: bool,
}

/// Writes a line. Fields that are `None` are left out.
macro_rules! write_line {
    ($level:ident, $line:expr, $status:expr, $work:expr, $error:expr, $message:literal) => {{
        let (line, work, error): (&LogLine, Option<&WorkSummary>, Option<&ApiError>) =
            ($line, $work, $error);
        $level!(
            request_id = %line.id.0,
            client = &*line.caller.name(),
            address = line.caller.address.map(display),
            method = line.method,
            path = line.path,
            status = $status,
            code = error.map(ApiError::code),
            reason = error.map(ApiError::reason_for_log),
            bytes = line.received.so_far(),
            language = work.map(|work| work.language.as_str()),
            model = work.map(|work| work.model.as_str()),
            route = work.map(|work| work.route),
            fallback_used = work.and_then(|work| work.fallback_used),
            fallback_error = work.and_then(|work| work.fallback_error.as_deref()),
            audio_seconds = work.map(|work| work.audio_seconds),
            queue_seconds = work.map(|work| work.queue_seconds),
            decode_seconds = work.map(|work| work.decode_seconds),
            inference_seconds = work.map(|work| work.inference_seconds),
            total_seconds = line.started_at.elapsed().as_secs_f64(),
            text = work.and_then(|work| work.text.as_deref()),
            $message
        )
    }};
}

impl LogLine {
    /// Starts the clock, also for [`ArrivalTime`].
    fn start(request: &ServiceRequest, id: RequestId) -> Self {
        let started_at = Instant::now();
        let received = ReceivedBytes::default();
        request.extensions_mut().insert(ArrivalTime(started_at));
        request.extensions_mut().insert(received.clone());
        let span = traces::begin(request, &id.0);
        let line = Self {
            span,
            id,
            method: request.method().to_string(),
            path: request.path().to_owned(),
            pattern: request.match_pattern(),
            caller: Caller::identify(request),
            received,
            started_at,
            written: false,
        };
        if !line.is_routine() {
            let length = request.headers().get(CONTENT_LENGTH);
            debug!(
                request_id = %line.id.0,
                client = &*line.caller.name(),
                address = line.caller.address.map(display),
                method = line.method,
                path = line.path,
                announced_bytes = length.and_then(|length| length.to_str().ok()),
                "request begins"
            );
        }
        line
    }

    /// Whether programs send it every few seconds. Such requests would fill the log.
    fn is_routine(&self) -> bool {
        PROBES.contains(&self.path.as_str()) || self.path == STATUS
    }

    fn write(&mut self, status: u16, work: Option<&WorkSummary>, error: Option<&ApiError>) {
        self.written = true;
        traces::end(&self.span, status, work, error.map(ApiError::code));
        self.record(status, error);
        match error {
            Some(failure) if failure.status_code().is_server_error() => {
                write_line!(error, self, status, work, error, "request");
            }
            None if work.is_none() && self.is_routine() => {
                write_line!(debug, self, status, work, error, "request");
            }
            _ => write_line!(info, self, status, work, error, "request"),
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
            traces::end(&self.span, CLIENT_CLOSED_REQUEST, None, None);
            self.record(CLIENT_CLOSED_REQUEST, None);
            let status = None::<u16>;
            write_line!(
                warn,
                self,
                status,
                None,
                None,
                "the client disconnected before the response was complete"
            );
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
    // A request whose fallback failed has both a transcript and an error.
    let work = (response.request().extensions())
        .get::<WorkSummary>()
        .cloned();
    let (streamed, error) = {
        let extensions = response.response().extensions();
        (
            extensions.get::<StreamedLogLine>().cloned(),
            extensions.get::<ApiError>().cloned(),
        )
    };
    match streamed {
        Some(streamed) => streamed.take_over(line),
        None => line.write(response.status().as_u16(), work.as_ref(), error.as_ref()),
    }
    Ok(response)
}

/// Adds the request id and, for an admitted request, its queue position, estimated wait, and the load of the node.
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
        let state = response.request().app_data::<web::Data<AppState>>();
        let load = state.and_then(|state| state.load_report.count(&state.stt.snapshot()));
        if let Some(load) = load {
            response.headers_mut().insert(ENDPOINT_LOAD_METRICS, load);
        }
    }
}
