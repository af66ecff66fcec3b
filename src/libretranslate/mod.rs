//! Translation by a LibreTranslate server: what whisper wrote down in the language spoken becomes a
//! transcript in another one, segment by segment.
//!
//! `POST {LIBRETRANSLATE_URL}/translate` takes `q` (a text or a list of them), `source`, `target`,
//! `format` and `api_key`, and answers `translatedText` (likewise a text or a list), or `error`.

mod error;
mod languages;

use std::time::Duration;

use reqwest::redirect::Policy;
use reqwest::{Client, Response, StatusCode, Url};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use stt_actors::domain::transcript::{Segment, Transcript, compression_ratio};
use tokio::time::{Instant, timeout};
use tracing::debug;

pub use error::TranslationError;
pub use languages::Target;

use crate::metrics::record_libretranslate;
use crate::tls;

/// A server on the same network answers in milliseconds.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections are kept for the next call so long and no longer: servers close idle ones, some after
/// 2 s, and a call that meets the closing fails.
const KEEP_ALIVE: Duration = Duration::from_secs(1);
/// Texts and characters in one call. Servers may have limits on both (`--batch-limit` and
/// `--char-limit`); a text that is longer goes alone.
const MOST_TEXTS: usize = 50;
const MOST_CHARACTERS: usize = 2000;
/// An answer is about as long as its question. This is what nobody means.
const LARGEST_ANSWER: usize = 4 * 1024 * 1024;

/// A LibreTranslate server, for as many users as there are.
#[derive(Clone)]
pub struct LibreTranslate {
    client: Client,
    endpoint: Url,
    api_key: Option<String>,
    time_limit: Duration,
}

/// A call's body.
#[derive(Serialize)]
struct Question<'a> {
    q: &'a [&'a str],
    source: &'a str,
    target: &'a str,
    format: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    api_key: Option<&'a str>,
}

/// What comes back.
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
    /// A server by its base address, with or without a slash at the end. `time_limit` is for all of
    /// one transcript.
    ///
    /// # Errors
    /// The HTTP client cannot be made.
    pub fn new(
        mut url: Url,
        api_key: Option<String>,
        time_limit: Duration,
    ) -> Result<Self, reqwest::Error> {
        tls::install_crypto();
        let client = Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(KEEP_ALIVE)
            .redirect(Policy::none())
            // What was said goes to the configured server and to nobody on the way.
            .no_proxy()
            .user_agent(concat!("uttera-stt/", env!("CARGO_PKG_VERSION")))
            .build()?;
        let path = format!("{}/translate", url.path().trim_end_matches('/'));
        url.set_path(&path);
        Ok(Self {
            client,
            endpoint: url,
            api_key,
            time_limit,
        })
    }

    /// A transcript in another language. No call is made where there is no text, or where it is in
    /// that language already. `mixed`: its segments may each be in a language of their own.
    ///
    /// Segments keep their times and what whisper said about hearing them. Their tokens and words
    /// go: they were those of the other text.
    pub async fn translate(
        &self,
        mut transcript: Transcript,
        target: &Target,
        mixed: bool,
    ) -> Result<Transcript, TranslationError> {
        let source = if mixed {
            languages::DETECT
        } else {
            languages::source_code(&transcript.language)
        };
        let texts: Vec<&str> = (transcript.segments.iter()).filter_map(spoken).collect();
        // Of Chinese, there are two ways of writing.
        let same_language = transcript.language == target.language() && transcript.language != "zh";
        let is_there = source == target.code() || (same_language && !mixed);
        if !is_there && !texts.is_empty() {
            let begin = Instant::now();
            let translated = timeout(self.time_limit, self.translate_all(&texts, source, target))
                .await
                .map_err(|_elapsed| TranslationError::TooSlow(self.time_limit))??;
            record_libretranslate(begin.elapsed());
            put_in_place(&mut transcript.segments, translated, target);
        }
        target.language().clone_into(&mut transcript.language);
        // It was that of the language spoken.
        transcript.language_probability = None;
        Ok(transcript)
    }

    async fn translate_all(
        &self,
        texts: &[&str],
        source: &str,
        target: &Target,
    ) -> Result<Vec<String>, TranslationError> {
        let mut translated = Vec::with_capacity(texts.len());
        let most_texts = if source == languages::DETECT {
            1
        } else {
            MOST_TEXTS
        };
        for batch in batches(texts, most_texts) {
            debug!(
                texts = batch.len(),
                source,
                target = target.code(),
                "asking LibreTranslate"
            );
            translated.extend(self.ask(batch, source, target).await?);
        }
        Ok(translated)
    }

    /// One call: as many texts as were asked for, or an error.
    async fn ask(
        &self,
        q: &[&str],
        source: &str,
        target: &Target,
    ) -> Result<Vec<String>, TranslationError> {
        let question = Question {
            q,
            source,
            target: target.code(),
            format: "text",
            api_key: self.api_key.as_deref(),
        };
        let request = self.client.post(self.endpoint.clone()).json(&question);
        let response = request.send().await.map_err(TranslationError::broken)?;
        let status = response.status();
        if status.is_redirection() {
            return Err(TranslationError::Redirect(status));
        }
        let body = read(response).await?;
        let answer = serde_json::from_slice::<Answer>(&body);
        if !status.is_success() {
            let said = answer.ok().and_then(|answer| answer.error);
            return Err(self.refused(status, said));
        }
        let answer = answer.map_err(|_| TranslationError::Malformed("it is not its JSON"))?;
        if let Some(error) = answer.error.filter(|error| !error.is_null()) {
            return Err(self.refused(status, Some(error)));
        }
        let texts = match answer.translated {
            Some(Texts::Many(texts)) => texts,
            Some(Texts::One(text)) => vec![text],
            None => return Err(TranslationError::Malformed("there is no translatedText")),
        };
        if texts.len() == q.len() {
            Ok(texts)
        } else {
            Err(TranslationError::Malformed(
                "there are too many or too few texts",
            ))
        }
    }

    fn refused(&self, status: StatusCode, said: Option<Value>) -> TranslationError {
        let said = match said {
            Some(Value::String(said)) => said,
            Some(other) => other.to_string(),
            None => String::new(),
        };
        TranslationError::refused(status, &said, self.api_key.as_deref())
    }
}

/// The body, as long as it is of a sane size.
async fn read(mut response: Response) -> Result<Vec<u8>, TranslationError> {
    let mut body = Vec::new();
    while let Some(bytes) = response.chunk().await.map_err(TranslationError::broken)? {
        if body.len() + bytes.len() > LARGEST_ANSWER {
            return Err(TranslationError::Malformed("it is far too long"));
        }
        body.extend_from_slice(&bytes);
    }
    Ok(body)
}

/// What a segment says; `None`: nothing.
fn spoken(segment: &Segment) -> Option<&str> {
    Some(segment.text.trim()).filter(|text| !text.is_empty())
}

/// The texts in their order, in pieces that one call may have.
fn batches<'a>(texts: &'a [&'a str], most_texts: usize) -> Vec<&'a [&'a str]> {
    let mut batches = Vec::new();
    let (mut begin, mut characters) = (0, 0);
    for (place, text) in texts.iter().enumerate() {
        let length = text.chars().count();
        let is_full = place - begin == most_texts || characters + length > MOST_CHARACTERS;
        if is_full && place > begin {
            batches.push(&texts[begin..place]);
            (begin, characters) = (place, 0);
        }
        characters += length;
    }
    batches.push(&texts[begin..]);
    batches
}

/// Gives the segments that say something their translations.
fn put_in_place(segments: &mut [Segment], translated: Vec<String>, target: &Target) {
    // As whisper has it: a blank before each segment, so that they read well when they are joined.
    let blank = if target.has_blanks() { " " } else { "" };
    let spoken = segments
        .iter_mut()
        .filter(|segment| spoken(segment).is_some());
    for (segment, text) in spoken.zip(translated) {
        segment.text = format!("{blank}{}", text.trim());
        segment.compression_ratio = compression_ratio(&segment.text);
        segment.tokens.clear();
        segment.logprobs.clear();
        segment.words.clear();
    }
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
            let server = LibreTranslate::new(url, None, Duration::from_secs(1)).expect("made");
            assert_eq!(server.endpoint.as_str(), endpoint);
        }
    }

    proptest! {
        #[test]
        fn batches_are_all_texts_in_order_and_within_the_limits(
            lengths in prop::collection::vec(1_usize..3000, 1..200),
            most_texts in 1_usize..60,
        ) {
            let texts: Vec<String> = lengths.iter().map(|length| "ñ".repeat(*length)).collect();
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            let batches = batches(&texts, most_texts);
            prop_assert_eq!(batches.concat(), texts.clone());
            for batch in batches {
                let characters: usize = batch.iter().map(|text| text.chars().count()).sum();
                prop_assert!((1..=most_texts).contains(&batch.len()));
                prop_assert!(batch.len() == 1 || characters <= MOST_CHARACTERS);
            }
        }
    }
}
