//! Replies with `stream=true`: server-sent events with the text while it is transcribed.

use std::collections::VecDeque;
use std::slice;
use std::time::Duration;

use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName};
use actix_web::web::Bytes;
use actix_web::{HttpResponse, HttpResponseBuilder};
use futures::future::BoxFuture;
use futures::{FutureExt, Stream};
use serde_json::{Value, json};
use stt_actors::domain::transcript::{Segment, Transcript};
use stt_actors::{Event, SttError, TranslationError};
use tokio::time::Instant;

use crate::http::pipeline::{ReplyPlan, Submitted, X_ROUTE, X_TRANSLATION_MODE};
use crate::http::reply::error::ApiError;
use crate::http::reply::escalation_headers;
use crate::http::request_log::StreamedLogLine;
use crate::http::translation::Translation;
use crate::http::usage::MeteredEvents;
use crate::language;
use crate::render::{logprobs, removed, rounded, sample_precise, short, streamed_segment, usage};

/// Proxies close connections that are silent for a minute or less.
pub const PING_INTERVAL: Duration = Duration::from_secs(10);
/// Without this header, nginx buffers events until it has a page of them.
const NO_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");
/// A comment that keeps a connection open.
pub const PING: &[u8] = b": ping\n\n";
const END: &[u8] = b"data: [DONE]\n\n";

/// The head of a reply with server-sent events.
pub fn head() -> HttpResponseBuilder {
    let mut response = HttpResponse::Ok();
    response
        .insert_header((CONTENT_TYPE, "text/event-stream"))
        .insert_header((CACHE_CONTROL, "no-cache"))
        .insert_header((NO_BUFFERING, "no"));
    response
}

/// Replies with events. The response's head waits for the first chunk, so that it names the chunk's
/// lane and an early failure gets an error status; but it waits no longer than [`PING_INTERVAL`].
pub async fn answer(submitted: Submitted) -> Result<HttpResponse, ApiError> {
    let Submitted {
        mut events,
        translation,
        plan,
    } = submitted;
    let first = first_events(&mut events).await?;
    let mut response = head();
    if plan.by_libretranslate {
        response.insert_header((X_TRANSLATION_MODE, "libretranslate"));
    }
    if let Some(route) = first.iter().find_map(route) {
        response.insert_header((X_ROUTE, route));
    }
    let log_line = StreamedLogLine::default();
    let reply = SseReply {
        events,
        pending: first.into(),
        translation: Some(translation),
        translating: None,
        text: JoinedText::default(),
        plan,
        log_line: log_line.clone(),
        ended: false,
    };
    let mut response = response.streaming(reply.stream());
    response.extensions_mut().insert(log_line);
    Ok(response)
}

/// The lane that an event names.
fn route(event: &Event) -> Option<&'static str> {
    match event {
        Event::Route(route) => Some(route.as_str()),
        Event::Done(transcript) => Some(transcript.route.as_str()),
        Event::Language { .. } | Event::Segment(_) | Event::Progress(_) | Event::Finished(_) => {
            None
        }
    }
}

/// The events up to the first one that names a lane, or those that arrive within [`PING_INTERVAL`].
async fn first_events(events: &mut MeteredEvents) -> Result<Vec<Event>, SttError> {
    let deadline = Instant::now() + PING_INTERVAL;
    let mut first = Vec::new();
    while let Ok(Some(event)) = tokio::time::timeout_at(deadline, events.next()).await {
        let event = event?;
        let names_a_lane = route(&event).is_some();
        first.push(event);
        if names_a_lane {
            break;
        }
    }
    Ok(first)
}

/// The body of a streamed reply.
struct SseReply {
    events: MeteredEvents,
    /// Events that arrived before the response's head was sent.
    pending: VecDeque<Event>,
    /// Taken when the transcript arrives.
    translation: Option<Translation>,
    /// The translation in progress.
    translating: Option<BoxFuture<'static, Result<Transcript, TranslationError>>>,
    text: JoinedText,
    plan: ReplyPlan,
    log_line: StreamedLogLine,
    ended: bool,
}

impl SseReply {
    /// The body as a stream. Dropping it cancels the job.
    fn stream(self) -> impl Stream<Item = Result<Bytes, actix_web::Error>> {
        futures::stream::unfold(self, |mut reply| async {
            let bytes = reply.next().await?;
            Some((Ok(bytes), reply))
        })
    }

    /// The next bytes: an event, or a ping after a silent interval. `None` at the end.
    async fn next(&mut self) -> Option<Bytes> {
        let ping_at = Instant::now() + PING_INTERVAL;
        while !self.ended {
            match tokio::time::timeout_at(ping_at, self.step()).await {
                Ok(Some(bytes)) => return Some(bytes),
                Ok(None) => {}
                Err(_elapsed) => return Some(Bytes::from_static(PING)),
            }
        }
        None
    }

    /// Handles one event and returns the bytes to send, if any. Cancel-safe: a ping may interrupt it.
    async fn step(&mut self) -> Option<Bytes> {
        if let Some(translating) = &mut self.translating {
            return Some(match translating.await {
                Ok(transcript) => self.done(&transcript),
                Err(error) => self.failed(&error.into()),
            });
        }
        let event = match self.pending.pop_front() {
            Some(event) => Ok(event),
            None => self.events.next().await?,
        };
        match event {
            // These are in the spoken language: the client gets the translation instead.
            Ok(Event::Segment(_)) if self.plan.by_libretranslate => None,
            Ok(Event::Segment(segment)) => self.segments(&segment.text, slice::from_ref(&segment)),
            Ok(Event::Done(transcript)) => {
                let translation = self.translation.take()?;
                self.translating =
                    Some(async move { translation.finish(transcript).await }.boxed());
                None
            }
            Ok(Event::Progress(progress)) if self.plan.details.streamed_segments => {
                let event = json!({
                    "type": "transcript.progress",
                    "seconds_done": rounded(progress.seconds_done),
                    "seconds_known": rounded(progress.seconds_known),
                });
                Some(data(&event).into())
            }
            Ok(
                Event::Language { .. } | Event::Route(_) | Event::Progress(_) | Event::Finished(_),
            ) => None,
            Err(error) => Some(self.failed(&error.into())),
        }
    }

    /// The last events of a successful reply.
    fn done(&mut self, transcript: &Transcript) -> Bytes {
        self.ended = true;
        self.plan.record(transcript);
        let summary = self.plan.summary(transcript);
        self.log_line.end(Some(&summary), None);
        let translated = self.plan.by_libretranslate.then(|| transcript.text());
        let last = translated.and_then(|text| self.segments(&text, &transcript.segments));
        let mut bytes = last.map(Vec::from).unwrap_or_default();
        let mut event = json!({
            "type": "transcript.text.done",
            "text": self.text.whole,
            "usage": usage(transcript),
            "x_route": transcript.route.as_str(),
        });
        escalation_headers::add_to_event(&mut event, transcript);
        if self.plan.details.logprobs {
            event["logprobs"] = logprobs(&transcript.segments);
        }
        if self.plan.details.streamed_segments {
            event["language"] = language::name_of(&transcript.language).into();
            event["language_probability"] = transcript.language_probability.map(short).into();
            event["duration"] = sample_precise(transcript.duration).into();
            event["model"] = transcript.model.as_str().into();
            event["removed"] = transcript.removed.iter().map(removed).collect();
        }
        bytes.extend(data(&event));
        bytes.extend_from_slice(END);
        bytes.into()
    }

    /// The events for some segments, if there are any.
    fn segments(&mut self, text: &str, segments: &[Segment]) -> Option<Bytes> {
        let details = self.plan.details;
        let mut bytes = self.delta(text, segments).unwrap_or_default();
        if details.streamed_segments {
            let events = segments
                .iter()
                .map(|segment| streamed_segment(segment, details));
            bytes.extend(events.flat_map(|event| data(&event)));
        }
        (!bytes.is_empty()).then(|| bytes.into())
    }

    /// The event for some segments' text, if it adds any.
    fn delta(&mut self, text: &str, segments: &[Segment]) -> Option<Vec<u8>> {
        let delta = self.text.push(text)?;
        let mut event = json!({"type": "transcript.text.delta", "delta": delta});
        if self.plan.details.logprobs {
            event["logprobs"] = logprobs(segments);
        }
        Some(data(&event))
    }

    /// The last event of a failed reply.
    fn failed(&mut self, error: &ApiError) -> Bytes {
        self.ended = true;
        let bytes = data(&error.body());
        self.log_line.end(None, Some(error));
        bytes.into()
    }
}

/// One event as bytes.
pub fn data(event: &Value) -> Vec<u8> {
    format!("data: {event}\n\n").into_bytes()
}

/// The text sent so far. It has no whitespace at either end, as in an unstreamed reply.
#[derive(Default)]
struct JoinedText {
    whole: String,
    /// Whitespace that is sent only if more text follows.
    whitespace: String,
}

impl JoinedText {
    /// Appends a segment's text and returns the delta to send; `None` if there is nothing to send yet.
    fn push(&mut self, segment: &str) -> Option<String> {
        let mut text = std::mem::take(&mut self.whitespace) + segment;
        if self.whole.is_empty() {
            text = text.trim_start().to_owned();
        }
        let end = text.trim_end().len();
        self.whitespace = text.split_off(end);
        if text.is_empty() {
            return None;
        }
        self.whole.push_str(&text);
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joined_deltas_equal_the_text_of_an_unstreamed_reply() {
        for texts in [
            vec![" Hello", " there. ", "  ", " You", "", " are\n"],
            vec!["  ", " a"],
            vec!["谢", "谢"],
            vec![" "],
            vec![],
        ] {
            let mut text = JoinedText::default();
            let deltas = texts.iter().filter_map(|segment| text.push(segment));
            let joined: String = deltas.collect();
            assert_eq!(joined, texts.concat().trim(), "{texts:?}");
            assert_eq!(joined, text.whole);
        }
    }
}
