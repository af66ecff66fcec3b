//! A server under test: its address, the key for it, and its answers. The size of an answer is limited here;
//! the caller limits its time.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use futures::StreamExt;
use reqwest::header::{AUTHORIZATION, HeaderMap};
use reqwest::multipart::{Form, Part};
use reqwest::{Client, Method, RequestBuilder};
use serde_json::Value;

use super::client;

/// Path of OpenAI's transcription endpoint.
pub const TRANSCRIPTIONS: &str = "/v1/audio/transcriptions";

/// A server that does not answer within this time counts as unreachable.
const REACH_LIMIT: Duration = Duration::from_secs(10);
/// Maximum size of an answer, in bytes. A larger one counts as endless.
const MAX_ANSWER_BYTES: usize = 4 << 20;

/// A server and the key for it.
#[derive(Clone, Debug)]
pub struct Server {
    client: Client,
    url: String,
    key: Option<String>,
}

/// A server's answer.
#[derive(Clone, Debug)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// Headers of the answer.
    pub headers: HeaderMap,
    /// The complete body.
    pub body: Bytes,
}

impl Server {
    /// Creates a server from a `url` as returned by [`address`]. An empty key means no key.
    ///
    /// # Errors
    /// The HTTP client cannot be created.
    pub fn new(url: String, key: Option<String>) -> anyhow::Result<Self> {
        Ok(Self::with_client(client::client()?, url, key))
    }

    /// The same with an existing client and its connections.
    pub fn with_client(client: Client, url: String, key: Option<String>) -> Self {
        let key = key.filter(|key| !key.is_empty());
        Self { client, url, key }
    }

    /// Lists the server's models; empty if its answer contains none.
    ///
    /// # Errors
    /// The server does not answer. Any answer counts, whatever its status.
    pub async fn reach(&self) -> anyhow::Result<Vec<String>> {
        let request = self.get("/v1/models").timeout(REACH_LIMIT);
        let response = request.send().await.map_err(without_url)?;
        let models = read(response, &Method::GET).await.ok();
        let models = models.and_then(|reply| reply.json().ok());
        let models = models.as_ref().and_then(|models| models["data"].as_array());
        let ids = models.into_iter().flatten();
        let ids = ids.filter_map(|model| model["id"].as_str());
        Ok(ids.map(str::to_owned).collect())
    }

    /// Address without `/v1`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Address for reports, which people share: without user name and password.
    pub fn shown_url(&self) -> String {
        let Ok(mut url) = reqwest::Url::parse(&self.url) else {
            return String::new();
        };
        // Fails only for addresses without a host, which `address` rejects.
        let _ = url.set_username("");
        let _ = url.set_password(None);
        url.as_str().trim_end_matches('/').to_owned()
    }

    /// Whether there is a key.
    pub fn has_key(&self) -> bool {
        self.key.is_some()
    }

    /// A request with the key, if there is one.
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

    /// Sends a request and reads the complete answer.
    ///
    /// # Errors
    /// The server does not answer, or its answer does not end.
    pub async fn send(&self, request: RequestBuilder) -> anyhow::Result<Reply> {
        let (client, request) = request.build_split();
        let request = request.context("cannot build the request")?;
        let method = request.method().clone();
        let response = client.execute(request).await.map_err(without_url)?;
        read(response, &method).await
    }

    /// Sends a form with POST.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn post_form(&self, path: &str, form: Form) -> anyhow::Result<Reply> {
        self.send(self.post(path).multipart(form)).await
    }
}

/// Normalises a server's address: removes `/v1` and trailing slashes.
///
/// # Errors
/// The text is not a URL, or not of HTTP or HTTPS.
pub fn address(text: &str) -> Result<String, String> {
    let url = text.trim_end_matches('/');
    let url = url.strip_suffix("/v1").unwrap_or(url);
    match reqwest::Url::parse(url) {
        Ok(parsed) if matches!(parsed.scheme(), "http" | "https") => Ok(url.to_owned()),
        Ok(_) | Err(_) => Err("expected http://HOST:PORT".to_owned()),
    }
}

/// Whether a model supports English only. The names of such Whisper models end in `.en`, before the suffix
/// for the quantisation.
pub fn is_english_only(model: &str) -> bool {
    let rest = model.split_once(".en").map(|(_, rest)| rest);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

/// A form part with a file.
pub fn file(audio: Bytes, name: &str) -> Part {
    let length = audio.len() as u64;
    Part::stream_with_length(audio, length).file_name(name.to_owned())
}

/// Reads a body up to the size limit.
async fn read(response: reqwest::Response, method: &Method) -> anyhow::Result<Reply> {
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let mut body = Vec::new();
    let mut stream = response.bytes_stream();
    while let Some(bytes) = stream.next().await {
        let bytes = bytes.map_err(without_url)?;
        body.extend_from_slice(&bytes);
        ensure!(
            body.len() <= MAX_ANSWER_BYTES,
            "the answer to {method} does not end: more than {MAX_ANSWER_BYTES} bytes"
        );
    }
    Ok(Reply {
        status,
        headers,
        body: body.into(),
    })
}

/// Removes the address from the client library's error, because it is the same for all requests.
fn without_url(error: reqwest::Error) -> anyhow::Error {
    error.without_url().into()
}

impl Reply {
    /// The value of a header; empty if it is absent.
    pub fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        value
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }

    /// Checks the status.
    ///
    /// # Errors
    /// The answer has another status; the message contains the beginning of the body.
    pub fn ensure_status(&self, status: u16) -> anyhow::Result<()> {
        ensure!(
            self.status == status,
            "status {} instead of {status}: {}",
            self.status,
            self.beginning()
        );
        Ok(())
    }

    /// Checks that the content type begins with `expected`.
    ///
    /// # Errors
    /// The answer has another content type, or none.
    pub fn ensure_type(&self, expected: &str) -> anyhow::Result<()> {
        let found = self.header("content-type").to_ascii_lowercase();
        let essence = found.split(';').next().unwrap_or_default().trim();
        ensure!(
            essence == expected,
            "content type {found:?} instead of {expected}"
        );
        Ok(())
    }

    /// Parses the body as JSON.
    ///
    /// # Errors
    /// The body is not JSON.
    pub fn json(&self) -> anyhow::Result<Value> {
        match serde_json::from_slice(&self.body) {
            Ok(body) => Ok(body),
            Err(_) => bail!("the body is not JSON: {}", self.beginning()),
        }
    }

    /// Parses the body of a successful answer as JSON.
    ///
    /// # Errors
    /// The status is not 200, or the body is not JSON.
    pub fn good_json(&self) -> anyhow::Result<Value> {
        self.ensure_status(200)?;
        self.ensure_type("application/json")?;
        self.json()
    }

    /// The body as text.
    ///
    /// # Errors
    /// The body is not UTF-8.
    pub fn text(&self) -> anyhow::Result<&str> {
        std::str::from_utf8(&self.body).context("the body is not UTF-8")
    }

    /// The beginning of the body on one line, enough to recognise the answer.
    pub fn beginning(&self) -> String {
        client::beginning(&self.body)
    }
}

/// Adds a key as bearer token.
pub fn bearer(request: RequestBuilder, key: &str) -> RequestBuilder {
    request.header(AUTHORIZATION, format!("Bearer {key}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_accepted_with_and_without_its_version() {
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
