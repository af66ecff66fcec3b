//! What is expected of bodies: keys of the right type, the right words, errors in their one shape.

use anyhow::{Context, ensure};
use serde_json::Value;

use super::target::Reply;
use crate::probe::recording::ensure_words;
use crate::probe::speech::Speech;

/// The text of a key.
///
/// # Errors
/// There is none, or it is no text.
pub fn text<'a>(body: &'a Value, key: &str) -> anyhow::Result<&'a str> {
    let value = body[key].as_str();
    value.with_context(|| format!("{key:?} is {}, no text", shown(&body[key])))
}

/// The number of a key.
///
/// # Errors
/// There is none, or it is no number.
pub fn number(body: &Value, key: &str) -> anyhow::Result<f64> {
    let value = body[key].as_f64();
    value.with_context(|| format!("{key:?} is {}, no number", shown(&body[key])))
}

/// The truth of a key.
///
/// # Errors
/// There is none, or it is neither true nor false.
pub fn flag(body: &Value, key: &str) -> anyhow::Result<bool> {
    let value = body[key].as_bool();
    value.with_context(|| format!("{key:?} is {}, neither true nor false", shown(&body[key])))
}

/// The list of a key.
///
/// # Errors
/// There is none, or it is no list.
pub fn list<'a>(body: &'a Value, key: &str) -> anyhow::Result<&'a [Value]> {
    let value = body[key].as_array();
    let value = value.with_context(|| format!("{key:?} is {}, no list", shown(&body[key])))?;
    Ok(value)
}

/// Fails unless the key has this value.
///
/// # Errors
/// It has another one.
pub fn equal(body: &Value, key: &str, expected: impl Into<Value>) -> anyhow::Result<()> {
    let (found, expected) = (&body[key], expected.into());
    ensure!(
        *found == expected,
        "{key:?} is {} in place of {}",
        shown(found),
        shown(&expected)
    );
    Ok(())
}

/// A value, not too much of it.
fn shown(value: &Value) -> String {
    value.to_string().chars().take(80).collect()
}

/// Fails unless a text has the recording's words.
///
/// # Errors
/// It has others.
pub fn says(text: &str, speech: &Speech) -> anyhow::Result<()> {
    ensure_words(text, speech.text, speech.name)
}

/// Fails unless the usage is the audio's length in whole seconds.
///
/// # Errors
/// There is none, or another.
pub fn usage(body: &Value, seconds: f64) -> anyhow::Result<()> {
    let usage = &body["usage"];
    equal(usage, "type", "duration").context("usage")?;
    let told = number(usage, "seconds").context("usage")?;
    // Codecs pad: which whole second it is may be open by one at the border.
    ensure!(
        (told - seconds.ceil()).abs() < 0.5 || (told - (seconds + 0.1).ceil()).abs() < 0.5,
        "usage says {told} s of audio that has {seconds} s"
    );
    Ok(())
}

/// An error of the table.
#[derive(Clone, Copy, Debug)]
pub struct Refusal {
    /// HTTP's.
    pub status: u16,
    /// Its code.
    pub code: &'static str,
    /// The field at fault; `None`: not told here.
    pub param: Option<&'static str>,
}

impl Refusal {
    /// The client's fault.
    pub const fn new(status: u16, code: &'static str, param: Option<&'static str>) -> Self {
        Self {
            status,
            code,
            param,
        }
    }

    /// Fails unless the answer is this error, in the shape that all errors have.
    ///
    /// # Errors
    /// What is wrong with it.
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
            "there is no X-Request-Id"
        );
        Ok(())
    }
}

/// The error object, with all that every error has.
///
/// # Errors
/// What is wrong with it.
pub fn error_of(reply: &Reply) -> anyhow::Result<Value> {
    reply.ensure_type("application/json")?;
    let body = reply.json()?;
    let error = &body["error"];
    let keys = error.as_object().context("`error` is no object")?;
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
