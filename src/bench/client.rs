//! Asking a system for a transcript, as any client does.

use std::time::{Duration, Instant};

use anyhow::Context;
use reqwest::Client;
use reqwest::header::{CACHE_CONTROL, HeaderMap, HeaderValue};
use reqwest::multipart::{Form, Part};
use serde_json::Value;

use super::recordings::Recording;
use super::sample::Outcome;
use super::system::System;
use crate::tls;

/// A client whose connections are kept open.
pub fn client() -> anyhow::Result<Client> {
    tls::install_crypto();
    // Recordings are sent more than once, and each time the work is what is measured.
    let headers = HeaderMap::from_iter([(CACHE_CONTROL, HeaderValue::from_static("no-store"))]);
    let builder = Client::builder().no_proxy().tcp_nodelay(true);
    let builder = builder.default_headers(headers);
    builder.build().context("no HTTP client")
}

/// The model that a server of this program has, by its own name; `None` where it does not tell.
pub async fn served_model(system: &System, client: &Client) -> Option<String> {
    let request = client.get(format!("{}/v1/models", system.url));
    let mut request = request.timeout(Duration::from_secs(10));
    if let Some(key) = &system.spec.key {
        request = request.bearer_auth(key);
    }
    let body = request.send().await.ok()?.bytes().await.ok()?;
    let models: Value = serde_json::from_slice(&body).ok()?;
    // The alias comes first, then the model itself.
    let served = models["data"].as_array()?.last()?;
    Some(served["id"].as_str()?.to_owned())
}

/// Where a request goes.
#[derive(Clone)]
pub struct Target {
    client: Client,
    url: String,
    key: Option<String>,
}

/// What came of a request.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Seconds, or why there are none.
    pub outcome: Outcome,
    /// The transcript.
    pub text: Option<String>,
}

impl Target {
    /// A system as it runs now.
    pub fn of(system: &System, client: &Client) -> Self {
        Self {
            client: client.clone(),
            url: format!("{}/v1/audio/transcriptions", system.url),
            key: system.spec.key.clone(),
        }
    }

    /// Sends a recording and waits for its transcript, at most as long as the limit.
    pub async fn ask(&self, recording: &Recording, limit: Duration) -> Answer {
        let begin = Instant::now();
        match tokio::time::timeout(limit, self.transcript(recording)).await {
            Ok(Ok(text)) => Answer {
                outcome: Outcome::Measured(begin.elapsed().as_secs_f64()),
                text: Some(text),
            },
            Ok(Err(error)) => Answer {
                outcome: Outcome::Failed(format!("{error:#}")),
                text: None,
            },
            Err(_) => Answer {
                outcome: Outcome::MoreThan(limit.as_secs_f64()),
                text: None,
            },
        }
    }

    async fn transcript(&self, recording: &Recording) -> anyhow::Result<String> {
        let audio = Part::stream_with_length(recording.audio.clone(), recording.audio.len() as u64);
        let name = recording.name.rsplit('/').next().unwrap_or_default();
        let mut form = Form::new()
            .part("file", audio.file_name(name.to_owned()))
            .text("model", "whisper-1")
            .text("response_format", "json");
        if let Some(language) = &recording.language {
            form = form.text("language", language.clone());
        }
        let mut request = self.client.post(&self.url).multipart(form);
        if let Some(key) = &self.key {
            request = request.bearer_auth(key);
        }
        let response = request.send().await.context("no answer")?;
        let status = response.status();
        let body = response.bytes().await.context("the answer broke off")?;
        anyhow::ensure!(status.is_success(), "{status}: {}", beginning(&body));
        let body: Value = serde_json::from_slice(&body).context("the answer is no JSON")?;
        let text = body["text"].as_str().context("the answer has no text")?;
        Ok(text.to_owned())
    }
}

/// Enough of an error's body to know it again, on one line.
pub fn beginning(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ").chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_told_on_one_short_line() {
        assert_eq!(beginning(b"a\n  b\n"), "a b");
        assert_eq!(beginning(&[b'x'; 999]).len(), 200);
    }
}
