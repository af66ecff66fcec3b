//! Reads requests from a connection before the HTTP library does, for what the library cannot be told:
//!
//! - A client may offer to upgrade the connection (`Upgrade: h2c`, as every Java client does). The library
//!   would close such a connection after the response. This server upgrades only [`WEB_SOCKET_PATH`] to a
//!   WebSocket; any other offer is removed, as if the client had not made it.
//! - The library answers a request that it cannot read with a bare 400. Such a request is replaced by one that
//!   [`reject_malformed`] answers, so that the client gets the reason and the log has a line.
//!
//! The library's own decoder reads the requests, so that both agree on where each of them ends.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use actix_http::error::ParseError;
use actix_http::h1::{Codec, Message, MessageType};
use actix_http::{HttpMessage, Request, ServiceConfig};
use actix_web::body::{EitherBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::Method;
use actix_web::http::header::{CONNECTION, HeaderName, HeaderValue, UPGRADE};
use actix_web::middleware::Next;
use actix_web::web::{Bytes, BytesMut};
use actix_web::{Error, ResponseError};
use futures::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::codec::Decoder;

use crate::http::reply::error::ApiError;

/// The path whose connections become WebSockets.
pub const WEB_SOCKET_PATH: &str = "/v1/realtime";
/// The reason why a request could not be read, in the request that replaces it. A client cannot send it.
const MALFORMED: HeaderName = HeaderName::from_static("x-malformed-request");
/// The settings of an upgrade to HTTP/2.
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
/// The reason for a request whose head is too large; it has a status of its own.
const TOO_LARGE: &str = "its headers are too large";
/// Bytes per read.
const BLOCK_BYTES: usize = 16 * 1024;

/// A connection from which the HTTP library reads requests.
pub struct RequestReader<S> {
    stream: S,
    config: ServiceConfig,
    /// Reads as the library will.
    codec: Codec,
    /// Bytes that arrived and are not decoded yet.
    received: BytesMut,
    /// Bytes for the library.
    ready: VecDeque<Bytes>,
    place: Place,
    end: EndOfInput,
}

/// Ends what the library reads of a WebSocket. Without it, the library would wait for the client to close a connection
/// whose last frame it has sent, while the client waits for the server, as WebSockets demand.
#[derive(Clone, Debug, Default)]
pub struct EndOfInput(Arc<(AtomicBool, AtomicWaker)>);

impl EndOfInput {
    /// The library reads nothing more of the WebSocket, and closes the connection. Does nothing before there is one.
    pub fn reach(&self) {
        let (is_reached, waker) = &*self.0;
        is_reached.store(true, Ordering::Release);
        waker.wake();
    }

    fn is_reached(&self, context: &Context<'_>) -> bool {
        let (is_reached, waker) = &*self.0;
        waker.register(context.waker());
        is_reached.load(Ordering::Acquire)
    }
}

/// Where in the client's bytes the reader is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// At the head of a request.
    Head,
    /// In a body; `is_chunked`: of the transfer encoding `chunked`.
    Body { is_chunked: bool },
    /// In the frames of a WebSocket, which last until the connection ends.
    WebSocket,
    /// After a request that cannot be read: what follows is ignored.
    Malformed,
}

impl<S> RequestReader<S> {
    /// Reads from `stream`. `config`: that of the HTTP library.
    pub fn new(stream: S, config: ServiceConfig) -> Self {
        Self {
            stream,
            codec: Codec::new(config.clone()),
            config,
            received: BytesMut::new(),
            ready: VecDeque::new(),
            place: Place::Head,
            end: EndOfInput::default(),
        }
    }

    /// Reads nothing from `stream`: its first request cannot be read, for this reason.
    pub fn unreadable(stream: S, config: ServiceConfig, reason: &str) -> Self {
        let mut reader = Self::new(stream, config);
        reader.reject(reason);
        reader
    }

    /// Ends the connection's WebSocket.
    pub fn end_of_input(&self) -> EndOfInput {
        self.end.clone()
    }

    /// The connection itself.
    pub fn stream(&self) -> &S {
        &self.stream
    }

    /// Decodes the next part of what arrived. Returns whether there was one.
    fn decode(&mut self) -> bool {
        match (self.place, self.codec.decode(&mut self.received)) {
            (_, Ok(None)) => return false,
            (_, Ok(Some(Message::Item(request)))) => self.begin(&request),
            (Place::Body { is_chunked: true }, Ok(Some(Message::Chunk(Some(bytes))))) => {
                let size = format!("{:x}\r\n", bytes.len());
                self.ready
                    .extend([size.into(), bytes, Bytes::from_static(b"\r\n")]);
            }
            (_, Ok(Some(Message::Chunk(Some(bytes))))) => self.ready.push_back(bytes),
            (place, Ok(Some(Message::Chunk(None)))) => {
                self.end_body(place);
                self.place = Place::Head;
            }
            (place, Err(error)) => {
                self.end_body(place);
                self.reject(reason(&error, &self.received));
            }
        }
        true
    }

    fn end_body(&mut self, place: Place) {
        if place == (Place::Body { is_chunked: true }) {
            self.ready.push_back(Bytes::from_static(b"0\r\n\r\n"));
        }
    }

    /// Passes on the head of a request.
    fn begin(&mut self, request: &Request) {
        let is_web_socket = opens_web_socket(request);
        let head = head(request, is_web_socket);
        // After the head of a WebSocket, the codec takes all bytes for one body, as the library does.
        if offers_upgrade(request) && !is_web_socket {
            // The body may have been taken for that of another protocol.
            let mut codec = Codec::new(self.config.clone());
            match codec.decode(&mut BytesMut::from(head.as_slice())) {
                Ok(_) => self.codec = codec,
                Err(error) => return self.reject(reason(&error, &head)),
            }
        }
        self.ready.push_back(head.into());
        self.place = match self.codec.message_type() {
            MessageType::Stream if is_web_socket => Place::WebSocket,
            MessageType::None => Place::Head,
            MessageType::Payload | MessageType::Stream => Place::Body {
                is_chunked: request.chunked().unwrap_or(false),
            },
        };
    }

    /// Passes on a request in place of one that cannot be read.
    fn reject(&mut self, reason: &str) {
        let request = format!(
            "GET / HTTP/1.1\r\nhost: -\r\nconnection: close\r\n{MALFORMED}: {reason}\r\n\r\n"
        );
        self.ready.push_back(request.into());
        self.place = Place::Malformed;
    }
}

impl<S: AsyncRead + Unpin> RequestReader<S> {
    /// Receives bytes, and returns whether the client will send more.
    fn poll_receive(&mut self, context: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let mut block = [0; BLOCK_BYTES];
        let mut block = ReadBuf::new(&mut block);
        ready!(Pin::new(&mut self.stream).poll_read(context, &mut block))?;
        if self.place != Place::Malformed {
            self.received.extend_from_slice(block.filled());
        }
        Poll::Ready(Ok(!block.filled().is_empty()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for RequestReader<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.place == Place::WebSocket && this.end.is_reached(context) {
            return Poll::Ready(Ok(()));
        }
        loop {
            if let Some(bytes) = this.ready.front_mut() {
                let length = bytes.len().min(buffer.remaining());
                buffer.put_slice(&bytes.split_to(length));
                if bytes.is_empty() {
                    this.ready.pop_front();
                }
                return Poll::Ready(Ok(()));
            }
            let has_decoded = this.place != Place::Malformed && this.decode();
            if !has_decoded && !ready!(this.poll_receive(context))? {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for RequestReader<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

/// Whether a request offers to upgrade the connection.
fn offers_upgrade(request: &Request) -> bool {
    let headers = request.headers();
    headers.contains_key(UPGRADE)
        || headers
            .get_all(CONNECTION)
            .any(|value| remaining_options(value).is_none_or(|kept| kept != value))
}

/// Whether a request asks for a WebSocket on the path that has one.
fn opens_web_socket(request: &Request) -> bool {
    let headers = request.headers();
    let has_option = |name: &HeaderName, option: &str| {
        let values = headers
            .get_all(name)
            .filter_map(|value| value.to_str().ok());
        let mut options = values.flat_map(|value| value.split(','));
        options.any(|given| given.trim().eq_ignore_ascii_case(option))
    };
    // The router ignores slashes that are doubled or at the end as well.
    let segments = |path: &'static str| path.split('/').filter(|segment| !segment.is_empty());
    let sent = request.path().split('/').filter(|part| !part.is_empty());
    *request.method() == Method::GET
        && sent.eq(segments(WEB_SOCKET_PATH))
        && has_option(&UPGRADE, "websocket")
        && has_option(&CONNECTION, "upgrade")
}

/// The head of a request, without its offer to upgrade the connection unless `upgrades`.
fn head(request: &Request, upgrades: bool) -> Vec<u8> {
    let mut head = Vec::new();
    // Writing to a vector cannot fail.
    let _ = write!(
        head,
        "{} {} {:?}\r\n",
        request.method(),
        request.uri(),
        request.version()
    );
    for (name, value) in request.headers() {
        if [HTTP2_SETTINGS, MALFORMED].contains(name) || (*name == UPGRADE && !upgrades) {
            continue;
        }
        let value = if *name == CONNECTION && !upgrades {
            remaining_options(value)
        } else {
            Some(value.clone())
        };
        if let Some(value) = value {
            head.extend_from_slice(name.as_str().as_bytes());
            head.extend_from_slice(b": ");
            head.extend_from_slice(value.as_bytes());
            head.extend_from_slice(b"\r\n");
        }
    }
    head.extend_from_slice(b"\r\n");
    head
}

/// The options of a `Connection` header without those of an upgrade; `None` if there are no others.
fn remaining_options(value: &HeaderValue) -> Option<HeaderValue> {
    let Ok(text) = value.to_str() else {
        return Some(value.clone());
    };
    let is_of_upgrade = |option: &str| {
        [UPGRADE, HTTP2_SETTINGS]
            .iter()
            .any(|name| option.trim().eq_ignore_ascii_case(name.as_str()))
    };
    if !text.split(',').any(is_of_upgrade) {
        return Some(value.clone());
    }
    let kept: Vec<&str> = text
        .split(',')
        .filter(|option| !is_of_upgrade(option))
        .collect();
    let kept = kept.join(",");
    HeaderValue::from_str(kept.trim())
        .ok()
        .filter(|value| !value.is_empty())
}

/// Why a request cannot be read. `received`: how it begins, if none of it was decoded.
fn reason(error: &ParseError, received: &[u8]) -> &'static str {
    const TLS_HANDSHAKE: u8 = 0x16;
    if received.starts_with(b"PRI * HTTP/2") {
        return "it is in HTTP/2, and this server speaks HTTP/1.1 only";
    }
    match error {
        _ if received.first() == Some(&TLS_HANDSHAKE) => {
            "it is encrypted (HTTPS), and this server speaks HTTP only"
        }
        ParseError::TooLarge => TOO_LARGE,
        ParseError::Method => "its method is not valid",
        ParseError::Uri(_) => "its path is not valid",
        ParseError::Version => "its version is neither HTTP/1.1 nor HTTP/1.0",
        ParseError::Header => "a header is missing, repeated or not valid",
        ParseError::Io(_) => "its chunked body is not valid",
        _ => "it is not valid HTTP",
    }
}

/// Answers a request that stands for one that could not be read.
pub async fn reject_malformed<B: MessageBody>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B>>, Error> {
    let reason = request.headers().get(&MALFORMED);
    let reason = reason.map(|reason| String::from_utf8_lossy(reason.as_bytes()).into_owned());
    match reason {
        Some(reason) => {
            let error = ApiError::malformed_request(&reason, reason == TOO_LARGE);
            Ok(request
                .into_response(error.error_response())
                .map_into_right_body())
        }
        None => next
            .call(request)
            .await
            .map(ServiceResponse::map_into_left_body),
    }
}

#[cfg(test)]
mod tests;
