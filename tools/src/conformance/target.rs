//! The server under test, and what checks ask it most.

use std::ops::Deref;
use std::sync::Arc;

use reqwest::multipart::Form;

pub use crate::probe::server::{Reply, TRANSCRIPTIONS, bearer, file};
use crate::probe::server::{Server, is_english_only};
use crate::probe::speech::Speech;

/// Where translations are asked for.
pub const TRANSLATIONS: &str = "/v1/audio/translations";

/// The server under test.
#[derive(Clone, Debug)]
pub struct Target {
    server: Server,
    /// The model that requests name.
    pub model: String,
    /// The origin that it lets in.
    pub origin: Option<String>,
    /// Whether its model knows English only, as far as its list of models tells.
    pub english_only: bool,
}

/// All that any server can be asked.
impl Deref for Target {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

impl Target {
    /// A server, and what checks depend on.
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

    /// Asks for a transcript of a recording, with these fields.
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

    /// Asks for a translation, likewise.
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
