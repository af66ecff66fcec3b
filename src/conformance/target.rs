//! The server under test, and what checks ask it most.

use std::ops::Deref;
use std::sync::Arc;

use reqwest::multipart::Form;

pub use crate::probe::server::{Reply, TRANSCRIPTIONS, address, bearer, file};
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
    /// `url` as [`address`] gives it.
    ///
    /// # Errors
    /// There is no client.
    pub fn new(
        url: String,
        key: Option<String>,
        model: String,
        origin: Option<String>,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            server: Server::new(url, key)?,
            model,
            origin,
            english_only: false,
        })
    }

    /// Learns what checks depend on.
    ///
    /// # Errors
    /// Nobody answers; any answer at all is one.
    pub async fn reach(mut self) -> anyhow::Result<Arc<Self>> {
        let models = self.server.reach().await?;
        self.english_only = models.iter().any(|model| is_english_only(model));
        Ok(Arc::new(self))
    }

    /// Asks for a transcript of a recording, with these fields.
    ///
    /// # Errors
    /// As [`Self::send`].
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
    /// As [`Self::send`].
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
