//! One connection, from the first event to its end.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use actix_ws::{
    AggregatedMessage, AggregatedMessageStream, CloseCode, CloseReason, MessageStream,
    ProtocolError, Session,
};
use serde_json::json;
use stt_actors::domain::live::{LiveEnd, LiveEvent, TurnId};
use stt_actors::domain::transcript::Transcript;
use stt_actors::{LiveEvents, LiveInput, SttError, TRANSCRIPTS};
use tokio::time::Instant;
use tracing::info;

use super::client::{ClientSide, MOST_MESSAGE_BYTES};
use super::config::{SessionConfig, Shape};
use super::error::EventError;
use super::events;
use super::items::Items;
use super::outbox::Outbox;
use super::unix_time;
use crate::http::AppState;
use crate::http::caller::Caller;
use crate::http::connections::request_reader::EndOfInput;
use crate::http::reply::error::ApiError;
use crate::http::usage;
use crate::metrics::{Endpoint, live, record_error, record_timings};

/// How long the last turns may take when a session has lasted as long as it may.
const LAST_TURNS: Duration = Duration::from_secs(30);
/// Proxies close connections that are silent for a minute or less.
const PING_INTERVAL: Duration = Duration::from_secs(20);
/// How long before its end a session warns: at most this, and at most a tenth of its time.
const WARNING_TIME: Duration = Duration::from_secs(60);
/// A client that sends nothing for this long, not even a pong, is gone.
const SILENCE_LIMIT: Duration = Duration::from_secs(60);

/// The time for the last frame.
const CLOSE_TIME: Duration = Duration::from_secs(5);

/// Why a connection ends.
#[derive(Debug)]
pub enum End {
    /// The client closed it.
    Closed(Option<CloseReason>),
    /// The client is gone.
    Gone,
    /// The client does not read what it is sent.
    Slow,
    /// The client broke the rules of WebSockets.
    Broken(ProtocolError),
    /// The tree ended the session; `None`: by a fault.
    Tree(Option<LiveEnd>),
    /// The session has lasted as long as it may.
    Expired,
}

impl End {
    /// The end, for the log. The reason that a client gives is any text, and is left out.
    fn as_str(&self) -> &'static str {
        match self {
            Self::Closed(_) => "closed",
            Self::Gone => "gone",
            Self::Slow => "slow",
            Self::Broken(_) => "broken",
            Self::Tree(Some(LiveEnd::Finished)) => "finished",
            Self::Tree(Some(LiveEnd::Idle)) => "idle",
            Self::Tree(Some(LiveEnd::Draining)) => "draining",
            Self::Tree(None) => "failed",
            Self::Expired => "expired",
        }
    }
}

/// What the two directions of a session share.
pub struct Shared {
    /// The server.
    pub state: AppState,
    /// Who is charged.
    pub caller: Caller,
    /// The id of the session.
    pub id: String,
    /// When it ends, in seconds since 1970.
    pub expires_at: u64,
    /// The shape that the client speaks.
    pub shape: Shape,
    /// The configuration.
    pub config: SessionConfig,
    /// The items.
    pub items: Items,
    /// The audio that the client sent.
    pub received: Duration,
    /// The end of the last turn, in the same audio.
    pub committed_to: Duration,
    turns: u64,
}

impl Shared {
    /// The `session` object of events.
    pub fn report(&self) -> serde_json::Value {
        self.config.report(self.shape, &self.id, self.expires_at)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        for _turn in 0..self.items.open() {
            live::record_turn(live::Protocol::Realtime, live::Outcome::Abandoned);
        }
    }
}

/// A session about to begin.
pub struct Opened {
    /// The server.
    pub state: AppState,
    /// Who opened it.
    pub caller: Caller,
    /// The id of the session.
    pub id: String,
    /// The shape of its first event.
    pub shape: Shape,
    /// The configuration at the start.
    pub config: SessionConfig,
    /// The tree's session.
    pub live: (LiveInput, LiveEvents),
    /// What the client sends.
    pub messages: MessageStream,
    /// Sends to the client.
    pub sender: Session,
    /// Ends the connection.
    pub end_of_input: Option<EndOfInput>,
}

/// Runs a session until its connection ends.
pub async fn run(opened: Opened) {
    let Opened {
        state,
        caller,
        id,
        shape,
        config,
        live: (input, events),
        messages,
        sender,
        end_of_input,
    } = opened;
    let outbox = Outbox::new(sender);
    let messages = messages.max_frame_size(MOST_MESSAGE_BYTES);
    let mut messages = messages
        .aggregate_continuations()
        .max_continuation_size(MOST_MESSAGE_BYTES);
    let begin = Instant::now();
    let longest = state.settings.realtime_session;
    let shared = Rc::new(RefCell::new(Shared {
        state,
        caller,
        id,
        expires_at: unix_time() + longest.as_secs(),
        shape,
        config,
        items: Items::default(),
        received: Duration::ZERO,
        committed_to: Duration::ZERO,
        turns: 0,
    }));
    let client = ClientSide::new(Rc::clone(&shared), input, outbox.clone());
    let first = {
        let shared = shared.borrow();
        events::session(shared.shape, "created", &shared.report())
    };
    let end = tokio::select! {
        end = receive(client, &mut messages, begin + longest) => end,
        end = send(&shared, first, events, outbox.clone()) => end,
        end = keep_alive(outbox.clone()) => end,
        end = warn(&shared, outbox.clone(), begin + longest - WARNING_TIME.min(longest / 10)) => end,
    };
    shared.borrow().log_end(&end, begin.elapsed());
    close(outbox, end, longest).await;
    // Its messages end when the last frame is on its way.
    let is_sent = async { while let Some(Ok(_)) = messages.recv().await {} };
    let _ = tokio::time::timeout(CLOSE_TIME, is_sent).await;
    if let Some(end_of_input) = end_of_input {
        end_of_input.reach();
    }
}

/// Handles what the client sends.
async fn receive(
    mut client: ClientSide,
    messages: &mut AggregatedMessageStream,
    expires_at: Instant,
) -> End {
    let mut is_expired = false;
    let mut deadline = expires_at;
    loop {
        let next = tokio::time::timeout(SILENCE_LIMIT, messages.recv());
        let message = tokio::select! {
            message = next => message,
            () = tokio::time::sleep_until(deadline) => {
                if is_expired {
                    return End::Expired;
                }
                is_expired = true;
                deadline += LAST_TURNS;
                client.finish();
                continue;
            }
        };
        let handled = match message {
            Err(_) | Ok(None) => return End::Gone,
            Ok(Some(Err(error))) => return End::Broken(error),
            Ok(Some(Ok(AggregatedMessage::Close(reason)))) => return End::Closed(reason),
            Ok(Some(Ok(AggregatedMessage::Ping(content)))) => client.outbox.pong(&content).await,
            Ok(Some(Ok(AggregatedMessage::Pong(_)))) => Ok(()),
            Ok(Some(Ok(_))) if is_expired => Ok(()),
            Ok(Some(Ok(AggregatedMessage::Text(text)))) => client.handle(&text).await,
            Ok(Some(Ok(AggregatedMessage::Binary(_)))) => client.reject_binary().await,
        };
        if let Err(end) = handled {
            return end;
        }
    }
}

/// Sends the first event, then those of the tree.
async fn send(
    shared: &RefCell<Shared>,
    first: String,
    mut events: LiveEvents,
    mut outbox: Outbox,
) -> End {
    if let Err(end) = outbox.send(first).await {
        return end;
    }
    while let Some(event) = events.next().await {
        let messages = match event {
            LiveEvent::Ended(end) => return End::Tree(Some(end)),
            event => shared.borrow_mut().translate(event),
        };
        for message in messages {
            if let Err(end) = outbox.send(message).await {
                return end;
            }
        }
    }
    End::Tree(None)
}

async fn keep_alive(mut outbox: Outbox) -> End {
    loop {
        tokio::time::sleep(PING_INTERVAL).await;
        if let Err(end) = outbox.ping().await {
            return end;
        }
    }
}

/// Warns at this moment that the session will end. Not with an `error`: some clients end at each of those.
async fn warn(shared: &RefCell<Shared>, mut outbox: Outbox, at: Instant) -> End {
    tokio::time::sleep_until(at).await;
    let fields = json!({"expires_at": shared.borrow().expires_at});
    match outbox.send(events::event("session.expiring", fields)).await {
        Ok(()) => std::future::pending().await,
        Err(end) => end,
    }
}

/// Closes the connection, and says why.
async fn close(mut outbox: Outbox, end: End, longest: Duration) {
    let reason = |code, description: &str| {
        Some(CloseReason {
            code,
            description: Some(description.to_owned()),
        })
    };
    let reason = match end {
        End::Gone | End::Slow => return,
        End::Closed(reason) => reason.map(|reason| reason.code.into()),
        End::Broken(ProtocolError::Overflow) => reason(CloseCode::Size, "the message is too large"),
        End::Broken(ProtocolError::Io(_)) => {
            reason(CloseCode::Invalid, "the message cannot be read")
        }
        End::Broken(_) => reason(CloseCode::Protocol, "the frame is not valid"),
        End::Tree(Some(LiveEnd::Idle)) => reason(
            CloseCode::Normal,
            "no audio and no request arrived for too long (LIVE_IDLE_TIMEOUT)",
        ),
        // Clients reconnect after this code. Some take 1001 for an end that needs no further connection.
        End::Tree(Some(LiveEnd::Draining)) => reason(
            CloseCode::Restart,
            "the server is shutting down; connect again",
        ),
        // Only the limit of time makes this side finish a session.
        End::Expired | End::Tree(Some(LiveEnd::Finished)) => {
            let message = format!(
                "the session has lasted {} s, which is the limit (REALTIME_SESSION_SECONDS)",
                longest.as_secs()
            );
            let error = EventError::new("session_expired", message);
            if outbox.send(events::error(&error, None)).await.is_err() {
                return;
            }
            reason(CloseCode::Normal, "session_expired")
        }
        End::Tree(None) => reason(CloseCode::Error, "the session failed"),
    };
    outbox.close(reason).await;
}

impl Shared {
    fn log_end(&self, end: &End, lasted: Duration) {
        info!(
            session = %self.id, client = &*self.caller.name(), turns = self.turns,
            audio_seconds = self.received.as_secs_f64(), total_seconds = lasted.as_secs_f64(),
            end = end.as_str(), "realtime session ended"
        );
    }

    /// The messages for an event of the tree.
    fn translate(&mut self, event: LiveEvent) -> Vec<String> {
        let millis = |at: Duration| at.as_millis() as u64;
        match event {
            LiveEvent::SpeechStarted { turn, at } => {
                let fields = json!({
                    "audio_start_ms": millis(at),
                    "item_id": self.items.id_of(turn),
                });
                vec![events::event("input_audio_buffer.speech_started", fields)]
            }
            LiveEvent::SpeechStopped { turn, at } => {
                self.committed_to = self.committed_to.max(at.min(self.received));
                let fields = json!({
                    "audio_end_ms": millis(at),
                    "item_id": self.items.id_of(turn),
                });
                vec![events::event("input_audio_buffer.speech_stopped", fields)]
            }
            LiveEvent::Committed(turn) => {
                self.turns += 1;
                let (item, previous) = self.items.commit(turn);
                events::committed(self.shape, &item, previous.as_deref())
            }
            LiveEvent::Delta { turn, text } => {
                vec![events::delta(&self.items.id_of(turn), &text)]
            }
            LiveEvent::Completed { turn, result } => vec![self.complete(turn, result)],
            LiveEvent::Ended(_) => Vec::new(),
        }
    }

    fn complete(&mut self, turn: TurnId, result: Result<Transcript, SttError>) -> String {
        match result {
            Ok(transcript) => {
                usage::charge(&self.state, &self.caller, transcript.duration);
                record_timings(&transcript);
                self.state
                    .metrics
                    .record_live_turn(Endpoint::Realtime, &transcript);
                let text = transcript.text();
                info!(
                    session = %self.id, language = transcript.language, model = transcript.model,
                    route = transcript.route.as_str(), audio_seconds = transcript.duration,
                    fallback_used = transcript.escalation.as_ref().map(|escalation| escalation.used),
                    "a turn is transcribed"
                );
                info!(target: TRANSCRIPTS, session = %self.id, text, "the text of a turn");
                let item_id = self.items.complete(turn, Some(&text));
                events::completed(&item_id, &transcript, self.config.logprobs)
            }
            Err(error) => {
                let error = ApiError::from(error);
                record_error(error.error_type());
                live::record_turn(live::Protocol::Realtime, live::Outcome::Failed);
                info!(session = %self.id, code = error.code(), reason = error.reason_for_log(), "a turn has no text");
                let item_id = self.items.complete(turn, None);
                events::failed(&item_id, &error)
            }
        }
    }
}
