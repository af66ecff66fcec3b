//! Handles the events that a client sends.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::general_purpose::GeneralPurpose;
use base64::engine::{DecodePaddingMode, GeneralPurposeConfig};
use serde_json::{Value, json};
use stt_actors::{LiveError, LiveInput};

use super::config::Shape;
use super::error::{EventError, quoted};
use super::events;
use super::fields::{Field, Fields};
use super::outbox::Outbox;
use super::session::{End, Shared};
use crate::http::AppState;
use crate::http::body::language;

/// The most base64 in one event, as OpenAI allows.
const MOST_AUDIO_BYTES: usize = 15 * 1024 * 1024;
/// The largest message: that much audio and the JSON around it.
pub const MOST_MESSAGE_BYTES: usize = MOST_AUDIO_BYTES + 64 * 1024;
/// Bytes of an id.
const LONGEST_ID: usize = 512;
/// The shortest buffer that can be committed.
const SHORTEST_COMMIT: Duration = Duration::from_millis(100);

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Events of conversations with a model, which this server has not.
const OF_CONVERSATIONS: &[&str] = &[
    "conversation.item.create",
    "conversation.item.truncate",
    "output_audio_buffer.clear",
    "response.cancel",
    "response.create",
];

/// The client's side of a session.
pub struct ClientSide {
    shared: Rc<RefCell<Shared>>,
    input: LiveInput,
    /// For the answers.
    pub outbox: Outbox,
    /// Whether the client knows that its allowance is used up.
    knows_quota: bool,
}

impl ClientSide {
    /// The side of this client.
    pub fn new(shared: Rc<RefCell<Shared>>, input: LiveInput, outbox: Outbox) -> Self {
        Self {
            shared,
            input,
            outbox,
            knows_quota: false,
        }
    }

    /// Takes no more audio: the session ends when its turns are completed.
    pub fn finish(&self) {
        // If it has ended, its last event is on the way.
        let _ = self.input.finish();
    }

    /// Handles an event.
    ///
    /// # Errors
    /// The connection is over. A wrong event gets an answer, and the session continues.
    pub async fn handle(&mut self, text: &str) -> Result<(), End> {
        let event: Value = match serde_json::from_str(text) {
            Ok(event) => event,
            Err(error) => {
                let message = format!("the event is not valid JSON: {error}");
                let error = EventError::new("invalid_json", message);
                return self.outbox.send(events::error(&error, None)).await;
            }
        };
        let event_id = event["event_id"].as_str();
        let event_id = event_id.filter(|id| id.len() <= LONGEST_ID);
        match self.act(&event).await {
            Ok(Some(answer)) => self.outbox.send(answer).await,
            Ok(None) => Ok(()),
            Err(error) => self.outbox.send(events::error(&error, event_id)).await,
        }
    }

    /// Answers a binary message.
    ///
    /// # Errors
    /// The connection is over.
    pub async fn reject_binary(&mut self) -> Result<(), End> {
        let message =
            "binary messages are not understood; send audio as base64 in input_audio_buffer.append";
        let error = EventError::new("invalid_event", message);
        self.outbox.send(events::error(&error, None)).await
    }

    /// Does what an event asks for, and returns the answer, if there is one at once.
    async fn act(&mut self, event: &Value) -> Result<Option<String>, EventError> {
        let fields = Fields::of(event, "")?;
        let Field::Given(kind) = fields.text("type", usize::MAX)? else {
            let error = EventError::new("missing_required_parameter", "the event has no type");
            return Err(error.at("type"));
        };
        match kind {
            "input_audio_buffer.append" => self.append(&fields).await.map(|()| None),
            "input_audio_buffer.commit" => self.commit().map(|()| None),
            "input_audio_buffer.clear" => self.clear().map(Some),
            "session.update" => self.update(event, Shape::Current).map(Some),
            "transcription_session.update" => self.update(event, Shape::Beta).map(Some),
            "conversation.item.retrieve" => self.retrieve(&fields).map(Some),
            "conversation.item.delete" => self.delete(&fields).map(Some),
            _ if OF_CONVERSATIONS.contains(&kind) => {
                let message = format!("{kind} is for conversations; this session transcribes only");
                Err(EventError::new("invalid_event", message).at("type"))
            }
            _ => {
                let message = format!("the event {} is not known", quoted(kind));
                Err(EventError::new("unknown_event", message).at("type"))
            }
        }
    }

    async fn append(&mut self, fields: &Fields<'_>) -> Result<(), EventError> {
        let Field::Given(audio) = fields.text("audio", MOST_AUDIO_BYTES)? else {
            let error = EventError::new("missing_required_parameter", "the event has no audio");
            return Err(error.at("audio"));
        };
        let audio = BASE64.decode(audio).map_err(|error| {
            EventError::invalid("audio", format!("the audio is not valid base64: {error}"))
        })?;
        if !self.may_go_on()? {
            return Ok(());
        }
        {
            let mut shared = self.shared.borrow_mut();
            let length = shared.config.pcm_format().duration(audio.len() as u64);
            shared.received += length;
        }
        // If the session has ended, its last event says why.
        let _ = self.input.push(&audio).await;
        Ok(())
    }

    /// Whether the client's allowance has room. The first time that it has not, the client gets the reason.
    fn may_go_on(&mut self) -> Result<bool, EventError> {
        let shared = self.shared.borrow();
        match shared.state.limits.check_audio(&shared.caller) {
            Ok(()) => {
                self.knows_quota = false;
                Ok(true)
            }
            Err(_) if self.knows_quota => Ok(false),
            Err(error) => {
                self.knows_quota = true;
                Err(error.into())
            }
        }
    }

    fn commit(&mut self) -> Result<(), EventError> {
        let mut shared = self.shared.borrow_mut();
        let buffered = shared.received.saturating_sub(shared.committed_to);
        if buffered < SHORTEST_COMMIT {
            let message = format!(
                "the buffer is too small: it has {:.2} ms of audio, and 100 ms are needed",
                buffered.as_secs_f64() * 1000.0
            );
            return Err(EventError::new("input_audio_buffer_commit_empty", message));
        }
        shared.committed_to = shared.received;
        self.input.commit().map_err(|error| ended(&error))
    }

    fn clear(&mut self) -> Result<String, EventError> {
        let mut shared = self.shared.borrow_mut();
        shared.committed_to = shared.received;
        self.input.clear().map_err(|error| ended(&error))?;
        Ok(events::event("input_audio_buffer.cleared", json!({})))
    }

    fn update(&mut self, event: &Value, shape: Shape) -> Result<String, EventError> {
        let Some(session) = event.get("session") else {
            let message = "the event has no session";
            return Err(EventError::new("missing_required_parameter", message).at("session"));
        };
        let mut shared = self.shared.borrow_mut();
        let mut config = shared.config.clone();
        config.update(session, "session")?;
        check_language(&shared.state, config.language())?;
        let default_language = shared.state.settings.default_language.as_deref();
        let options = config.live_options(default_language);
        self.input
            .configure(options)
            .map_err(|error| ended(&error))?;
        shared.config = config;
        shared.shape = shape;
        Ok(events::session(shape, "updated", &shared.report()))
    }

    fn retrieve(&self, fields: &Fields) -> Result<String, EventError> {
        let id = item_id(fields)?;
        let shared = self.shared.borrow();
        let item = shared.items.get(id).ok_or_else(|| no_item(id))?;
        let fields = json!({"item": item.object()});
        Ok(events::event("conversation.item.retrieved", fields))
    }

    fn delete(&mut self, fields: &Fields) -> Result<String, EventError> {
        let id = item_id(fields)?;
        if !self.shared.borrow_mut().items.delete(id) {
            return Err(no_item(id));
        }
        let fields = json!({"item_id": id});
        Ok(events::event("conversation.item.deleted", fields))
    }
}

/// Checks that the model knows the language.
///
/// # Errors
/// It does not.
pub fn check_language(state: &AppState, language: Option<&str>) -> Result<(), EventError> {
    let Some(code) = language else { return Ok(()) };
    language::check(state, Some(code)).map_err(|error| EventError::from(error).at("language"))
}

fn item_id<'a>(fields: &Fields<'a>) -> Result<&'a str, EventError> {
    match fields.text("item_id", LONGEST_ID)? {
        Field::Given(id) => Ok(id),
        Field::Absent | Field::Null => {
            let error = EventError::new("missing_required_parameter", "the event has no item_id");
            Err(error.at("item_id"))
        }
    }
}

fn no_item(id: &str) -> EventError {
    let message = format!("there is no item {} in this session", quoted(id));
    EventError::new("item_not_found", message).at("item_id")
}

/// The tree's session does not take a request.
fn ended(error: &LiveError) -> EventError {
    EventError::new("session_ended", error.to_string())
}
