//! Errors of single events. The session continues after them.

use serde_json::{Value, json};

use crate::http::reply::error::ApiError;

/// What is wrong with an event of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventError {
    kind: &'static str,
    /// The kind of error, for programs.
    pub code: &'static str,
    /// What is wrong, for people.
    pub message: String,
    /// The path of the field that is wrong.
    pub param: Option<String>,
}

impl EventError {
    /// An event that is wrong.
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self {
            kind: "invalid_request_error",
            code,
            message: message.into(),
            param: None,
        }
    }

    /// A field with an invalid value.
    pub fn invalid(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new("invalid_value", message).at(param)
    }

    /// This error, of the field at this path.
    #[must_use]
    pub fn at(mut self, param: impl Into<String>) -> Self {
        self.param = Some(param.into());
        self
    }

    /// The object in an `error` event. `event_id`: that of the client's event.
    pub fn object(&self, event_id: Option<&str>) -> Value {
        json!({
            "type": self.kind,
            "code": self.code,
            "message": self.message,
            "param": self.param,
            "event_id": event_id,
        })
    }
}

impl From<ApiError> for EventError {
    fn from(error: ApiError) -> Self {
        Self {
            kind: error.kind().as_str(),
            code: error.code(),
            message: error.to_string(),
            param: None,
        }
    }
}

impl From<EventError> for ApiError {
    fn from(error: EventError) -> Self {
        let EventError {
            code,
            message,
            param,
            ..
        } = error;
        Self::invalid_session(code, message, param)
    }
}

/// A value as messages quote it: shortened.
pub fn quoted(value: &str) -> String {
    const MAX_CHARS: usize = 100;
    let mut text: String = value.chars().take(MAX_CHARS).collect();
    if text.len() < value.len() {
        text.push('…');
    }
    format!("{text:?}")
}
