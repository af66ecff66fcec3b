//! A streamed reply: the text while the server produces it.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, Stream, StreamExt};
use reqwest::Response;
use reqwest::header::CONTENT_TYPE;
use serde::Deserialize;
use serde_json::Value;

use crate::error::Error;
use crate::headers::ServerHeaders;
use crate::pool::Lease;
use crate::speech::{TokenLogprob, Usage};
use crate::sse::Decoder;
use crate::status::{Advice, StatusError, beginning};
use crate::transcript::or_default;

/// An event of a streamed reply.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum SpeechEvent {
    /// The next part of the text.
    Delta(Delta),
    /// The whole text. This is the last event.
    Done(StreamDone),
}

/// `transcript.text.delta`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Delta {
    /// This part of the text, including the leading space.
    #[serde(rename = "delta")]
    pub text: String,
    /// Only if requested.
    #[serde(default, deserialize_with = "or_default")]
    pub logprobs: Vec<TokenLogprob>,
}

/// `transcript.text.done`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct StreamDone {
    /// All deltas joined.
    pub text: String,
    /// The usage that OpenAI would bill.
    pub usage: Option<Usage>,
    /// The lanes that did the work.
    pub x_route: Option<String>,
    /// Whether the fallback wrote any of the text; `None` on a server without a fallback.
    pub x_fallback_used: Option<bool>,
    /// The model that wrote the text; `None` on a server without a fallback.
    pub x_final_model: Option<String>,
    /// Why the fallback failed.
    pub x_fallback_error: Option<String>,
    /// Only if requested.
    #[serde(default, deserialize_with = "or_default")]
    pub logprobs: Vec<TokenLogprob>,
}

/// The events of a reply. The stream always ends with [`SpeechEvent::Done`] or an error. Dropping it
/// closes the connection, and the server cancels the work.
pub struct EventStream {
    headers: ServerHeaders,
    events: BoxStream<'static, Result<SpeechEvent, Error>>,
}

/// A reply whose head announces a stream of events.
pub(crate) struct Begun {
    response: Response,
    headers: ServerHeaders,
}

pub(crate) fn begin(
    response: Response,
    headers: ServerHeaders,
) -> BoxFuture<'static, Result<Begun, Error>> {
    Box::pin(async move {
        let kind = response.headers().get(CONTENT_TYPE);
        let kind = kind
            .and_then(|kind| kind.to_str().ok())
            .unwrap_or("nothing");
        if !kind.starts_with("text/event-stream") {
            return Err(Error::BadReply(format!(
                "expected a stream of events, got {kind}"
            )));
        }
        Ok(Begun { response, headers })
    })
}

impl EventStream {
    pub(crate) fn of(begun: Begun, lease: Lease, idle_timeout: Duration) -> Self {
        let headers = begun.headers.clone();
        let reading = Reading {
            begun,
            decoder: Decoder::default(),
            lease,
            idle_timeout,
        };
        let events = stream::unfold(Some(reading), |reading| async {
            let mut reading = reading?;
            match reading.next().await {
                Ok(event @ SpeechEvent::Delta(_)) => Some((Ok(event), Some(reading))),
                Ok(done) => {
                    reading.lease.over(None);
                    Some((Ok(done), None))
                }
                Err(error) => {
                    reading.lease.over(Some(&error));
                    Some((Err(error), None))
                }
            }
        });
        Self {
            headers,
            events: events.boxed(),
        }
    }

    /// The reply's headers.
    pub fn headers(&self) -> &ServerHeaders {
        &self.headers
    }

    /// The next event.
    pub async fn next(&mut self) -> Option<Result<SpeechEvent, Error>> {
        self.events.next().await
    }

    /// Reads the stream to its end and returns the last event.
    pub async fn finish(mut self) -> Result<StreamDone, Error> {
        loop {
            match self.next().await {
                Some(Ok(SpeechEvent::Done(done))) => return Ok(done),
                Some(Ok(SpeechEvent::Delta(_))) => {}
                Some(Err(error)) => return Err(error),
                None => return Err(Error::Interrupted("the stream is over".to_owned())),
            }
        }
    }
}

impl Stream for EventStream {
    type Item = Result<SpeechEvent, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.events.poll_next_unpin(context)
    }
}

impl fmt::Debug for EventStream {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = formatter.debug_struct("EventStream");
        debug
            .field("headers", &self.headers)
            .finish_non_exhaustive()
    }
}

struct Reading {
    begun: Begun,
    decoder: Decoder,
    lease: Lease,
    idle_timeout: Duration,
}

impl Reading {
    async fn next(&mut self) -> Result<SpeechEvent, Error> {
        loop {
            while let Some(data) = self.decoder.next() {
                if let Some(event) = self.event(&data)? {
                    return Ok(event);
                }
            }
            let limit = self.idle_timeout;
            let received = tokio::time::timeout(limit, self.begun.response.chunk()).await;
            let received = received.map_err(|_| Error::Timeout { limit, whole: true })?;
            match received.map_err(Error::of_transport)? {
                Some(bytes) => self.decoder.feed(&bytes)?,
                None => return Err(ended_early()),
            }
        }
    }

    /// Parses an event; `None`: the event is not part of a transcript.
    fn event(&self, data: &[u8]) -> Result<Option<SpeechEvent>, Error> {
        if data == b"[DONE]" {
            // The event with the whole text must come before this one.
            return Err(ended_early());
        }
        let bad =
            |error: serde_json::Error| Error::BadReply(format!("{error}: {}", beginning(data)));
        let value: Value = serde_json::from_slice(data).map_err(bad)?;
        if value.get("error").is_some_and(|error| !error.is_null()) {
            let status = self.begun.response.status().as_u16();
            let headers = self.begun.headers.clone();
            let error = StatusError::of(status, headers, Advice::default(), data);
            return Err(Error::Status(Box::new(error)));
        }
        match value["type"].as_str() {
            Some("transcript.text.delta") => {
                let delta = Delta::deserialize(value).map_err(bad)?;
                Ok(Some(SpeechEvent::Delta(delta)))
            }
            Some("transcript.text.done") => {
                let done = StreamDone::deserialize(value).map_err(bad)?;
                Ok(Some(SpeechEvent::Done(done)))
            }
            _ => Ok(None),
        }
    }
}

fn ended_early() -> Error {
    Error::Interrupted("the stream ended before its last event".to_owned())
}
