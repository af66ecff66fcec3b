//! Bearer keys with names. The server keeps only their digests in memory and replaces all keys at once
//! while requests run.
//!
//! A key never appears in logs, metrics or errors; its name does.

pub mod file;
mod load;
mod reload;

use std::fmt;
use std::fmt::Write;
use std::sync::{Arc, LazyLock};

use arc_swap::ArcSwap;
use sha2::{Digest, Sha256};
use stt_actors::Priority;
use subtle::{ConditionallySelectable, ConstantTimeEq};
use uuid::Uuid;

pub use load::{KeysError, SHORTEST_GOOD_KEY, Weaknesses, load, plain_key, weaknesses};
pub use reload::{Further, Reload, Reloader};

/// Name under which requests without a key are counted; no key may have it.
pub const ANONYMOUS: &str = "anonymous";

/// A key: its name, its options and its digest.
#[derive(Clone, Debug, PartialEq)]
pub struct Key {
    /// The name in logs and metrics.
    pub name: Arc<str>,
    /// Identifies the client for quotas and caches: the key's given name, else an id derived from the
    /// key, so that it never passes to another key when the list changes.
    pub id: Arc<str>,
    /// Priority of the key's requests.
    pub priority: Priority,
    /// Seconds of audio per day; `None`: the limit in the settings.
    pub audio_seconds_per_day: Option<f64>,
    digest: KeyDigest,
}

/// SHA-256 of a key. `Debug` hides it, since a short key could be found from its digest.
#[derive(Clone, Copy, PartialEq)]
struct KeyDigest([u8; 32]);

impl KeyDigest {
    fn of(key: &str) -> Self {
        Self(Sha256::digest(key.as_bytes()).into())
    }
}

impl fmt::Debug for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

impl Key {
    /// A key with a name and default options.
    pub fn new(name: &str, key: &str) -> Self {
        Self {
            name: name.into(),
            id: name.into(),
            priority: Priority::default(),
            audio_seconds_per_day: None,
            digest: KeyDigest::of(key),
        }
    }
}

impl Key {
    /// A key without a given name; `position` in the list counts from 1.
    pub fn unnamed(position: usize, key: &str) -> Self {
        /// Random per process, so that the id of a short key does not reveal the key.
        static SALT: LazyLock<Uuid> = LazyLock::new(Uuid::new_v4);
        let salted = Sha256::new().chain_update(SALT.as_bytes());
        let digest = salted.chain_update(key.as_bytes()).finalize();
        Self {
            id: id_of(&digest),
            ..Self::new(&format!("key-{position}"), key)
        }
    }
}

impl Key {
    /// An id that also other processes compute for this key, if they have the same `salt`: that of a key without a name
    /// differs from its own id, which is valid in this process only.
    pub fn durable_id(&self, salt: &[u8]) -> Arc<str> {
        if !self.id.starts_with('#') {
            return Arc::clone(&self.id);
        }
        let salted = Sha256::new().chain_update(salt);
        id_of(&salted.chain_update(self.digest.0).finalize())
    }
}

/// An id that no name equals, since `#` is not valid in a name.
fn id_of(digest: &[u8]) -> Arc<str> {
    let id = digest.iter().take(16).fold("#".to_owned(), |mut id, byte| {
        // Writing to a string cannot fail.
        let _ = write!(id, "{byte:02x}");
        id
    });
    id.into()
}

/// A set of valid keys.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Keys(Vec<Key>);

impl Keys {
    /// Whether the server accepts requests without a key.
    pub fn is_open(&self) -> bool {
        self.0.is_empty()
    }

    /// Finds the key that equals `given`. Compares the digests of all keys in constant time, so that
    /// the duration reveals nothing about them.
    pub fn find(&self, given: &str) -> Option<&Key> {
        let given = KeyDigest::of(given);
        let none = u32::MAX;
        let mut found = none;
        for (index, key) in (0..none).zip(&self.0) {
            let is_equal = key.digest.0.ct_eq(&given.0);
            found.conditional_assign(&index, is_equal);
        }
        self.0.get(found as usize)
    }

    /// The key with this durable id: see [`Key::durable_id`].
    pub fn with_durable_id(&self, id: &str, salt: &[u8]) -> Option<&Key> {
        self.0.iter().find(|key| *key.durable_id(salt) == *id)
    }

    /// The key with this id.
    pub fn with_id(&self, id: &str) -> Option<&Key> {
        self.0.iter().find(|key| *key.id == *id)
    }

    /// The names of all keys.
    pub fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.0.iter().map(|key| &key.name)
    }
}

/// The current keys, shared by all requests. A request that is being checked keeps the set of keys
/// that it started with.
#[derive(Clone, Debug, Default)]
pub struct Keyring(Arc<ArcSwap<Keys>>);

impl Keyring {
    /// A keyring with these keys.
    pub fn new(keys: Keys) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(keys)))
    }

    /// The current keys.
    pub fn now(&self) -> Arc<Keys> {
        self.0.load_full()
    }

    /// Replaces all keys.
    fn exchange(&self, keys: Keys) {
        self.0.store(Arc::new(keys));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_only_by_its_exact_text() {
        let keys = Keys(vec![Key::new("first", "old"), Key::new("second", "new")]);
        let found = |given| keys.find(given).map(|key| key.name.to_string());
        assert_eq!(found("old").as_deref(), Some("first"));
        assert_eq!(found("new").as_deref(), Some("second"));
        for wrong in ["", "ol", "older", "OLD", "old "] {
            assert_eq!(found(wrong), None, "{wrong:?}");
        }
        assert_eq!(Keys::default().find(""), None);
    }

    #[test]
    fn debug_output_contains_no_key() {
        let keys = Keys(vec![Key::new("laptop", "sesame")]);
        assert!(!format!("{:?}", Keyring::new(keys)).contains("sesame"));
    }
}
