//! The HTTP client of all commands, and short texts for errors.

use anyhow::Context;
use reqwest::Client;
use reqwest::header::{CACHE_CONTROL, HeaderMap, HeaderValue};

/// Creates a client that keeps its connections open.
pub fn client() -> anyhow::Result<Client> {
    // An error means that the program has already installed a cryptography provider.
    let _ = rustls::crypto::ring::default_provider().install_default();
    // A recording is sent several times, and each transcription has to be measured, not the server's cache.
    let headers = HeaderMap::from_iter([(CACHE_CONTROL, HeaderValue::from_static("no-store"))]);
    let builder = Client::builder().no_proxy().tcp_nodelay(true);
    let builder = builder.default_headers(headers);
    builder.build().context("cannot create the HTTP client")
}

/// The beginning of an error's body, on one line, enough to recognise the error.
pub fn beginning(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ").chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_becomes_one_short_line() {
        assert_eq!(beginning(b"a\n  b\n"), "a b");
        assert_eq!(beginning(&[b'x'; 999]).len(), 200);
    }
}
