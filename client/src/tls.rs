//! TLS configuration that does not change the state of the process.

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::Verifier;

use crate::error::Error;

/// Whom the client trusts, and what it presents. All certificates are in PEM format.
#[derive(Clone)]
pub(crate) struct Options {
    /// Whether the system's certificates are trusted.
    pub is_system_trusted: bool,
    /// Further certificates.
    pub extra_roots: Vec<Vec<u8>>,
    /// The client's certificate with its chain, and its private key.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            is_system_trusted: true,
            extra_roots: Vec::new(),
            identity: None,
        }
    }
}

/// A configuration with these options. It uses the cryptography provider that the program has installed, or its own,
/// and installs none, because that is for the program to decide, not for a library.
pub(crate) fn config(is_https: bool, options: &Options) -> Result<ClientConfig, Error> {
    let installed = CryptoProvider::get_default().map(Arc::clone);
    let provider = installed.unwrap_or_else(|| Arc::new(ring::default_provider()));
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder
        .with_safe_default_protocol_versions()
        .map_err(invalid)?;
    if !is_https {
        // Plain HTTP must also work on a system without certificates.
        let config = builder.with_root_certificates(RootCertStore::empty());
        return Ok(config.with_no_client_auth());
    }
    let mut roots = Vec::new();
    for pem in &options.extra_roots {
        roots.extend(certificates(pem)?);
    }
    let builder = if options.is_system_trusted {
        let verifier = if roots.is_empty() {
            Verifier::new(provider)
        } else {
            Verifier::new_with_extra_roots(roots, provider)
        };
        let verifier = Arc::new(verifier.map_err(invalid)?);
        let builder = builder.dangerous();
        builder.with_custom_certificate_verifier(verifier)
    } else {
        let mut store = RootCertStore::empty();
        for certificate in roots {
            store.add(certificate).map_err(invalid)?;
        }
        builder.with_root_certificates(store)
    };
    match &options.identity {
        None => Ok(builder.with_no_client_auth()),
        Some((chain, key)) => {
            let key = PrivateKeyDer::from_pem_slice(key);
            // The message must not contain the key.
            let key =
                key.map_err(|_| Error::Invalid("a private key is not in PEM format".into()))?;
            let config = builder.with_client_auth_cert(certificates(chain)?, key);
            config.map_err(invalid)
        }
    }
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Error> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.ok().filter(|found| !found.is_empty());
    found.ok_or_else(|| Error::Invalid("a certificate is not in PEM format".into()))
}

fn invalid(error: impl std::fmt::Display) -> Error {
    Error::Invalid(error.to_string())
}
