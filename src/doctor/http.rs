//! Requests to neighbours: short, to the named server only, and always with a time limit.

use std::time::{Duration, SystemTime};

use reqwest::redirect::Policy;
use reqwest::{Certificate, Client, ClientBuilder, Identity, Response, Url};
use tokio::time::timeout;

use super::clock::Clock;
use crate::settings::Settings;
use crate::tls;
use crate::tls::fallback::{FallbackFiles, FallbackPem};
use crate::tls::files::TlsError;

/// Time limit of a request, from the look-up of the name to the end of the reply.
pub(super) const LIMIT: Duration = Duration::from_secs(5);
/// Largest reply that is read, in bytes.
const MAX_REPLY: usize = 1024 * 1024;

/// A reply.
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
    /// The clock of the server, from its header `Date`.
    pub(super) clock: Option<Clock>,
}

/// Whose certificates are accepted, and what this machine presents.
#[derive(Clone, Default)]
pub(super) enum Trust {
    /// Those of the system's authorities.
    #[default]
    System,
    /// Any: this machine asks itself, and sends nothing that is secret.
    Anyone,
    /// As the settings for the fallback say.
    Fallback(FallbackPem),
}

impl Trust {
    /// As the settings for the fallback say.
    ///
    /// # Errors
    /// A file cannot be used.
    pub(super) fn of_fallback(settings: &Settings) -> Result<Self, TlsError> {
        let pem = FallbackFiles::of(&settings.fallback_tls).read()?;
        Ok(Self::Fallback(pem))
    }

    fn apply(&self, builder: ClientBuilder) -> reqwest::Result<ClientBuilder> {
        let pem = match self {
            Self::System => return Ok(builder),
            Self::Anyone => return Ok(builder.tls_danger_accept_invalid_certs(true)),
            Self::Fallback(pem) => pem,
        };
        let mut builder = builder;
        if let Some(authorities) = &pem.ca {
            builder = builder.tls_certs_only(Certificate::from_pem_bundle(authorities)?);
        }
        if let Some((certificate, key)) = &pem.pair {
            let both = [certificate.as_slice(), b"\n", key].concat();
            builder = builder.identity(Identity::from_pem(&both)?);
        }
        Ok(builder)
    }
}

/// Sends `GET`. The error is a short text without the URL, which may contain a password.
pub(super) async fn get(url: Url, key: Option<&str>, trust: &Trust) -> Result<Reply, String> {
    match timeout(LIMIT, reply(url, key, trust)).await {
        Ok(Ok(reply)) => Ok(reply),
        Ok(Err(error)) => Err(cause(error)),
        Err(_) => Err(format!("no reply within {} s", LIMIT.as_secs())),
    }
}

async fn reply(url: Url, key: Option<&str>, trust: &Trust) -> reqwest::Result<Reply> {
    tls::install_crypto();
    let client = trust
        .apply(Client::builder())?
        .redirect(Policy::none())
        // As the server itself does, which sends audio and keys to the configured server only.
        .no_proxy()
        .user_agent(concat!("uttera-stt/", env!("CARGO_PKG_VERSION")))
        .build()?;
    let mut request = client.get(url);
    if let Some(key) = key {
        request = request.bearer_auth(key);
    }
    let response = request.send().await?;
    let now = SystemTime::now();
    let date = response.headers().get("date");
    let date = date.and_then(|date| httpdate::parse_http_date(date.to_str().ok()?).ok());
    Ok(Reply {
        status: response.status().as_u16(),
        // The header has whole seconds.
        clock: date.map(|date| Clock::compare(date + Duration::from_millis(500), now)),
        body: read(response).await?,
    })
}

async fn read(mut response: Response) -> reqwest::Result<Vec<u8>> {
    let mut body = Vec::new();
    while let Some(bytes) = response.chunk().await?
        && body.len() + bytes.len() <= MAX_REPLY
    {
        body.extend_from_slice(&bytes);
    }
    Ok(body)
}

/// The innermost error: `Connection refused`, not the layers around it.
fn cause(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut cause: &dyn std::error::Error = &error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// Host and port of a URL, without user, password and path.
pub(super) fn place(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port_or_known_default() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

/// The URL of a path below a base URL.
pub(super) fn below(base: &Url, path: &str) -> Url {
    let mut url = base.clone();
    url.set_path(&format!("{}{path}", base.path().trim_end_matches('/')));
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_has_no_secret_and_paths_are_appended() {
        let url: Url = "https://u:hunter2@stt.example/base/"
            .parse()
            .expect("a URL");
        assert_eq!(place(&url), "stt.example:443");
        assert_eq!(below(&url, "/languages").path(), "/base/languages");
    }
}
