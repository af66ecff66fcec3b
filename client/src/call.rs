//! A call: the request that each of its attempts sends.

use std::borrow::Cow;
use std::time::Duration;

use futures::future::BoxFuture;
use reqwest::{Method, Response};

use crate::audio::Audio;
use crate::error::Error;
use crate::headers::ServerHeaders;

/// A request, which may be sent several times.
pub(crate) struct Call {
    pub method: Method,
    pub path: Cow<'static, str>,
    pub fields: Vec<(String, String)>,
    /// The name of the form field with the audio, and the audio.
    pub audio: Option<(&'static str, Audio)>,
    pub request_id: Option<String>,
    pub headers: Vec<(String, String)>,
    /// Overrides the client's time limit for the call.
    pub timeout: Option<Duration>,
    /// Whether the reply is a stream of events. The attempt then ends when the stream begins.
    pub streamed: bool,
}

impl Call {
    pub fn get(path: impl Into<Cow<'static, str>>) -> Self {
        Self {
            method: Method::GET,
            path: path.into(),
            fields: Vec::new(),
            audio: None,
            request_id: None,
            headers: Vec::new(),
            timeout: None,
            streamed: false,
        }
    }

    pub fn delete(path: String) -> Self {
        Self {
            method: Method::DELETE,
            ..Self::get(path)
        }
    }

    pub fn post(path: &'static str, fields: Vec<(String, String)>, audio: Audio) -> Self {
        let part = if path == TRANSCRIBE { "audio" } else { "file" };
        Self {
            method: Method::POST,
            fields,
            audio: Some((part, audio)),
            ..Self::get(path)
        }
    }

    /// Whether the whole request can be sent, possibly again.
    pub fn can_be_sent(&self) -> bool {
        self.audio
            .as_ref()
            .is_none_or(|(_, audio)| audio.is_whole())
    }
}

/// The path with confidence and escalation.
pub(crate) const TRANSCRIBE: &str = "/v1/transcribe";

/// Turns a successful reply into a result.
pub(crate) type Read<T> = fn(Response, ServerHeaders) -> BoxFuture<'static, Result<T, Error>>;

/// Fields of a form. A field without a value is not sent.
#[derive(Default)]
pub(crate) struct Fields(pub Vec<(String, String)>);

impl Fields {
    pub fn add(&mut self, name: &str, value: Option<impl ToString>) {
        let field = value.map(|value| (name.to_owned(), value.to_string()));
        self.0.extend(field);
    }
}
