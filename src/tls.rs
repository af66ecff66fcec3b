//! The cryptography of every HTTPS client in this process.

use std::sync::Once;

/// Makes `ring` the process's cryptography, once; reqwest is built without one of its own and wants
/// to know even for plain HTTP.
pub(crate) fn install_crypto() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // An error says that another part of the program has installed one: just as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}
