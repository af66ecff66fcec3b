//! The key for another server.

use anyhow::Context;

/// The default variable with the server's key.
const KEY_VARIABLE: &str = "UTTERA_API_KEY";

/// The key in the environment variable `name`, or in UTTERA_API_KEY, which may be missing.
///
/// # Errors
/// The named variable is missing or not text.
pub(super) fn server_key(name: Option<&str>) -> anyhow::Result<String> {
    match std::env::var(name.unwrap_or(KEY_VARIABLE)) {
        Ok(key) => Ok(key),
        Err(std::env::VarError::NotPresent) if name.is_none() => Ok(String::new()),
        Err(error) => {
            Err(error).with_context(|| format!("no key in {}", name.unwrap_or(KEY_VARIABLE)))
        }
    }
}
