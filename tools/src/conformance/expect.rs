//! Expectations on bodies: types of keys, spoken words, and the shape of errors.

use anyhow::{Context, ensure};
use serde_json::Value;

use super::target::Reply;
use crate::probe::recording::ensure_words;
use crate::probe::speech::Speech;

/// The text under a key.
///
/// # Errors
/// The key is missing or not a text.
pub fn text<'a>(body: &'a Value, key: &str) -> anyhow::Result<&'a str> {
    let value = body[key].as_str();
    value.with_context(|| format!("{key:?} is {}, not a text", shown(&body[key])))
}

/// The number under a key.
///
/// # Errors
/// The key is missing or not a number.
pub fn number(body: &Value, key: &str) -> anyhow::Result<f64> {
    let value = body[key].as_f64();
    value.with_context(|| format!("{key:?} is {}, not a number", shown(&body[key])))
}

/// The boolean under a key.
///
/// # Errors
/// The key is missing or not a boolean.
pub fn flag(body: &Value, key: &str) -> anyhow::Result<bool> {
    let value = body[key].as_bool();
    value.with_context(|| format!("{key:?} is {}, not a boolean", shown(&body[key])))
}

/// The list under a key.
///
/// # Errors
/// The key is missing or not a list.
pub fn list<'a>(body: &'a Value, key: &str) -> anyhow::Result<&'a [Value]> {
    let value = body[key].as_array();
    let value = value.with_context(|| format!("{key:?} is {}, not a list", shown(&body[key])))?;
    Ok(value)
}

/// Checks that a key has this value.
///
/// # Errors
/// The key is missing or has another value.
pub fn equal(body: &Value, key: &str, expected: impl Into<Value>) -> anyhow::Result<()> {
    let (found, expected) = (&body[key], expected.into());
    ensure!(
        *found == expected,
        "{key:?} is {} instead of {}",
        shown(found),
        shown(&expected)
    );
    Ok(())
}

/// A value for messages, cut to a readable length.
fn shown(value: &Value) -> String {
    value.to_string().chars().take(80).collect()
}

/// Checks that a transcript matches the recording.
///
/// # Errors
/// The transcript does not match.
pub fn says(text: &str, speech: &Speech) -> anyhow::Result<()> {
    ensure_words(text, speech.text, speech.name)
}

/// Checks that `usage` is the audio's length in whole seconds.
///
/// # Errors
/// `usage` is missing or has another value.
pub fn usage(body: &Value, seconds: f64) -> anyhow::Result<()> {
    let usage = &body["usage"];
    equal(usage, "type", "duration").context("usage")?;
    let told = number(usage, "seconds").context("usage")?;
    // Codecs pad the audio, so that a length near a whole second may be rounded either way.
    ensure!(
        (told - seconds.ceil()).abs() < 0.5 || (told - (seconds + 0.1).ceil()).abs() < 0.5,
        "usage is {told} s and the audio has {seconds} s"
    );
    Ok(())
}

/// An expected error of the API.
#[derive(Clone, Copy, Debug)]
pub struct Refusal {
    /// HTTP status.
    pub status: u16,
    /// Error code.
    pub code: &'static str,
    /// Name of the field that the error must name; `None`: not checked.
    pub param: Option<&'static str>,
}

impl Refusal {
    /// An error caused by the client.
    pub const fn new(status: u16, code: &'static str, param: Option<&'static str>) -> Self {
        Self {
            status,
            code,
            param,
        }
    }

    /// Checks that an answer is this error, in the shape of all errors.
    ///
    /// # Errors
    /// The answer differs; the message names the difference.
    pub fn ensure(&self, reply: &Reply) -> anyhow::Result<()> {
        reply.ensure_status(self.status)?;
        let error = error_of(reply)?;
        let kind = if self.status < 500 {
            "invalid_request_error"
        } else {
            "server_error"
        };
        equal(&error, "type", kind)?;
        equal(&error, "code", self.code)?;
        if let Some(param) = self.param {
            equal(&error, "param", param)?;
        }
        ensure!(
            !reply.header("x-request-id").is_empty(),
            "the answer has no X-Request-Id"
        );
        Ok(())
    }
}

/// The error object, checked for the keys that every error has.
///
/// # Errors
/// The answer has another shape; the message names the difference.
pub fn error_of(reply: &Reply) -> anyhow::Result<Value> {
    reply.ensure_type("application/json")?;
    let body = reply.json()?;
    let error = &body["error"];
    let keys = error.as_object().context("`error` is not an object")?;
    for key in ["message", "type", "param", "code"] {
        ensure!(keys.contains_key(key), "the error has no {key:?}");
    }
    let message = text(error, "message")?;
    ensure!(!message.is_empty(), "the message is empty");
    equal(&body, "detail", message)?;
    for key in ["param", "code"] {
        ensure!(
            error[key].is_null() || error[key].is_string(),
            "{key:?} is neither text nor null"
        );
    }
    Ok(error.clone())
}
