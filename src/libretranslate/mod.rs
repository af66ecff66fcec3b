//! The client of a LibreTranslate server: the tree's [`Translator`] over HTTP.
//!
//! `POST {LIBRETRANSLATE_URL}/translate` takes `q` (a text or a list of them), `source`, `target`,
//! `format` and `api_key`, and answers `translatedText` (likewise a text or a list), or `error`.

mod error;
mod languages;

use std::time::Duration;

use async_trait::async_trait;
use reqwest::redirect::Policy;
use reqwest::{Client, Response, StatusCode, Url};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use stt_actors::TranslatorError;
use stt_actors::ports::{Translator, TranslatorRequest};
use tracing::debug;

pub use languages::parse_target;

use crate::tls;

/// A server on the same network answers in milliseconds.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an idle connection is kept for the next call. Servers close idle connections, some after
/// 2 s, and a call that meets the closing fails.
const KEEP_ALIVE: Duration = Duration::from_secs(1);
/// Limits of one call, in texts and characters. Servers may limit both (`--batch-limit` and
/// `--char-limit`); a longer text is sent alone.
const MAX_TEXTS: usize = 50;
const MAX_CHARACTERS: usize = 2000;
/// Largest answer, in bytes. A valid one is about as long as its question.
const MAX_ANSWER: usize = 4 * 1024 * 1024;

/// A LibreTranslate server.
pub struct LibreTranslate {
    client: Client,
    endpoint: Url,
    api_key: Option<String>,
}

/// Body of a call.
#[derive(Serialize)]
struct Question<'a> {
    q: &'a [&'a str],
    source: &'a str,
    target: &'a str,
    format: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    api_key: Option<&'a str>,
}

/// Body of an answer.
#[derive(Deserialize)]
struct Answer {
    #[serde(rename = "translatedText")]
    translated: Option<Texts>,
    error: Option<Value>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Texts {
    One(String),
    Many(Vec<String>),
}

impl LibreTranslate {
    /// A client of the server with this base URL; a slash at its end does not matter.
    ///
    /// # Errors
    /// The HTTP client cannot be created.
    pub fn new(mut url: Url, api_key: Option<String>) -> Result<Self, reqwest::Error> {
        tls::install_crypto();
        let client = Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(KEEP_ALIVE)
            .redirect(Policy::none())
            // Transcripts go to the configured server only, not through a proxy of the environment.
            .no_proxy()
            .user_agent(concat!("uttera-stt/", env!("CARGO_PKG_VERSION")))
            .build()?;
        let path = format!("{}/translate", url.path().trim_end_matches('/'));
        url.set_path(&path);
        Ok(Self {
            client,
            endpoint: url,
            api_key,
        })
    }

    /// One call. Returns as many texts as `q` has.
    async fn ask(
        &self,
        q: &[&str],
        source: &str,
        target: &str,
    ) -> Result<Vec<String>, TranslatorError> {
        let question = Question {
            q,
            source,
            target,
            format: "text",
            api_key: self.api_key.as_deref(),
        };
        let request = self.client.post(self.endpoint.clone()).json(&question);
        let response = request.send().await.map_err(error::unreachable)?;
        let status = response.status();
        if status.is_redirection() {
            return Err(error::redirect(status));
        }
        let body = read(response).await?;
        let answer = serde_json::from_slice::<Answer>(&body);
        if !status.is_success() {
            let said = answer.ok().and_then(|answer| answer.error);
            return Err(self.rejected(status, said));
        }
        let answer = answer.map_err(|_| TranslatorError::Malformed("it is not its JSON"))?;
        if let Some(error) = answer.error.filter(|error| !error.is_null()) {
            return Err(self.rejected(status, Some(error)));
        }
        let texts = match answer.translated {
            Some(Texts::Many(texts)) => texts,
            Some(Texts::One(text)) => vec![text],
            None => return Err(TranslatorError::Malformed("it has no translatedText")),
        };
        if texts.len() == q.len() {
            Ok(texts)
        } else {
            Err(TranslatorError::Malformed(
                "it has too many or too few texts",
            ))
        }
    }

    fn rejected(&self, status: StatusCode, said: Option<Value>) -> TranslatorError {
        let said = match said {
            Some(Value::String(said)) => said,
            Some(other) => other.to_string(),
            None => String::new(),
        };
        error::rejected(status, &said, self.api_key.as_deref())
    }
}

#[async_trait]
impl Translator for LibreTranslate {
    fn source_code(&self, language: &str) -> String {
        languages::source_code(language).to_owned()
    }

    async fn translate(&self, request: TranslatorRequest) -> Result<Vec<String>, TranslatorError> {
        let texts: Vec<&str> = request.texts.iter().map(String::as_str).collect();
        let target = request.target.as_str();
        // LibreTranslate detects one language per call.
        let (source, max_texts) = match request.source.as_deref() {
            Some(source) => (source, MAX_TEXTS),
            None => (languages::DETECT, 1),
        };
        let mut translated = Vec::with_capacity(texts.len());
        for batch in batches(&texts, max_texts) {
            debug!(
                request_id = %request.request_id,
                texts = batch.len(),
                source,
                target,
                "calling LibreTranslate"
            );
            translated.extend(self.ask(batch, source, target).await?);
        }
        Ok(translated)
    }
}

/// Reads the body up to [`MAX_ANSWER`].
async fn read(mut response: Response) -> Result<Vec<u8>, TranslatorError> {
    let mut body = Vec::new();
    while let Some(bytes) = response.chunk().await.map_err(error::unreachable)? {
        if body.len() + bytes.len() > MAX_ANSWER {
            return Err(TranslatorError::Malformed("it is far too long"));
        }
        body.extend_from_slice(&bytes);
    }
    Ok(body)
}

/// Splits the texts, in order, into batches for one call each.
fn batches<'a>(texts: &'a [&'a str], max_texts: usize) -> Vec<&'a [&'a str]> {
    let mut batches = Vec::new();
    let (mut begin, mut characters) = (0, 0);
    for (index, text) in texts.iter().enumerate() {
        let length = text.chars().count();
        let is_full = index - begin == max_texts || characters + length > MAX_CHARACTERS;
        if is_full && index > begin {
            batches.push(&texts[begin..index]);
            (begin, characters) = (index, 0);
        }
        characters += length;
    }
    batches.push(&texts[begin..]);
    batches
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_path_is_the_same_with_and_without_a_slash() {
        for (base, endpoint) in [
            ("http://a:1", "http://a:1/translate"),
            ("http://a:1/", "http://a:1/translate"),
            ("http://a/lt//", "http://a/lt/translate"),
        ] {
            let url = Url::parse(base).expect("a URL");
            let server = LibreTranslate::new(url, None).expect("created");
            assert_eq!(server.endpoint.as_str(), endpoint);
        }
    }

    proptest! {
        #[test]
        fn batches_are_all_texts_in_order_and_within_the_limits(
            lengths in prop::collection::vec(1_usize..3000, 1..200),
            max_texts in 1_usize..60,
        ) {
            let texts: Vec<String> = lengths.iter().map(|length| "ñ".repeat(*length)).collect();
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            let batches = batches(&texts, max_texts);
            prop_assert_eq!(batches.concat(), texts.clone());
            for batch in batches {
                let characters: usize = batch.iter().map(|text| text.chars().count()).sum();
                prop_assert!((1..=max_texts).contains(&batch.len()));
                prop_assert!(batch.len() == 1 || characters <= MAX_CHARACTERS);
            }
        }
    }
}
