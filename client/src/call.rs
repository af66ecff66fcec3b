//! A call: what is asked of whichever server answers it, attempt after attempt.

use std::time::Duration;

use futures::future::BoxFuture;
use reqwest::{Method, Response};

use crate::audio::Audio;
use crate::error::Error;
use crate::headers::ServerHeaders;

/// A request, as often as it may have to be made.
pub(crate) struct Call {
    pub method: Method,
    pub path: &'static str,
    pub fields: Vec<(String, String)>,
    /// The name of the form's part, and the audio in it.
    pub audio: Option<(&'static str, Audio)>,
    pub request_id: Option<String>,
    /// In place of the client's limit for the whole.
    pub timeout: Option<Duration>,
    /// The reply comes in events: its beginning is the attempt's end.
    pub streamed: bool,
}

impl Call {
    pub fn get(path: &'static str) -> Self {
        Self {
            method: Method::GET,
            path,
            fields: Vec::new(),
            audio: None,
            request_id: None,
            timeout: None,
            streamed: false,
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

    /// Whether all of it can be sent (once more).
    pub fn can_be_sent(&self) -> bool {
        self.audio
            .as_ref()
            .is_none_or(|(_, audio)| audio.is_whole())
    }
}

/// The path of a server in two tiers.
pub(crate) const TRANSCRIBE: &str = "/v1/transcribe";

/// Makes a result of a reply whose status is fine.
pub(crate) type Read<T> = fn(Response, ServerHeaders) -> BoxFuture<'static, Result<T, Error>>;

/// Fields of a form. What is not given is not sent.
#[derive(Default)]
pub(crate) struct Fields(pub Vec<(String, String)>);

impl Fields {
    pub fn add(&mut self, name: &str, value: Option<impl ToString>) {
        let field = value.map(|value| (name.to_owned(), value.to_string()));
        self.0.extend(field);
    }
}
