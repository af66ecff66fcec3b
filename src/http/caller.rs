//! The caller of a request: its API key and its address. They are determined once, when the request
//! arrives, so that reloading the keys does not affect it.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use actix_web::dev::ServiceRequest;
use actix_web::http::header::{AUTHORIZATION, HeaderMap, SEC_WEBSOCKET_PROTOCOL};
use actix_web::{HttpMessage, HttpRequest, web};
use stt_actors::{Client, Priority};

use crate::http::AppState;
use crate::http::connections::request_reader::WEB_SOCKET_PATH;
use crate::http::limits::{RateLimitKey, proxies};
use crate::keys::{ANONYMOUS, Key};

/// The sub-protocol in which a page sends its key.
const KEY_PROTOCOL: &str = "openai-insecure-api-key.";

/// The owner of everything where no key is required.
const EVERYBODY: &str = "everybody";

/// The caller of one request.
#[derive(Clone, Debug, Default)]
pub struct Caller {
    /// The address, according to trusted proxies.
    pub address: Option<IpAddr>,
    /// The API key that the request presents.
    pub key: PresentedKey,
    /// Whether the route requires a key.
    key_required: Arc<AtomicBool>,
}

/// The API key that a request presents.
#[derive(Clone, Debug, Default)]
pub enum PresentedKey {
    /// No keys are configured.
    NotRequired,
    /// The request has no key. Also the value of a request that was not identified.
    #[default]
    Missing,
    /// The key is not in force.
    Invalid,
    /// A key in force.
    Valid(Key),
}

impl Caller {
    /// Identifies the caller and stores it in the request, for [`Self::of`].
    pub fn identify(request: &ServiceRequest) -> Self {
        let Some(state) = request.app_data::<web::Data<AppState>>() else {
            return Self::default();
        };
        let keys = state.keys.now();
        let is_realtime = request.path() == WEB_SOCKET_PATH;
        let given = if is_realtime {
            key_of_web_socket(request.headers())
        } else {
            bearer(request.headers())
        };
        let find = |given| {
            let maker = || {
                is_realtime
                    .then(|| state.client_secrets.maker(given))
                    .flatten()
            };
            keys.find(given).or_else(|| keys.with_id(&maker()?))
        };
        let key = match given {
            _ if keys.is_open() => PresentedKey::NotRequired,
            None => PresentedKey::Missing,
            Some(given) => find(given)
                .cloned()
                .map_or(PresentedKey::Invalid, PresentedKey::Valid),
        };
        let peer = request.peer_addr().map(|peer| peer.ip());
        let trusted = &state.settings.trusted_proxies;
        let caller = Self {
            address: peer.map(|peer| proxies::client_address(peer, request.headers(), trusted)),
            key,
            key_required: Arc::default(),
        };
        request.extensions_mut().insert(caller.clone());
        caller
    }

    /// A caller that is known by its address only.
    pub fn without_key(address: Option<IpAddr>) -> Self {
        Self {
            address,
            ..Self::default()
        }
    }

    /// The caller of an identified request.
    pub fn of(request: &HttpRequest) -> Self {
        let known = request.extensions().get::<Self>().cloned();
        known.unwrap_or_default()
    }

    /// Notes that the route requires a key.
    pub fn mark_key_required(&self) {
        self.key_required.store(true, Ordering::Relaxed);
    }

    /// Whether the route requires a key.
    pub fn was_key_required(&self) -> bool {
        self.key_required.load(Ordering::Relaxed)
    }

    /// The key's name, for logs and metrics.
    pub fn name(&self) -> Arc<str> {
        self.valid_key()
            .map_or_else(|| ANONYMOUS.into(), |key| Arc::clone(&key.name))
    }

    /// The key under which limits count this caller.
    pub fn rate_limit_key(&self) -> RateLimitKey {
        match (self.valid_key(), self.address) {
            (Some(key), _) => RateLimitKey::Key(Arc::clone(&key.id)),
            (None, Some(address)) => RateLimitKey::of_address(address),
            (None, None) => RateLimitKey::Shared,
        }
    }

    /// The client for the fair order of the queue.
    pub fn client(&self) -> Client {
        match self.rate_limit_key() {
            RateLimitKey::Key(id) => Client::new(id),
            RateLimitKey::Address(address) => Client::new(address.to_string()),
            RateLimitKey::Shared => Client::new(""),
        }
    }

    /// The owner of shared work: identical requests share it if they have the same key, or if there are
    /// no keys.
    pub fn owner(&self) -> Client {
        Client::new(
            self.valid_key()
                .map_or_else(|| EVERYBODY.into(), |key| Arc::clone(&key.id)),
        )
    }

    /// The caller of a job that was submitted with this key, if it is still valid, from this address.
    pub fn of_job(key: Option<&Key>, address: Option<IpAddr>) -> Self {
        let key = key.cloned().map(PresentedKey::Valid);
        Self {
            address,
            key: key.unwrap_or_default(),
            ..Self::default()
        }
    }

    /// The owner of its jobs, by an id that holds after a restart and on other nodes with the same `salt`: the key,
    /// or one owner for all if there are no keys.
    pub fn owner_of_jobs(&self, salt: &[u8]) -> Arc<str> {
        self.valid_key()
            .map_or_else(|| EVERYBODY.into(), |key| key.durable_id(salt))
    }

    /// The client to which its jobs are counted: the key, or the address.
    pub fn client_of_jobs(&self, salt: &[u8]) -> String {
        match (self.valid_key(), self.rate_limit_key()) {
            (Some(key), _) => key.durable_id(salt).to_string(),
            (None, RateLimitKey::Address(address)) => address.to_string(),
            (None, RateLimitKey::Key(_) | RateLimitKey::Shared) => String::new(),
        }
    }

    /// Its key, by an id that holds after a restart and on other nodes with the same `salt`.
    pub fn key_of_jobs(&self, salt: &[u8]) -> Option<String> {
        self.valid_key().map(|key| key.durable_id(salt).to_string())
    }

    /// The priority of its requests.
    pub fn priority(&self) -> Priority {
        self.valid_key()
            .map_or_else(Priority::default, |key| key.priority)
    }

    /// The audio per day that its key allows, if the key has an allowance of its own.
    pub fn daily_allowance(&self) -> Option<Duration> {
        let seconds = self.valid_key()?.audio_seconds_per_day?;
        Some(Duration::from_secs_f64(seconds))
    }

    fn valid_key(&self) -> Option<&Key> {
        match &self.key {
            PresentedKey::Valid(key) => Some(key),
            PresentedKey::NotRequired | PresentedKey::Missing | PresentedKey::Invalid => None,
        }
    }
}

/// The key of a request for a WebSocket. Browsers cannot set its headers, except for the names of sub-protocols.
pub fn key_of_web_socket(headers: &HeaderMap) -> Option<&str> {
    let offered = || offered_protocols(headers).find_map(|name| name.strip_prefix(KEY_PROTOCOL));
    bearer(headers).or_else(offered)
}

/// The sub-protocols that a request for a WebSocket offers.
pub fn offered_protocols(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = headers.get_all(SEC_WEBSOCKET_PROTOCOL);
    values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|name| !name.is_empty())
}

/// The key in the headers. An empty one counts as none: some clients without a key send it.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let header = headers.get(AUTHORIZATION)?;
    // A value that is not text is an invalid key.
    let Ok(text) = header.to_str() else {
        return Some("?");
    };
    let (scheme, key) = text.trim_start().split_once(' ')?;
    let key = key.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !key.is_empty()).then_some(key)
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::HeaderValue;

    use super::*;

    #[test]
    fn a_key_is_read_in_all_spellings_and_an_empty_one_counts_as_none() {
        for (written, read) in [
            ("Bearer k", Some("k")),
            ("bearer  k ", Some("k")),
            ("BEARER k", Some("k")),
            ("Bearer", None),
            ("Bearer ", None),
            ("Basic k", None),
            ("Bearer \u{e9}", Some("?")),
        ] {
            let value = HeaderValue::from_bytes(written.as_bytes()).expect("a value");
            let headers = HeaderMap::from_iter([(AUTHORIZATION, value)]);
            assert_eq!(bearer(&headers), read, "{written}");
        }
        assert_eq!(bearer(&HeaderMap::new()), None);
    }

    #[test]
    fn a_page_sends_its_key_as_a_sub_protocol() {
        let mut headers = HeaderMap::new();
        assert_eq!(key_of_web_socket(&headers), None);
        let offered = "realtime, openai-insecure-api-key.k,openai-beta.realtime-v1";
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(offered));
        assert_eq!(key_of_web_socket(&headers), Some("k"));
        assert_eq!(offered_protocols(&headers).count(), 3);
        headers.insert(AUTHORIZATION, HeaderValue::from_static("Bearer other"));
        assert_eq!(key_of_web_socket(&headers), Some("other"));
    }

    #[test]
    fn a_caller_is_identified_by_its_key_or_else_by_its_address() {
        let address = "2001:db8::1".parse().ok();
        let mut caller = Caller {
            address,
            ..Caller::default()
        };
        assert_eq!(&*caller.name(), ANONYMOUS);
        assert_eq!(caller.client(), Client::new("2001:db8::"));
        assert_eq!(caller.owner(), Client::new("everybody"));
        let mut key = Key::new("laptop", "k");
        key.priority = Priority::Low;
        caller.key = PresentedKey::Valid(key);
        assert_eq!(&*caller.name(), "laptop");
        assert_eq!(caller.rate_limit_key(), RateLimitKey::Key("laptop".into()));
        assert_eq!(caller.client(), Client::new("laptop"));
        assert_eq!(caller.owner(), Client::new("laptop"));
        assert_eq!(caller.priority(), Priority::Low);
        // A key without a name is identified by itself, not by its position.
        let key = Key::unnamed(1, "k");
        caller.key = PresentedKey::Valid(key.clone());
        assert_eq!(&*caller.name(), "key-1");
        assert_eq!(
            caller.rate_limit_key(),
            RateLimitKey::Key(Arc::clone(&key.id))
        );
        assert_eq!(caller.client(), Client::new(Arc::clone(&key.id)));
        assert_eq!(caller.owner(), Client::new(key.id));
    }
}
