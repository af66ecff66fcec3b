//! `stream=true`: the text as server-sent events, while it is made.

use std::collections::VecDeque;
use std::slice;
use std::time::Duration;

use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName};
use actix_web::web::Bytes;
use actix_web::{HttpRequest, HttpResponse};
use futures::future::BoxFuture;
use futures::{FutureExt, Stream};
use serde_json::{Value, json};
use stt_actors::transcript::{Segment, Transcript};
use stt_actors::{Event, SttError};
use tokio::time::Instant;

use crate::http::AppState;
use crate::http::pipeline::{AudioRequest, Begun, Reply, X_ROUTE, X_TRANSLATION_MODE, begin};
use crate::http::reply::error::ApiError;
use crate::http::reply::escalation_headers;
use crate::http::request_log::{StreamedLine, Worked};
use crate::http::translation::Translation;
use crate::http::usage::Metered;
use crate::libretranslate::TranslationError;
use crate::render::{logprobs, usage};

/// Proxies close connections on which nothing comes for a minute or less.
const PING_INTERVAL: Duration = Duration::from_secs(10);
/// nginx would hold the events back until it has a page of them.
const NO_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");
const PING: &[u8] = b": ping\n\n";
const END: &[u8] = b"data: [DONE]\n\n";

/// Does the work and answers with events. The head of the answer waits for the first chunk, so that it
/// names its lane, and so that what fails before has an error's status; but not for longer than a
/// proxy would.
pub async fn answer(
    state: &AppState,
    request: &HttpRequest,
    asked: AudioRequest,
) -> Result<HttpResponse, ApiError> {
    let Begun {
        mut events,
        translation,
        reply,
    } = begin(state, request, asked).await?;
    let first = beginning(&mut events).await?;
    let mut response = HttpResponse::Ok();
    response
        .insert_header((CONTENT_TYPE, "text/event-stream"))
        .insert_header((CACHE_CONTROL, "no-cache"))
        .insert_header((NO_BUFFERING, "no"));
    if reply.by_libretranslate {
        response.insert_header((X_TRANSLATION_MODE, "libretranslate"));
    }
    if let Some(route) = first.iter().find_map(route) {
        response.insert_header((X_ROUTE, route));
    }
    let line = StreamedLine::default();
    let narration = Narration {
        events,
        told: first.into(),
        translation: Some(translation),
        finishing: None,
        text: Text::default(),
        reply,
        state: state.clone(),
        line: line.clone(),
        ended: false,
    };
    let mut response = response.streaming(narration.stream());
    response.extensions_mut().insert(line);
    Ok(response)
}

/// The lane that an event tells of.
fn route(event: &Event) -> Option<&'static str> {
    match event {
        Event::Route(route) => Some(route.as_str()),
        Event::Done(transcript) => Some(transcript.route.as_str()),
        Event::Language { .. } | Event::Segment(_) | Event::Progress(_) => None,
    }
}

/// The events up to the first that names a lane, or those of the first seconds.
async fn beginning(events: &mut Metered) -> Result<Vec<Event>, SttError> {
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

/// A reply in the making.
struct Narration {
    events: Metered,
    /// Events that came before the reply began.
    told: VecDeque<Event>,
    /// Until the transcript is there.
    translation: Option<Translation>,
    /// What is left to do with the transcript.
    finishing: Option<BoxFuture<'static, Result<Transcript, TranslationError>>>,
    text: Text,
    reply: Reply,
    state: AppState,
    line: StreamedLine,
    ended: bool,
}

impl Narration {
    /// The body. Dropping it ends the work.
    fn stream(self) -> impl Stream<Item = Result<Bytes, actix_web::Error>> {
        futures::stream::unfold(self, |mut narration| async {
            let bytes = narration.next().await?;
            Some((Ok(bytes), narration))
        })
    }

    /// The next bytes; `None` at the end.
    async fn next(&mut self) -> Option<Bytes> {
        let quiet_until = Instant::now() + PING_INTERVAL;
        while !self.ended {
            match tokio::time::timeout_at(quiet_until, self.step()).await {
                Ok(Some(bytes)) => return Some(bytes),
                Ok(None) => {}
                Err(_elapsed) => return Some(Bytes::from_static(PING)),
            }
        }
        None
    }

    /// What the client is told next, if anything. Nothing is lost when this is dropped before its end.
    async fn step(&mut self) -> Option<Bytes> {
        if let Some(finishing) = &mut self.finishing {
            return Some(match finishing.await {
                Ok(transcript) => self.done(&transcript),
                Err(error) => self.failed(&error.into()),
            });
        }
        let event = match self.told.pop_front() {
            Some(event) => Ok(event),
            None => self.events.next().await?,
        };
        match event {
            // What LibreTranslate is given is not told.
            Ok(Event::Segment(_)) if self.reply.by_libretranslate => None,
            Ok(Event::Segment(segment)) => self.delta(&segment.text, slice::from_ref(&segment)),
            Ok(Event::Done(transcript)) => {
                let translation = self.translation.take()?;
                self.finishing = Some(async move { translation.finish(transcript).await }.boxed());
                None
            }
            Ok(Event::Language { .. } | Event::Route(_) | Event::Progress(_)) => None,
            Err(error) => Some(self.failed(&error.into())),
        }
    }

    fn done(&mut self, transcript: &Transcript) -> Bytes {
        self.ended = true;
        self.reply.record(&self.state, transcript);
        self.line.end(Some(&Worked::from(transcript)), None);
        let translated = self.reply.by_libretranslate.then(|| transcript.text());
        let last = translated.and_then(|text| self.delta(&text, &transcript.segments));
        let mut bytes = last.unwrap_or_default().to_vec();
        let mut event = json!({
            "type": "transcript.text.done",
            "text": self.text.whole,
            "usage": usage(transcript),
            "x_route": transcript.route.as_str(),
        });
        escalation_headers::tell(&mut event, transcript);
        if self.reply.details.logprobs {
            event["logprobs"] = logprobs(&transcript.segments);
        }
        bytes.extend(data(&event));
        bytes.extend_from_slice(END);
        bytes.into()
    }

    /// What some segments' text adds to what was told.
    fn delta(&mut self, text: &str, segments: &[Segment]) -> Option<Bytes> {
        let delta = self.text.delta(text)?;
        let mut event = json!({"type": "transcript.text.delta", "delta": delta});
        if self.reply.details.logprobs {
            event["logprobs"] = logprobs(segments);
        }
        Some(data(&event).into())
    }

    fn failed(&mut self, error: &ApiError) -> Bytes {
        self.ended = true;
        let bytes = data(&error.body());
        self.line.end(None, Some(error));
        bytes.into()
    }
}

/// One event.
fn data(event: &Value) -> Vec<u8> {
    format!("data: {event}\n\n").into_bytes()
}

/// The text so far: of the same blanks as a reply in one piece, which has none at either end.
#[derive(Default)]
struct Text {
    whole: String,
    /// Blanks that are told only if something follows.
    blanks: String,
}

impl Text {
    /// What a segment's text adds; `None`: nothing yet.
    fn delta(&mut self, segment: &str) -> Option<String> {
        let mut text = std::mem::take(&mut self.blanks) + segment;
        if self.whole.is_empty() {
            text = text.trim_start().to_owned();
        }
        let said = text.trim_end().len();
        self.blanks = text.split_off(said);
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
    fn the_deltas_joined_are_the_text_of_a_reply_in_one_piece() {
        for texts in [
            vec![" Hello", " there. ", "  ", " You", "", " are\n"],
            vec!["  ", " a"],
            vec!["谢", "谢"],
            vec![" "],
            vec![],
        ] {
            let mut text = Text::default();
            let deltas = texts.iter().filter_map(|said| text.delta(said));
            let joined: String = deltas.collect();
            assert_eq!(joined, texts.concat().trim(), "{texts:?}");
            assert_eq!(joined, text.whole);
        }
    }
}
