//! Every request's id and its one line in the log.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::StatusCode;
use actix_web::http::header::{HeaderName, HeaderValue};
use actix_web::middleware::Next;
use actix_web::{Error, HttpMessage, HttpRequest, ResponseError};
use stt_actors::Outlook;
use stt_actors::transcript::Transcript;
use tokio::time::Instant;
use tracing::field::display;
use tracing::{debug, error, info, warn};
use uuid::Uuid;

use crate::http::caller::Visitor;
use crate::http::reply::error::ApiError;
use crate::metrics::{self, record_error, record_request};

/// Carries the id both ways.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// A client's own id is echoed up to this length.
const LONGEST_ID: usize = 128;

/// Requests that waited for a lane before this one, when it was admitted.
pub const X_QUEUE_POSITION: HeaderName = HeaderName::from_static("x-queue-position");
/// How long it would wait for a lane, as it looked then.
pub const X_QUEUE_ETA_MS: HeaderName = HeaderName::from_static("x-queue-eta-ms");

/// Paths that are asked for by machines.
pub const PROBES: &[&str] = &["/health", "/livez", "/readyz", "/metrics", "/v1/health"];
/// What a request counts as whose client left before the answer: nginx's number for it.
const CLIENT_LEFT: u16 = 499;

/// A request's id: the client's own, or ours.
#[derive(Clone, Debug)]
pub struct RequestId(pub Arc<str>);

impl RequestId {
    /// The id that the middleware gave this request.
    pub fn of(request: &HttpRequest) -> Self {
        let known = request.extensions().get::<Self>().cloned();
        known.unwrap_or_else(Self::random)
    }

    fn random() -> Self {
        Self(Uuid::new_v4().to_string().into())
    }

    /// Visible ASCII of reasonable length is taken as it is: it goes into headers and logs.
    fn from_client(request: &ServiceRequest) -> Option<Self> {
        let value = request.headers().get(&X_REQUEST_ID)?.to_str().ok()?;
        let fit = (1..=LONGEST_ID).contains(&value.len())
            && value.bytes().all(|byte| byte.is_ascii_graphic());
        fit.then(|| Self(value.into()))
    }
}

/// When a request's head was there.
#[derive(Clone, Copy, Debug)]
pub struct Arrived(Instant);

impl Arrived {
    /// How long ago that was.
    pub fn since(request: &HttpRequest) -> Duration {
        let arrived = request.extensions().get::<Self>().copied();
        arrived.map_or(Duration::ZERO, |Self(at)| at.elapsed())
    }
}

/// What a handler adds to the log line.
#[derive(Clone, Debug)]
pub struct Worked {
    route: &'static str,
    audio_seconds: f64,
    queue_seconds: f64,
    decode_seconds: f64,
    inference_seconds: f64,
}

impl From<&Transcript> for Worked {
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

/// Writes the line when the request ends, also when its client leaves before.
#[derive(Debug)]
struct Line {
    id: RequestId,
    method: String,
    path: String,
    /// The route's pattern.
    pattern: Option<String>,
    visitor: Visitor,
    begin: Instant,
    ended: bool,
}

impl Line {
    fn write(&mut self, status: u16, worked: Option<&Worked>, refusal: Option<&ApiError>) {
        self.ended = true;
        self.measure(status, refusal);
        let (id, method, path) = (&self.id.0, &self.method, &self.path);
        let total_seconds = self.begin.elapsed().as_secs_f64();
        let client = &*self.visitor.name();
        let address = self.visitor.address.map(display);
        if let Some(refusal) = refusal {
            let code = refusal.code();
            if refusal.status_code().is_server_error() {
                error!(request_id = %id, client, address, method, path, status, code, reason = %refusal, total_seconds, "request");
            } else {
                info!(request_id = %id, client, address, method, path, status, code, reason = %refusal, total_seconds, "request");
            }
            return;
        }
        match worked {
            Some(worked) => info!(
                request_id = %id, client, address, method, path, status, route = worked.route,
                audio_seconds = worked.audio_seconds, queue_seconds = worked.queue_seconds,
                decode_seconds = worked.decode_seconds,
                inference_seconds = worked.inference_seconds, total_seconds, "request"
            ),
            // They come every few seconds.
            None if PROBES.contains(&path.as_str()) => {
                debug!(request_id = %id, client, address, method, path, status, total_seconds, "request");
            }
            None => {
                info!(request_id = %id, client, address, method, path, status, total_seconds, "request");
            }
        }
    }

    fn measure(&self, status: u16, refusal: Option<&ApiError>) {
        let pattern = self.pattern.as_deref();
        record_request(pattern, &self.method, status, self.begin.elapsed());
        if self.visitor.was_asked() {
            metrics::keys::record_request(&self.visitor.name(), status);
        }
        let error = refusal.map(ApiError::error_type);
        if let Some(error) = error {
            record_error(error);
        }
        metrics::escalation::record_request(pattern, &self.method, error, self.begin.elapsed());
    }
}

/// The line of a reply that goes on after its head is out. It is written when the last byte is, or when
/// the client leaves before.
#[derive(Clone, Debug, Default)]
pub struct StreamedLine(Arc<Mutex<Option<Line>>>);

impl StreamedLine {
    /// The reply is over.
    pub fn end(&self, worked: Option<&Worked>, failure: Option<&ApiError>) {
        if let Some(mut line) = self.lock().take() {
            line.write(StatusCode::OK.as_u16(), worked, failure);
        }
    }

    fn take_over(&self, line: Line) {
        *self.lock() = Some(line);
    }

    fn lock(&self) -> MutexGuard<'_, Option<Line>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if !self.ended {
            self.measure(CLIENT_LEFT, None);
            let total_seconds = self.begin.elapsed().as_secs_f64();
            let (client, address) = (&*self.visitor.name(), self.visitor.address.map(display));
            warn!(request_id = %self.id.0, client, address, method = self.method, path = self.path, total_seconds,
                "the client left before the end");
        }
    }
}

/// Gives the request its id, and the response the same; logs its end.
pub async fn log_request<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    let id = RequestId::from_client(&request).unwrap_or_else(RequestId::random);
    request.extensions_mut().insert(id.clone());
    let begin = Instant::now();
    request.extensions_mut().insert(Arrived(begin));
    let mut line = Line {
        id: id.clone(),
        method: request.method().to_string(),
        path: request.path().to_owned(),
        pattern: request.match_pattern(),
        visitor: Visitor::meet(&request),
        begin,
        ended: false,
    };
    let mut response = match next.call(request).await {
        Ok(response) => response,
        // Refusals are responses; an error here is actix's own.
        Err(error) => {
            line.write(error.as_response_error().status_code().as_u16(), None, None);
            return Err(error);
        }
    };
    if let Ok(value) = HeaderValue::from_str(&id.0) {
        response.headers_mut().insert(X_REQUEST_ID, value);
    }
    let outlook = response.request().extensions().get::<Outlook>().copied();
    if let Some(outlook) = outlook {
        let millis = outlook.wait.as_millis() as u64;
        let headers = response.headers_mut();
        headers.insert(X_QUEUE_POSITION, outlook.position.into());
        headers.insert(X_QUEUE_ETA_MS, millis.into());
    }
    let streamed = response
        .response()
        .extensions()
        .get::<StreamedLine>()
        .cloned();
    if let Some(streamed) = streamed {
        streamed.take_over(line);
        return Ok(response);
    }
    let worked = response.response().extensions().get::<Worked>().cloned();
    let refusal = response.response().extensions().get::<ApiError>().cloned();
    line.write(
        response.status().as_u16(),
        worked.as_ref(),
        refusal.as_ref(),
    );
    Ok(response)
}
