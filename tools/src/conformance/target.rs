//! The server under test, and the requests that most checks send.

use std::ops::Deref;
use std::sync::Arc;

use reqwest::multipart::Form;

pub use crate::probe::server::{Reply, TRANSCRIPTIONS, bearer, file};
use crate::probe::server::{Server, is_english_only};
use crate::probe::speech::Speech;

/// Path of OpenAI's translation endpoint.
pub const TRANSLATIONS: &str = "/v1/audio/translations";

/// The server under test.
#[derive(Clone, Debug)]
pub struct Target {
    server: Server,
    /// Name of the model in requests.
    pub model: String,
    /// Allowed origin, if one is configured.
    pub origin: Option<String>,
    /// Whether the model supports only English, judged by the list of models.
    pub english_only: bool,
}

/// All requests of a [`Server`].
impl Deref for Target {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

impl Target {
    /// Creates a target from a server and the facts that checks depend on.
    pub fn new(
        server: Server,
        models: &[String],
        model: String,
        origin: Option<String>,
    ) -> Arc<Self> {
        Arc::new(Self {
            server,
            model,
            origin,
            english_only: models.iter().any(|model| is_english_only(model)),
        })
    }

    /// Requests the transcript of a recording with these fields.
    ///
    /// # Errors
    /// As [`Server::send`].
    pub async fn transcribe(
        &self,
        speech: &Speech,
        fields: &[(&str, &str)],
    ) -> anyhow::Result<Reply> {
        self.post_form(TRANSCRIPTIONS, self.form(speech, fields))
            .await
    }

    /// Requests the translation of a recording with these fields.
    ///
    /// # Errors
    /// As [`Server::send`].
    pub async fn translate(
        &self,
        speech: &Speech,
        fields: &[(&str, &str)],
    ) -> anyhow::Result<Reply> {
        self.post_form(TRANSLATIONS, self.form(speech, fields))
            .await
    }

    /// A form as most clients send it.
    pub fn form(&self, speech: &Speech, fields: &[(&str, &str)]) -> Form {
        let mut form = Form::new()
            .part("file", file(speech.bytes(), speech.name))
            .text("model", self.model.clone());
        for (name, value) in fields {
            form = form.text((*name).to_owned(), (*value).to_owned());
        }
        form
    }
}
