//! A server that is asked: where it is, with which key, and what it answered. Whatever it does, an answer
//! is bounded in size; its time is bounded by who asks.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use futures::StreamExt;
use reqwest::header::{AUTHORIZATION, HeaderMap};
use reqwest::multipart::{Form, Part};
use reqwest::{Client, Method, RequestBuilder};
use serde_json::Value;

use super::client;

/// Where transcripts are asked for.
pub const TRANSCRIPTIONS: &str = "/v1/audio/transcriptions";

/// A server that says nothing at all for so long is not there.
const REACH_LIMIT: Duration = Duration::from_secs(10);
/// An answer of this size comes to no end.
const LARGEST_ANSWER: usize = 4 << 20;

/// A server and the key that it wants.
#[derive(Clone, Debug)]
pub struct Server {
    client: Client,
    url: String,
    key: Option<String>,
}

/// What the server answered.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body, to its end.
    pub body: Bytes,
}

impl Server {
    /// `url` as [`address`] gives it. An empty key is none.
    ///
    /// # Errors
    /// There is no client.
    pub fn new(url: String, key: Option<String>) -> anyhow::Result<Self> {
        Ok(Self::with_client(client::client()?, url, key))
    }

    /// The same, over connections that are there already.
    pub fn with_client(client: Client, url: String, key: Option<String>) -> Self {
        let key = key.filter(|key| !key.is_empty());
        Self { client, url, key }
    }

    /// The models that it lists; none where it does not say.
    ///
    /// # Errors
    /// Nobody answers; any answer at all is one.
    pub async fn reach(&self) -> anyhow::Result<Vec<String>> {
        let request = self.get("/v1/models").timeout(REACH_LIMIT);
        let response = request.send().await.map_err(told)?;
        let models = read(response, &Method::GET).await.ok();
        let models = models.and_then(|reply| reply.json().ok());
        let models = models.as_ref().and_then(|models| models["data"].as_array());
        let ids = models.into_iter().flatten();
        let ids = ids.filter_map(|model| model["id"].as_str());
        Ok(ids.map(str::to_owned).collect())
    }

    /// Its address, without `/v1`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The same for reports, which people show to others: without user and password.
    pub fn shown_url(&self) -> String {
        let Ok(mut url) = reqwest::Url::parse(&self.url) else {
            return String::new();
        };
        // Fails only for addresses without a host, of which there are none here.
        let _ = url.set_username("");
        let _ = url.set_password(None);
        url.as_str().trim_end_matches('/').to_owned()
    }

    /// Whether it was given a key to use.
    pub fn has_key(&self) -> bool {
        self.key.is_some()
    }

    /// A request with the key, where there is one.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.bare_request(method, path);
        match &self.key {
            Some(key) => request.bearer_auth(key),
            None => request,
        }
    }

    /// A request without a key.
    pub fn bare_request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.url))
    }

    /// A GET of a path.
    pub fn get(&self, path: &str) -> RequestBuilder {
        self.request(Method::GET, path)
    }

    /// A POST to a path.
    pub fn post(&self, path: &str) -> RequestBuilder {
        self.request(Method::POST, path)
    }

    /// Sends a request and reads the answer to its end.
    ///
    /// # Errors
    /// No answer, or one that comes to no end.
    pub async fn send(&self, request: RequestBuilder) -> anyhow::Result<Reply> {
        let (client, request) = request.build_split();
        let request = request.context("no request")?;
        let method = request.method().clone();
        let response = client.execute(request).await.map_err(told)?;
        read(response, &method).await
    }

    /// Sends a form.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn post_form(&self, path: &str, form: Form) -> anyhow::Result<Reply> {
        self.send(self.post(path).multipart(form)).await
    }
}

/// A server's address as people give it: without `/v1` and slashes at its end.
///
/// # Errors
/// It is none, or of another protocol.
pub fn address(text: &str) -> Result<String, String> {
    let url = text.trim_end_matches('/');
    let url = url.strip_suffix("/v1").unwrap_or(url);
    match reqwest::Url::parse(url) {
        Ok(parsed) if matches!(parsed.scheme(), "http" | "https") => Ok(url.to_owned()),
        Ok(_) | Err(_) => Err("http://HOST:PORT is expected".to_owned()),
    }
}

/// Whether a model knows English only: Whisper's models of this kind have `.en` at the end of their
/// names, before what says how they are quantised.
pub fn is_english_only(model: &str) -> bool {
    let rest = model.split_once(".en").map(|(_, rest)| rest);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

/// A part that is a file.
pub fn file(audio: Bytes, name: &str) -> Part {
    let length = audio.len() as u64;
    Part::stream_with_length(audio, length).file_name(name.to_owned())
}

/// Reads a body, at most so much of it.
async fn read(response: reqwest::Response, method: &Method) -> anyhow::Result<Reply> {
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let mut body = Vec::new();
    let mut stream = response.bytes_stream();
    while let Some(bytes) = stream.next().await {
        let bytes = bytes.map_err(told)?;
        body.extend_from_slice(&bytes);
        ensure!(
            body.len() <= LARGEST_ANSWER,
            "the answer to {method} has no end: more than {LARGEST_ANSWER} bytes"
        );
    }
    Ok(Reply {
        status,
        headers,
        body: body.into(),
    })
}

/// The client library's error without the address: that is the same for all.
fn told(error: reqwest::Error) -> anyhow::Error {
    error.without_url().into()
}

impl Reply {
    /// A header's value; empty if there is none.
    pub fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        value
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }

    /// Fails unless the answer has this status.
    ///
    /// # Errors
    /// Another status; the body's beginning is told.
    pub fn ensure_status(&self, status: u16) -> anyhow::Result<()> {
        ensure!(
            self.status == status,
            "status {} in place of {status}: {}",
            self.status,
            self.beginning()
        );
        Ok(())
    }

    /// Fails unless the content type begins like this.
    ///
    /// # Errors
    /// Another content type, or none.
    pub fn ensure_type(&self, expected: &str) -> anyhow::Result<()> {
        let found = self.header("content-type").to_ascii_lowercase();
        let essence = found.split(';').next().unwrap_or_default().trim();
        ensure!(
            essence == expected,
            "content type {found:?} in place of {expected}"
        );
        Ok(())
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// It is none.
    pub fn json(&self) -> anyhow::Result<Value> {
        match serde_json::from_slice(&self.body) {
            Ok(body) => Ok(body),
            Err(_) => bail!("the body is no JSON: {}", self.beginning()),
        }
    }

    /// A good answer's body as JSON.
    ///
    /// # Errors
    /// Another status than 200, or no JSON.
    pub fn good_json(&self) -> anyhow::Result<Value> {
        self.ensure_status(200)?;
        self.ensure_type("application/json")?;
        self.json()
    }

    /// The body as text.
    ///
    /// # Errors
    /// It is not UTF-8.
    pub fn text(&self) -> anyhow::Result<&str> {
        std::str::from_utf8(&self.body).context("the body is not UTF-8")
    }

    /// Enough of the body to know it again, on one line.
    pub fn beginning(&self) -> String {
        client::beginning(&self.body)
    }
}

/// A header that says the key is this.
pub fn bearer(request: RequestBuilder, key: &str) -> RequestBuilder {
    request.header(AUTHORIZATION, format!("Bearer {key}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_taken_with_and_without_its_version() {
        for url in [
            "http://a:1",
            "http://a:1/",
            "http://a:1/v1",
            "http://a:1/v1/",
        ] {
            assert_eq!(address(url).unwrap(), "http://a:1");
        }
        for url in ["", "a:1", "ftp://a"] {
            assert!(address(url).is_err(), "{url}");
        }
    }
}
