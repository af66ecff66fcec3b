//! What a reply holds until it is out: its connection is busy so long, and a body in chunks that was
//! refused unread is not let go of.
//!
//! The HTTP library closes a connection whose body nobody read, after a while in which the client may
//! notice the refusal. But one in chunks it goes on to read, without end, once nobody holds it.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::{Payload, ServiceRequest, ServiceResponse};
use actix_web::middleware::Next;
use actix_web::web::Bytes;
use actix_web::{Error, HttpMessage};

use crate::http::connections::Seat;
use crate::http::connections::idle::UnderWay;

/// Marks the connection as busy until the reply is out, and has it closed where a body in chunks was
/// refused.
pub async fn hold<B: MessageBody + 'static>(
    mut request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<Held>, Error> {
    let under_way = request.request().conn_data::<Seat>();
    let under_way = under_way.and_then(Seat::request);
    let unread = request
        .chunked()
        .unwrap_or(false)
        .then(|| share(&mut request));
    let response = next.call(request).await?;
    let is_refusal = response.status().is_client_error() || response.status().is_server_error();
    let unread = unread.filter(|_| is_refusal);
    Ok(response.map_body(|_, body| Held {
        body: body.boxed(),
        _under_way: under_way,
        _unread: unread,
    }))
}

/// Gives the body of a request to two: the handler, which reads it, and whoever keeps it.
fn share(request: &mut ServiceRequest) -> Rc<RefCell<Payload>> {
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

/// A reply's body and what it holds.
pub struct Held {
    body: BoxBody,
    _under_way: Option<UnderWay>,
    _unread: Option<Rc<RefCell<Payload>>>,
}

impl MessageBody for Held {
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
