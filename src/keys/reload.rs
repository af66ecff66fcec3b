//! Reloading of keys while the server runs: it reads all sources again and replaces all keys, or none
//! if anything is wrong. The allowed networks and the certificates are reloaded at the same time, each on its own.

use std::sync::Arc;

use tokio::sync::Notify;
use tracing::{error, info, warn};

use super::{Keyring, KeysError, load, load::warn_of};
use crate::allow_list::AllowList;
use crate::metrics;
use crate::notify;
use crate::settings::{Loaded, Settings, SettingsError};

/// Reads the settings again from the sources of the start.
pub type Reload = Arc<dyn Fn() -> Result<Loaded, SettingsError> + Send + Sync>;

/// Reads other files again that the settings of the start name, and reports by itself.
pub type Further = Box<dyn Fn() + Send + Sync>;

/// Settings whose changes take effect without a restart.
const RELOADED: &[&str] = &["API_KEYS", "API_KEYS_FILE", "ALLOWED_NETWORKS"];

/// Reloads the keys in a background task, so that a slow disk delays no request.
#[derive(Clone, Debug)]
pub struct Reloader(Arc<Notify>);

impl Reloader {
    /// Starts the background task; `at_start` holds the settings that the server started with. `further`: what is
    /// reloaded as well.
    pub fn start(
        keyring: Keyring,
        allow_list: AllowList,
        at_start: &Loaded,
        reload: Reload,
        further: Vec<Further>,
    ) -> Self {
        warn_of(&at_start.settings);
        let notify = Arc::new(Notify::new());
        let requested = Arc::clone(&notify);
        let at_start = Arc::new(AtStart {
            in_force: at_start.in_force.clone(),
            warnings: at_start.warnings.clone(),
        });
        let further = Arc::new(further);
        tokio::spawn(async move {
            loop {
                // A request during a reload is not lost: `Notify` stores it, and the keys are read again.
                requested.notified().await;
                let (keyring, allow_list) = (keyring.clone(), allow_list.clone());
                let (reload, at_start) = (Arc::clone(&reload), Arc::clone(&at_start));
                let further = Arc::clone(&further);
                let read = move || {
                    read_again(&keyring, &allow_list, &reload, &at_start);
                    further.iter().for_each(|reload| reload());
                };
                notify::reloading();
                if tokio::task::spawn_blocking(read).await.is_err() {
                    error!("reloading panicked; what was not reloaded stays in force");
                    metrics::keys::record_reload(false);
                }
                notify::reloaded();
            }
        });
        Self(notify)
    }

    /// Requests a reload.
    pub fn request(&self) {
        self.0.notify_one();
    }
}

/// Settings and warnings of the start, to report only differences at a reload.
#[derive(Default)]
struct AtStart {
    in_force: Vec<(&'static str, String)>,
    warnings: Vec<String>,
}

fn read_again(keyring: &Keyring, allow_list: &AllowList, reload: &Reload, at_start: &AtStart) {
    let reject = |reason: &dyn std::fmt::Display| {
        metrics::keys::record_reload(false);
        error!(%reason, "the keys could not be reloaded; the current keys stay valid");
    };
    let loaded = match reload() {
        Ok(loaded) => loaded,
        Err(error) => return reject(&error),
    };
    let is_new = |warning: &&String| !at_start.warnings.contains(warning);
    for warning in loaded.warnings.iter().filter(is_new) {
        warn!("{warning}");
    }
    replace_networks(allow_list, &loaded.settings);
    let keys = load(&loaded.settings).and_then(|keys| {
        if keys.is_open() && !keyring.now().is_open() {
            return Err(KeysError::WouldOpen);
        }
        Ok(keys)
    });
    let keys = match keys {
        Ok(keys) => keys,
        Err(error) => return reject(&error),
    };
    warn_of(&loaded.settings);
    let names: Vec<String> = keys.names().map(ToString::to_string).collect();
    metrics::keys::register(names.iter().map(String::as_str));
    keyring.exchange(keys);
    metrics::keys::record_reload(true);
    // Logged after the exchange, so that a reader of the log can rely on it.
    info!(keys = names.join(","), "the keys were reloaded");
    let changed = (loaded.in_force.iter().zip(&at_start.in_force))
        .filter(|(now, then)| now != then)
        .map(|(now, _)| now.0)
        .filter(|name| !RELOADED.contains(name));
    let changed: Vec<&str> = changed.collect();
    if !changed.is_empty() {
        warn!(
            settings = changed.join(","),
            "these settings have changed as well; they take effect after a restart"
        );
    }
}

fn replace_networks(allow_list: &AllowList, settings: &Settings) {
    match allow_list.exchange(&settings.allowed_networks) {
        Ok(true) => info!("the allowed networks were reloaded"),
        Ok(false) => {}
        Err(reason) => error!(%reason, "the allowed networks stay as they are"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Keys;
    use super::*;
    use crate::settings::Sources;

    /// Settings with these keys; `None`: settings that cannot be read.
    fn reload(keys: Option<&'static str>) -> Reload {
        Arc::new(move || {
            let keys = keys.ok_or_else(|| SettingsError::File("gone".to_owned()))?;
            let sources = Sources {
                command_line: vec![("API_KEYS".to_owned(), keys.to_owned())],
                ..Sources::default()
            };
            Settings::load(&sources)
        })
    }

    fn everybody() -> AllowList {
        AllowList::new(&[])
    }

    fn loaded(keys: &'static str) -> Loaded {
        reload(Some(keys))().expect("loads")
    }

    #[test]
    fn valid_keys_replace_all_and_invalid_or_empty_ones_replace_none() {
        let keyring = Keyring::new(load(&loaded("old").settings).expect("keys"));
        for (again, expected) in [
            (Some("old,new"), [true, true]),
            (None, [true, true]),
            (Some(""), [true, true]),
            (Some(" , "), [true, true]),
            (Some("new"), [false, true]),
        ] {
            read_again(&keyring, &everybody(), &reload(again), &AtStart::default());
            let keys = keyring.now();
            let there = ["old", "new"].map(|key| keys.find(key).is_some());
            assert_eq!(there, expected, "{again:?}");
        }
    }

    #[test]
    fn an_open_server_can_get_keys() {
        let keyring = Keyring::new(Keys::default());
        read_again(
            &keyring,
            &everybody(),
            &reload(Some("")),
            &AtStart::default(),
        );
        assert!(keyring.now().is_open());
        read_again(
            &keyring,
            &everybody(),
            &reload(Some("new")),
            &AtStart::default(),
        );
        assert!(!keyring.now().is_open());
    }

    #[tokio::test]
    async fn a_request_reloads_the_keys() {
        let start = loaded("old");
        let keyring = Keyring::new(load(&start.settings).expect("keys"));
        let new = reload(Some("new"));
        let reloader = Reloader::start(keyring.clone(), everybody(), &start, new, Vec::new());
        reloader.request();
        let exchanged = async {
            while keyring.now().find("new").is_none() {
                tokio::task::yield_now().await;
            }
        };
        let limit = std::time::Duration::from_secs(60);
        tokio::time::timeout(limit, exchanged).await.expect("soon");
    }
}
