//! Who may use the server: bearer keys with names, their digests alone kept in memory, exchanged as a
//! whole while requests run.
//!
//! A key appears nowhere: not in logs, metrics, errors, nor here. What is known of it is its name.

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

pub use load::{KeysError, load, plain_key};
pub use reload::{Reload, Reloader};

/// What requests without a key are counted as; no key may have this name.
pub const ANONYMOUS: &str = "anonymous";

/// A key, as it is known.
#[derive(Clone, Debug, PartialEq)]
pub struct Key {
    /// Tells it from others in logs and metrics.
    pub name: Arc<str>,
    /// Tells its client from others wherever something is counted or kept: the name that it was given;
    /// without one, nothing that passes to another key when the list changes.
    pub id: Arc<str>,
    /// How urgent its work is.
    pub priority: Priority,
    /// Seconds of audio that it may have transcribed in a day; `None`: what the settings say.
    pub audio_seconds_per_day: Option<f64>,
    digest: KeyDigest,
}

/// SHA-256 of a key. It is not shown either: a short key could be found by it.
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
    /// A key with nothing of its own but a name.
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
    /// A key without a name of its own, by its place in a list.
    pub fn unnamed(place: usize, key: &str) -> Self {
        /// Mixed in, so that nobody finds a short key by what is shown.
        static SALT: LazyLock<Uuid> = LazyLock::new(Uuid::new_v4);
        let salted = Sha256::new().chain_update(SALT.as_bytes());
        let digest = salted.chain_update(key.as_bytes()).finalize();
        // No name begins like this.
        let id = digest.iter().take(16).fold("#".to_owned(), |mut id, byte| {
            // Writing to a string cannot fail.
            let _ = write!(id, "{byte:02x}");
            id
        });
        Self {
            id: id.into(),
            ..Self::new(&format!("key-{place}"), key)
        }
    }
}

/// All keys that are in force at a time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Keys(Vec<Key>);

impl Keys {
    /// Whether nobody is asked for a key.
    pub fn is_open(&self) -> bool {
        self.0.is_empty()
    }

    /// The key that was given, if it is one. Every key is compared, as a digest, in constant time: how
    /// long it takes tells neither whether one was near, nor which, nor how long it is.
    pub fn find(&self, given: &str) -> Option<&Key> {
        let given = KeyDigest::of(given);
        let none = u32::MAX;
        let mut found = none;
        for (place, key) in (0..none).zip(&self.0) {
            let is_it = key.digest.0.ct_eq(&given.0);
            found.conditional_assign(&place, is_it);
        }
        self.0.get(found as usize)
    }

    /// Each key's name.
    pub fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.0.iter().map(|key| &key.name)
    }
}

/// The keys in force, shared by all who ask. An exchange disturbs no request: each goes by the keys that
/// it met when it came.
#[derive(Clone, Debug, Default)]
pub struct Keyring(Arc<ArcSwap<Keys>>);

impl Keyring {
    /// A ring with these keys.
    pub fn new(keys: Keys) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(keys)))
    }

    /// Those in force now.
    pub fn now(&self) -> Arc<Keys> {
        self.0.load_full()
    }

    /// From now on, these are in force and no others.
    fn exchange(&self, keys: Keys) {
        self.0.store(Arc::new(keys));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_is_found_by_itself_and_nothing_else_is() {
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
    fn what_is_known_of_a_key_does_not_show_it() {
        let keys = Keys(vec![Key::new("laptop", "sesame")]);
        assert!(!format!("{:?}", Keyring::new(keys)).contains("sesame"));
    }
}
