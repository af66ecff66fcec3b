//! TLS: the cryptography provider of this process, and certificates from files.
//!
//! | module | content |
//! |---|---|
//! | `files` | certificates and keys in PEM files, and what is wrong with them |
//! | `server` | what the server presents and demands, replaced while it runs |
//! | `fallback` | what this node presents to the fallback node, and whom it trusts |

pub mod fallback;
pub mod files;
pub mod redis;
pub mod server;

use std::sync::{Arc, Once};

use rustls::crypto::{CryptoProvider, ring};

/// The only protocol that the server speaks, as clients name it in a handshake.
const HTTP_1_1: &[u8] = b"http/1.1";

/// Installs `ring` as the provider of this process, once. reqwest is built without a provider and needs
/// one even for plain HTTP.
pub(crate) fn install_crypto() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // An error means that another provider is installed already, which works as well.
        let _ = ring::default_provider().install_default();
    });
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}
