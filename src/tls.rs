//! The cryptography provider of every HTTPS client in this process.

use std::sync::Once;

/// Installs `ring` as the provider of this process, once. reqwest is built without a provider and needs
/// one even for plain HTTP.
pub(crate) fn install_crypto() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // An error means that another provider is installed already, which works as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}
