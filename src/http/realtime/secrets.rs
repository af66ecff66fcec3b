//! Ephemeral keys: a program makes one with its API key and gives it to a page, which opens a session with it. The key
//! carries the configuration of the session, and is of no use for anything else.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use actix_web::web;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::time::Instant;
use uuid::Uuid;

use super::config::{SessionConfig, Shape};
use super::error::EventError;
use super::fields::{Field, Fields};
use crate::http::caller::Caller;
use crate::http::limits::RateLimitKey;
use crate::http::reply::error::ApiError;

/// The lifetime of a key in seconds, and what a client may ask for.
const DEFAULT_LIFETIME: u64 = 600;
const LIFETIMES: RangeInclusive<u64> = 10..=7200;
/// Bytes of the body of a request for a key, and the time to send it.
const MOST_BODY_BYTES: usize = 256 * 1024;
const BODY_TIME: Duration = Duration::from_secs(30);
/// How ephemeral keys begin.
const PREFIX: &str = "ek_";
/// The most keys of one maker; a further one replaces the one that expires first.
const MOST_OF_ONE: usize = 256;
/// The most keys.
const MOST: usize = 4096;

/// The ephemeral keys that are valid. Clones refer to the same keys.
#[derive(Clone, Default)]
pub struct ClientSecrets(Arc<Mutex<HashMap<[u8; 32], Secret>>>);

/// What an ephemeral key stands for. The key itself is not kept, only its digest: looking it up reveals nothing by the
/// time that it takes.
struct Secret {
    /// The API key that made it, or the address if there are no keys.
    maker: RateLimitKey,
    config: SessionConfig,
    shape: Shape,
    expires_at: Instant,
}

impl ClientSecrets {
    /// Makes a key for sessions with this configuration.
    ///
    /// # Errors
    /// There are too many keys.
    pub fn create(
        &self,
        caller: &Caller,
        config: SessionConfig,
        shape: Shape,
        lifetime: Duration,
    ) -> Result<String, ApiError> {
        let maker = caller.rate_limit_key();
        let mut secrets = self.valid();
        let of_maker = secrets.iter().filter(|(_, secret)| secret.maker == maker);
        if of_maker.clone().count() >= MOST_OF_ONE {
            let first = of_maker.min_by_key(|(_, secret)| secret.expires_at);
            let first = first.map(|(digest, _)| *digest);
            first.map(|digest| secrets.remove(&digest));
        }
        if secrets.len() >= MOST {
            return Err(ApiError::too_many_client_secrets());
        }
        let (first, second) = (Uuid::new_v4(), Uuid::new_v4());
        let value = format!("{PREFIX}{}{}", first.simple(), second.simple());
        let secret = Secret {
            maker,
            config,
            shape,
            expires_at: Instant::now() + lifetime,
        };
        secrets.insert(digest(&value), secret);
        Ok(value)
    }

    /// The id of the API key that made this ephemeral key; `None` if it is not valid.
    pub fn maker(&self, key: &str) -> Option<Arc<str>> {
        if !key.starts_with(PREFIX) {
            return None;
        }
        match &self.valid().get(&digest(key))?.maker {
            RateLimitKey::Key(id) => Some(Arc::clone(id)),
            RateLimitKey::Address(_) | RateLimitKey::Shared => None,
        }
    }

    /// The configuration of sessions with this ephemeral key; `None` if it is not valid.
    pub fn session(&self, key: &str) -> Option<(SessionConfig, Shape)> {
        if !key.starts_with(PREFIX) {
            return None;
        }
        let secrets = self.valid();
        let secret = secrets.get(&digest(key))?;
        Some((secret.config.clone(), secret.shape))
    }

    /// The keys that have not expired.
    fn valid(&self) -> MutexGuard<'_, HashMap<[u8; 32], Secret>> {
        let mut secrets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        secrets.retain(|_, secret| secret.expires_at > now);
        secrets
    }
}

/// The body of a request for an ephemeral key. An empty one is an empty object.
///
/// # Errors
/// It is too large, too slow, or no JSON object.
pub async fn read(body: web::Payload) -> Result<Value, ApiError> {
    let read = tokio::time::timeout(BODY_TIME, body.to_bytes_limited(MOST_BODY_BYTES)).await;
    let bytes = match read {
        Err(_elapsed) => return Err(ApiError::upload_timeout(BODY_TIME)),
        Ok(Err(_too_large)) => {
            let message = format!("the body has more than {MOST_BODY_BYTES} bytes");
            return Err(ApiError::malformed_body(message));
        }
        Ok(Ok(Err(reason))) => return Err(ApiError::malformed_body(reason.to_string())),
        Ok(Ok(Ok(bytes))) => bytes,
    };
    if bytes.is_empty() {
        return Ok(json!({}));
    }
    let parsed = serde_json::from_slice::<Value>(&bytes);
    let value = parsed.map_err(|error| {
        ApiError::malformed_body(format!("the body is not valid JSON: {error}"))
    })?;
    if value.is_object() {
        Ok(value)
    } else {
        Err(ApiError::malformed_body("the body is not a JSON object"))
    }
}

/// The lifetime in a request for an ephemeral key, in seconds.
///
/// # Errors
/// It is not valid.
pub fn lifetime(body: &Value) -> Result<u64, EventError> {
    let body = Fields::of(body, "")?;
    let Field::Given(expiry) = body.object("expires_after")? else {
        return Ok(DEFAULT_LIFETIME);
    };
    expiry.choice("anchor", &["created_at"])?;
    let seconds = expiry.integer("seconds", LIFETIMES)?;
    Ok(seconds.or(DEFAULT_LIFETIME, DEFAULT_LIFETIME))
}

fn digest(key: &str) -> [u8; 32] {
    Sha256::digest(key.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::caller::PresentedKey;
    use crate::keys::Key;

    const LONG: Duration = Duration::from_secs(600);

    fn caller(name: &str) -> Caller {
        let mut caller = Caller::default();
        caller.key = PresentedKey::Valid(Key::new(name, name));
        caller
    }

    fn create(secrets: &ClientSecrets, name: &str, lifetime: Duration) -> Option<String> {
        let config = SessionConfig::new(Some(name.to_owned()));
        let made = secrets.create(&caller(name), config, Shape::Beta, lifetime);
        made.ok()
    }

    #[tokio::test(start_paused = true)]
    async fn an_ephemeral_key_carries_its_session_until_it_expires() {
        let secrets = ClientSecrets::default();
        let key = create(&secrets, "laptop", LONG).expect("it is made");
        assert!(key.starts_with("ek_") && key.len() == 67, "{key}");
        assert_eq!(secrets.maker(&key).as_deref(), Some("laptop"));
        let session = (SessionConfig::new(Some("laptop".into())), Shape::Beta);
        assert_eq!(secrets.session(&key), Some(session));
        for wrong in ["", "ek_", "laptop", &key[..66], &key.to_uppercase()] {
            assert_eq!(secrets.maker(wrong), None, "{wrong}");
        }
        tokio::time::advance(LONG).await;
        assert_eq!(secrets.session(&key), None);
        assert!(secrets.0.lock().expect("locks").is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn the_keys_of_one_maker_take_no_place_from_others() {
        let secrets = ClientSecrets::default();
        let first = create(&secrets, "a", LONG).expect("it is made");
        for second in 1..=MOST_OF_ONE as u64 {
            create(&secrets, "a", LONG + Duration::from_secs(second)).expect("it is made");
        }
        assert_eq!(secrets.maker(&first), None);
        assert_eq!(secrets.0.lock().expect("locks").len(), MOST_OF_ONE);
        let others = (0..MOST).filter_map(|name| create(&secrets, &name.to_string(), LONG));
        assert_eq!(others.count(), MOST - MOST_OF_ONE);
    }
}
