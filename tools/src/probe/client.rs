//! The HTTP client of all that ask, and errors told in few words.

use anyhow::Context;
use reqwest::Client;
use reqwest::header::{CACHE_CONTROL, HeaderMap, HeaderValue};

/// A client whose connections are kept open.
pub fn client() -> anyhow::Result<Client> {
    // An error means that the program has installed a cryptography provider already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    // Recordings are sent more than once, and each time the work is what is measured.
    let headers = HeaderMap::from_iter([(CACHE_CONTROL, HeaderValue::from_static("no-store"))]);
    let builder = Client::builder().no_proxy().tcp_nodelay(true);
    let builder = builder.default_headers(headers);
    builder.build().context("no HTTP client")
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
