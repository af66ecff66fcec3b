//! TLS configuration that does not change the state of the process.

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::Verifier;

use crate::error::Error;

/// A configuration that trusts the system's certificates and the given ones, in PEM format. It uses the
/// cryptography provider that the program has installed, or its own, and installs none, because that is
/// for the program to decide, not for a library.
pub(crate) fn config(is_https: bool, extra_roots: &[Vec<u8>]) -> Result<ClientConfig, Error> {
    let installed = CryptoProvider::get_default().map(Arc::clone);
    let provider = installed.unwrap_or_else(|| Arc::new(ring::default_provider()));
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder.with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| Error::Invalid(error.to_string()))?;
    if !is_https {
        // Plain HTTP must also work on a system without certificates.
        let config = builder.with_root_certificates(RootCertStore::empty());
        return Ok(config.with_no_client_auth());
    }
    let mut roots = Vec::new();
    for pem in extra_roots {
        let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
        let certificates = certificates.ok().filter(|found| !found.is_empty());
        roots.extend(
            certificates
                .ok_or_else(|| Error::Invalid("a certificate is not in PEM format".into()))?,
        );
    }
    let verifier = if roots.is_empty() {
        Verifier::new(provider)
    } else {
        Verifier::new_with_extra_roots(roots, provider)
    };
    let verifier = verifier.map_err(|error| Error::Invalid(error.to_string()))?;
    let builder = builder.dangerous();
    let builder = builder.with_custom_certificate_verifier(Arc::new(verifier));
    Ok(builder.with_no_client_auth())
}
