//! The builder of a client.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use reqwest::Url;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use reqwest::redirect::Policy;

use crate::client::Client;
use crate::error::Error;
use crate::node::Node;
use crate::retry::RetryPolicy;
use crate::run::Limits;
use crate::statistics::Recorder;
use crate::telemetry::{Hook, Telemetry};
use crate::tls;

/// Settings of a [`Client`].
#[derive(Clone)]
#[must_use]
pub struct ClientBuilder {
    url: String,
    api_key: Option<String>,
    headers: Vec<(String, String)>,
    connect_timeout: Duration,
    limits: Limits,
    telemetry: Hook,
    latency_window: usize,
    tls: tls::Options,
    no_proxy: bool,
    #[cfg(feature = "redis")]
    is_listed: bool,
}

impl ClientBuilder {
    pub(crate) fn new(url: String) -> Self {
        Self {
            url,
            api_key: None,
            headers: Vec::new(),
            connect_timeout: Duration::from_secs(10),
            limits: Limits::default(),
            telemetry: None,
            latency_window: 1024,
            tls: tls::Options::default(),
            no_proxy: false,
            #[cfg(feature = "redis")]
            is_listed: false,
        }
    }

    /// Sets the bearer key. An empty key counts as none.
    pub fn api_key(mut self, key: impl Into<String>) -> Self {
        self.api_key = Some(key.into()).filter(|key| !key.is_empty());
        self
    }

    /// Adds a header to every request.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Sets the time limit for establishing a connection. Default: 10 s.
    pub fn connect_timeout(mut self, limit: Duration) -> Self {
        self.connect_timeout = limit;
        self
    }

    /// Sets the time limit for a call, including all attempts and the waits between them. Default: 10
    /// minutes; `None`: no limit. For a streamed reply, the limit applies until the stream begins.
    pub fn timeout(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.limits.timeout = limit.into();
        self
    }

    /// Sets the time limit for one attempt. Default: none.
    pub fn attempt_timeout(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.limits.attempt_timeout = limit.into();
        self
    }

    /// Sets the time limit for silence within a streamed reply. Default: 60 s. The server sends a
    /// comment every 10 s while there is no text.
    pub fn idle_timeout(mut self, limit: Duration) -> Self {
        self.limits.idle_timeout = limit;
        self
    }

    /// Sets the number of retries and the waits between them.
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.limits.retry = policy;
        self
    }

    /// Sets a hook that the client calls after each attempt.
    pub fn telemetry(mut self, telemetry: impl Telemetry) -> Self {
        self.telemetry = Some(Arc::new(telemetry));
        self
    }

    /// Sets how many latencies [`Client::statistics`] covers. Default: 1024.
    pub fn latency_window(mut self, latencies: usize) -> Self {
        self.latency_window = latencies;
        self
    }

    /// Trusts a certificate in PEM format in addition to the system's.
    pub fn root_certificate(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.tls.extra_roots.push(pem.into());
        self
    }

    /// Trusts only the certificates in this text in PEM format, and those of [`Self::root_certificate`], in place of the
    /// system's.
    pub fn only_root_certificates(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.tls.is_system_trusted = false;
        self.root_certificate(pem)
    }

    /// Presents a certificate, for servers that demand one: the certificate with its chain, and its private key, both in
    /// PEM format.
    pub fn client_certificate(
        mut self,
        chain: impl Into<Vec<u8>>,
        key: impl Into<Vec<u8>>,
    ) -> Self {
        self.tls.identity = Some((chain.into(), key.into()));
        self
    }

    /// Connects to the server directly and ignores proxy variables such as `HTTP_PROXY`.
    pub fn no_proxy(mut self) -> Self {
        self.no_proxy = true;
        self
    }

    /// The server is known by its record in Redis.
    #[cfg(feature = "redis")]
    pub(crate) fn of_record(mut self) -> Self {
        self.is_listed = true;
        self
    }

    /// Builds the client. It sends nothing yet.
    ///
    /// # Errors
    /// The address is invalid, a key or header has characters that HTTP does not allow, or a certificate or
    /// its key is not valid, or there are no certificates for HTTPS.
    pub fn build(self) -> Result<Client, Error> {
        let url = parse(&self.url)?;
        let is_https = url.scheme() == "https";
        let mut http = reqwest::Client::builder()
            .user_agent(concat!("uttera-stt-client/", env!("CARGO_PKG_VERSION")))
            .default_headers(self.default_headers()?)
            .connect_timeout(self.connect_timeout)
            // No redirects: key and audio go to this server only.
            .redirect(Policy::none())
            // This crate retries by itself, so that it can count, report and limit attempts.
            .retry(reqwest::retry::never())
            .tls_backend_preconfigured(tls::config(is_https, &self.tls)?);
        if self.no_proxy {
            http = http.no_proxy();
        }
        let node = Node {
            http: http.build().map_err(Error::of_transport)?,
            base: base_of(&url),
            shown: shown(&url),
            #[cfg(feature = "redis")]
            is_listed: self.is_listed,
            telemetry: self.telemetry,
            recorder: Recorder::new(self.latency_window),
        };
        Ok(Client::of(node, self.limits))
    }

    fn default_headers(&self) -> Result<HeaderMap, Error> {
        let mut headers = HeaderMap::new();
        for (name, value) in &self.headers {
            let invalid = || Error::Invalid(format!("the header {name:?} or its value is invalid"));
            let name = HeaderName::try_from(name).map_err(|_| invalid())?;
            let value = HeaderValue::from_str(value).map_err(|_| invalid())?;
            headers.insert(name, value);
        }
        if let Some(key) = &self.api_key {
            let value = HeaderValue::from_str(&format!("Bearer {key}"));
            // The message must not contain the key.
            let no_header =
                |_| Error::Invalid("the key contains characters that a header cannot have".into());
            let mut value = value.map_err(no_header)?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        Ok(headers)
    }
}

impl fmt::Debug for ClientBuilder {
    /// Does not print the key, headers and password.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = parse(&self.url).map(|url| shown(&url));
        formatter
            .debug_struct("ClientBuilder")
            .field("server", &shown.unwrap_or_default())
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// The server's address without query, fragment and a trailing `/v1` (as in OpenAI's base URL).
fn parse(text: &str) -> Result<Url, Error> {
    // The message must not contain the address, which may contain a password.
    let invalid = |why: &str| Error::Invalid(format!("the server's address {why}"));
    let mut url =
        Url::parse(text.trim()).map_err(|error| invalid(&format!("is invalid: {error}")))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(invalid("must begin with http:// or https://"));
    }
    url.set_query(None);
    url.set_fragment(None);
    let path = url.path().trim_end_matches('/');
    let path = path.strip_suffix("/v1").unwrap_or(path).to_owned();
    url.set_path(&path);
    Ok(url)
}

fn base_of(url: &Url) -> String {
    url.as_str().trim_end_matches('/').to_owned()
}

/// The address by which a pool knows the server of this URL; `None` if it is none.
#[cfg(feature = "redis")]
pub(crate) fn base(text: &str) -> Option<String> {
    parse(text).ok().map(|url| base_of(&url))
}

fn shown(url: &Url) -> String {
    let mut url = url.clone();
    // Fails only for addresses without a host, which `parse` rejects.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.as_str().trim_end_matches('/').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_with_and_without_v1() {
        let cases = [
            ("http://a:1", "http://a:1"),
            ("http://a:1/", "http://a:1"),
            (" http://a:1/v1 ", "http://a:1"),
            ("https://a/v1/", "https://a"),
            ("https://a/stt/v1?x=1#y", "https://a/stt"),
            ("https://a/stt", "https://a/stt"),
        ];
        for (given, base) in cases {
            let url = parse(given).expect("an address");
            assert_eq!(url.as_str().trim_end_matches('/'), base, "{given}");
        }
        for wrong in ["", "a:1", "localhost", "ftp://a", "http://"] {
            assert!(matches!(parse(wrong), Err(Error::Invalid(_))), "{wrong}");
        }
    }

    #[test]
    fn secrets_are_in_no_text() {
        let builder = ClientBuilder::new("http://user:hunter2@a:1".into()).api_key("sesame");
        let client = builder.clone().build().expect("a client");
        let wrong = builder.clone().api_key("sesame\n").build();
        let wrong = wrong.expect_err("no header has that").to_string();
        let nowhere = ClientBuilder::new("http://user:hunter2@:x".into()).build();
        let nowhere = nowhere.expect_err("no address").to_string();
        for text in [
            format!("{builder:?}"),
            format!("{client:?}"),
            wrong,
            nowhere,
        ] {
            assert!(
                !text.contains("sesame") && !text.contains("hunter2"),
                "{text}"
            );
        }
    }
}
