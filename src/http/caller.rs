//! Who sends a request: which key it carries, and where it comes from. Found once, when it comes, so that
//! an exchange of keys in between changes nothing for it.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use actix_web::dev::ServiceRequest;
use actix_web::http::header::{AUTHORIZATION, HeaderMap};
use actix_web::{HttpMessage, HttpRequest, web};
use stt_actors::{Client, Priority};

use crate::http::AppState;
use crate::http::limits::{Who, proxies};
use crate::keys::{ANONYMOUS, Key};

/// One request's sender.
#[derive(Clone, Debug, Default)]
pub struct Visitor {
    /// Where it is, as far as trusted proxies say.
    pub address: Option<IpAddr>,
    /// What it can show.
    pub key: Shown,
    /// Whether it came to a path that asks for keys.
    asked: Arc<AtomicBool>,
}

/// What a request shows of a key.
#[derive(Clone, Debug, Default)]
pub enum Shown {
    /// None, and none is needed: the server is open.
    NotNeeded,
    /// None; so it is with a request that nobody has looked at.
    #[default]
    Nothing,
    /// One that is not in force.
    Wrong,
    /// This one.
    Known(Key),
}

impl Visitor {
    /// Finds out who it is, and notes it down for all who come after.
    pub fn meet(request: &ServiceRequest) -> Self {
        let Some(state) = request.app_data::<web::Data<AppState>>() else {
            return Self::default();
        };
        let keys = state.keys.now();
        let key = match bearer(request.headers()) {
            _ if keys.is_open() => Shown::NotNeeded,
            None => Shown::Nothing,
            Some(given) => keys.find(given).cloned().map_or(Shown::Wrong, Shown::Known),
        };
        let peer = request.peer_addr().map(|peer| peer.ip());
        let trusted = &state.settings.trusted_proxies;
        let visitor = Self {
            address: peer.map(|peer| proxies::client_address(peer, request.headers(), trusted)),
            key,
            asked: Arc::default(),
        };
        request.extensions_mut().insert(visitor.clone());
        visitor
    }

    /// The sender of this request.
    pub fn of(request: &HttpRequest) -> Self {
        let known = request.extensions().get::<Self>().cloned();
        known.unwrap_or_default()
    }

    /// Notes down that the path asks for keys.
    pub fn mark_asked(&self) {
        self.asked.store(true, Ordering::Relaxed);
    }

    /// Whether the path asked for keys.
    pub fn was_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    /// The key's name, for logs and metrics.
    pub fn name(&self) -> Arc<str> {
        self.known()
            .map_or_else(|| ANONYMOUS.into(), |key| Arc::clone(&key.name))
    }

    /// Whom limits count.
    pub fn who(&self) -> Who {
        match (self.known(), self.address) {
            (Some(key), _) => Who::Key(Arc::clone(&key.id)),
            (None, Some(address)) => Who::at(address),
            (None, None) => Who::Others,
        }
    }

    /// Whom others take turns with.
    pub fn client(&self) -> Client {
        match self.who() {
            Who::Key(id) => Client::new(id),
            Who::Address(address) => Client::new(address.to_string()),
            Who::Others => Client::new(""),
        }
    }

    /// Who may hear what others hear that sent the same: all with one key; where there are no keys, all.
    pub fn owner(&self) -> Client {
        Client::new(
            self.known()
                .map_or_else(|| "everybody".into(), |key| Arc::clone(&key.id)),
        )
    }

    /// How urgent its work is.
    pub fn priority(&self) -> Priority {
        self.known()
            .map_or_else(Priority::default, |key| key.priority)
    }

    /// The audio of a day that its key may have transcribed, where that has an allowance of its own.
    pub fn own_allowance(&self) -> Option<Duration> {
        let seconds = self.known()?.audio_seconds_per_day?;
        Some(Duration::from_secs_f64(seconds))
    }

    fn known(&self) -> Option<&Key> {
        match &self.key {
            Shown::Known(key) => Some(key),
            Shown::NotNeeded | Shown::Nothing | Shown::Wrong => None,
        }
    }
}

/// The key of a request. One that is empty is none: clients that have no key send it so.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let header = headers.get(AUTHORIZATION)?;
    // What is no text is a wrong key.
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
    fn a_key_is_read_as_clients_write_it_and_an_empty_one_is_none() {
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
    fn a_key_counts_by_its_name_and_without_one_the_address_does() {
        let address = "2001:db8::1".parse().ok();
        let mut visitor = Visitor {
            address,
            ..Visitor::default()
        };
        assert_eq!(&*visitor.name(), ANONYMOUS);
        assert_eq!(visitor.client(), Client::new("2001:db8::"));
        assert_eq!(visitor.owner(), Client::new("everybody"));
        let mut key = Key::new("laptop", "k");
        key.priority = Priority::Low;
        visitor.key = Shown::Known(key);
        assert_eq!(&*visitor.name(), "laptop");
        assert_eq!(visitor.who(), Who::Key("laptop".into()));
        assert_eq!(visitor.client(), Client::new("laptop"));
        assert_eq!(visitor.owner(), Client::new("laptop"));
        assert_eq!(visitor.priority(), Priority::Low);
        // One without a name counts by itself, wherever it stands.
        let key = Key::unnamed(1, "k");
        visitor.key = Shown::Known(key.clone());
        assert_eq!(&*visitor.name(), "key-1");
        assert_eq!(visitor.who(), Who::Key(Arc::clone(&key.id)));
        assert_eq!(visitor.client(), Client::new(Arc::clone(&key.id)));
        assert_eq!(visitor.owner(), Client::new(key.id));
    }
}
