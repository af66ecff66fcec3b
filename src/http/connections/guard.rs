//! Keeps a connection marked as busy until its response is sent, and closes the connection if a chunked
//! body was rejected unread.
//!
//! The HTTP library closes a connection whose body was not read, after a delay in which the client can
//! receive the error. But once the payload of a chunked body is dropped, it reads the rest of the body,
//! however long. Keeping the payload until the response is sent prevents that.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::{Payload, ServiceRequest, ServiceResponse};
use actix_web::middleware::Next;
use actix_web::web::Bytes;
use actix_web::{Error, HttpMessage};

use super::ConnectionPermit;
use super::idle::RequestInProgress;

/// The middleware.
pub async fn guard_connection<B: MessageBody + 'static>(
    mut request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<GuardedBody>, Error> {
    let permit = request.request().conn_data::<ConnectionPermit>();
    let in_progress = permit.and_then(ConnectionPermit::begin_request);
    let payload = request
        .chunked()
        .unwrap_or(false)
        .then(|| share_payload(&mut request));
    let response = next.call(request).await?;
    let is_error = response.status().is_client_error() || response.status().is_server_error();
    let unread = payload.filter(|_| is_error);
    Ok(response.map_body(|_, body| GuardedBody {
        body: body.boxed(),
        _in_progress: in_progress,
        _unread: unread,
    }))
}

/// Shares the request's payload between the handler, which reads it, and the caller.
fn share_payload(request: &mut ServiceRequest) -> Rc<RefCell<Payload>> {
    let shared = Rc::new(RefCell::new(request.take_payload()));
    let read = Rc::clone(&shared);
    let stream = futures::stream::poll_fn(move |context| {
        futures::Stream::poll_next(Pin::new(&mut *read.borrow_mut()), context)
    });
    request.set_payload(Payload::Stream {
        payload: Box::pin(stream),
    });
    shared
}

/// A response's body and what is kept until it is sent.
pub struct GuardedBody {
    body: BoxBody,
    _in_progress: Option<RequestInProgress>,
    _unread: Option<Rc<RefCell<Payload>>>,
}

impl MessageBody for GuardedBody {
    type Error = <BoxBody as MessageBody>::Error;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Pin::new(&mut self.body).poll_next(context)
    }
}
