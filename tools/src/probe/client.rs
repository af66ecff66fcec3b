//! The HTTP client of all commands, and short texts for errors.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use reqwest::header::{CACHE_CONTROL, HeaderMap, HeaderValue};
use reqwest::{Certificate, Client, ClientBuilder, Identity};

/// Certificates for servers that use private ones.
#[derive(Clone, Debug, Default, Args)]
pub struct TlsArgs {
    /// Trust only the certificate authorities in this file (PEM), in place of the system's.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Present the certificate in this file (PEM, with its chain).
    #[arg(long, value_name = "FILE", requires = "client_key")]
    client_cert: Option<PathBuf>,
    /// Private key of --client-cert (PEM).
    #[arg(long, value_name = "FILE", requires = "client_cert")]
    client_key: Option<PathBuf>,
}

/// Creates a client that keeps its connections open.
pub fn client() -> anyhow::Result<Client> {
    build(builder())
}

/// The same with these certificates.
///
/// # Errors
/// A file cannot be used.
pub fn client_with(args: &TlsArgs) -> anyhow::Result<Client> {
    let mut builder = builder();
    if let Some(file) = &args.ca {
        let found = Certificate::from_pem_bundle(&read(file)?);
        let found = found.ok().filter(|found| !found.is_empty());
        let found = found.with_context(|| format!("no certificate in {}", file.display()))?;
        builder = builder.tls_certs_only(found);
    }
    if let Some((certificate, key)) = args.client_cert.as_ref().zip(args.client_key.as_ref()) {
        let both = [read(certificate)?, read(key)?].join(&b'\n');
        let identity = Identity::from_pem(&both).context("--client-cert, --client-key")?;
        builder = builder.identity(identity);
    }
    build(builder)
}

/// A client that asks a server of this machine, and sends nothing that is secret: it accepts every certificate, because
/// the server's name in it is not the one by which this machine reaches it.
pub fn client_for_this_machine() -> anyhow::Result<Client> {
    build(builder().tls_danger_accept_invalid_certs(true))
}

fn read(file: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(file).with_context(|| format!("{} cannot be read", file.display()))
}

fn build(builder: ClientBuilder) -> anyhow::Result<Client> {
    builder.build().context("cannot create the HTTP client")
}

fn builder() -> ClientBuilder {
    // An error means that the program has already installed a cryptography provider.
    let _ = rustls::crypto::ring::default_provider().install_default();
    // A recording is sent several times, and each transcription has to be measured, not the server's cache.
    let headers = HeaderMap::from_iter([(CACHE_CONTROL, HeaderValue::from_static("no-store"))]);
    let builder = Client::builder().no_proxy().tcp_nodelay(true);
    builder.default_headers(headers)
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
