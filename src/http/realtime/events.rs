//! The events that the server sends.

use serde_json::{Value, json};
use stt_actors::domain::transcript::Transcript;

use super::config::Shape;
use super::error::EventError;
use super::items::Item;
use super::new_id;
use crate::http::reply::error::ApiError;
use crate::render::{logprobs, usage};

/// An event as text: its type, an id, and its own fields.
pub fn event(kind: &str, fields: Value) -> String {
    let mut event = json!({"type": kind, "event_id": new_id("event")});
    if let (Value::Object(event), Value::Object(fields)) = (&mut event, fields) {
        event.extend(fields);
    }
    event.to_string()
}

/// The first event, and the answer to a change of the configuration. `what`: `created` or `updated`.
pub fn session(shape: Shape, what: &str, session: &Value) -> String {
    let kind = match shape {
        Shape::Current => format!("session.{what}"),
        Shape::Beta => format!("transcription_session.{what}"),
    };
    event(&kind, json!({"session": session}))
}

/// The events for a turn that has all its audio.
pub fn committed(shape: Shape, item: &Item, previous: Option<&str>) -> Vec<String> {
    let object = item.object();
    let committed = json!({"previous_item_id": previous, "item_id": object["id"]});
    let fields = json!({"previous_item_id": previous, "item": object});
    let kinds: &[&str] = match shape {
        Shape::Current => &["conversation.item.added", "conversation.item.done"],
        Shape::Beta => &["conversation.item.created"],
    };
    let items = kinds.iter().map(|kind| event(kind, fields.clone()));
    std::iter::once(event("input_audio_buffer.committed", committed))
        .chain(items)
        .collect()
}

/// More text of an item.
pub fn delta(item_id: &str, text: &str) -> String {
    let fields = json!({"item_id": item_id, "content_index": 0, "delta": text});
    event("conversation.item.input_audio_transcription.delta", fields)
}

/// The text of an item.
pub fn completed(item_id: &str, transcript: &Transcript, with_logprobs: bool) -> String {
    let has_text = !transcript.segments.is_empty();
    let languages =
        (has_text && !transcript.language.is_empty()).then(|| json!({"code": transcript.language}));
    let mut fields = json!({
        "item_id": item_id,
        "content_index": 0,
        "transcript": transcript.text(),
        "usage": usage(transcript),
        "languages": Vec::from_iter(languages),
    });
    if with_logprobs {
        fields["logprobs"] = logprobs(&transcript.segments);
    }
    event(
        "conversation.item.input_audio_transcription.completed",
        fields,
    )
}

/// An item has no text.
pub fn failed(item_id: &str, error: &ApiError) -> String {
    let error = json!({
        "type": error.kind().as_str(),
        "code": error.code(),
        "message": error.to_string(),
        "param": null,
    });
    let fields = json!({"item_id": item_id, "content_index": 0, "error": error});
    event("conversation.item.input_audio_transcription.failed", fields)
}

/// An error. `event_id`: that of the client's event.
pub fn error(error: &EventError, event_id: Option<&str>) -> String {
    event("error", json!({"error": error.object(event_id)}))
}
