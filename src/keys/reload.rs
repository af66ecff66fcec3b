//! New keys while the server runs: all sources are read again, and what was read replaces what was in
//! force, as a whole or not at all.

use std::sync::Arc;

use tokio::sync::Notify;
use tracing::{error, info, warn};

use super::{Keyring, KeysError, load, load::warn_of};
use crate::metrics;
use crate::settings::{Loaded, SettingsError};

/// Reads the settings again, from where they came at the start.
pub type Reload = Arc<dyn Fn() -> Result<Loaded, SettingsError> + Send + Sync>;

/// Asked for new keys, and reading them by itself: a slow disk holds nobody up.
#[derive(Clone, Debug)]
pub struct Reloader(Arc<Notify>);

impl Reloader {
    /// Begins to listen; `at_start` is what the server started with.
    pub fn start(keyring: Keyring, at_start: &Loaded, reload: Reload) -> Self {
        warn_of(&at_start.settings);
        let asked = Arc::new(Notify::new());
        let heard = Arc::clone(&asked);
        let at_start = Arc::new(AtStart {
            in_force: at_start.in_force.clone(),
            warnings: at_start.warnings.clone(),
        });
        tokio::spawn(async move {
            loop {
                // One that comes while files are read is not lost: they are read once more.
                heard.notified().await;
                let (keyring, reload, at_start) =
                    (keyring.clone(), Arc::clone(&reload), Arc::clone(&at_start));
                let read = move || read_again(&keyring, &reload, &at_start);
                if tokio::task::spawn_blocking(read).await.is_err() {
                    error!("the keys could not be read; those in force stay");
                }
            }
        });
        Self(asked)
    }

    /// Has the keys read again, soon.
    pub fn ask(&self) {
        self.0.notify_one();
    }
}

/// What is known already when the settings are read again.
#[derive(Default)]
struct AtStart {
    in_force: Vec<(&'static str, String)>,
    warnings: Vec<String>,
}

fn read_again(keyring: &Keyring, reload: &Reload, at_start: &AtStart) {
    let refuse = |reason: &dyn std::fmt::Display| {
        error!(%reason, "the keys were not exchanged; those in force stay");
    };
    let loaded = match reload() {
        Ok(loaded) => loaded,
        Err(error) => return refuse(&error),
    };
    let is_new = |warning: &&String| !at_start.warnings.contains(warning);
    for warning in loaded.warnings.iter().filter(is_new) {
        warn!("{warning}");
    }
    let keys = load(&loaded.settings).and_then(|keys| {
        if keys.is_open() && !keyring.now().is_open() {
            return Err(KeysError::WouldOpen);
        }
        Ok(keys)
    });
    let keys = match keys {
        Ok(keys) => keys,
        Err(error) => return refuse(&error),
    };
    warn_of(&loaded.settings);
    let names: Vec<String> = keys.names().map(ToString::to_string).collect();
    metrics::keys::register(names.iter().map(String::as_str));
    keyring.exchange(keys);
    // Told when it is so: whoever reads it may rely on it.
    info!(keys = names.join(","), "the keys were exchanged");
    let changed = (loaded.in_force.iter().zip(&at_start.in_force))
        .filter(|(now, then)| now != then)
        .map(|(now, _)| now.0)
        .filter(|name| !matches!(*name, "API_KEYS" | "API_KEYS_FILE"));
    let changed: Vec<&str> = changed.collect();
    if !changed.is_empty() {
        warn!(
            settings = changed.join(","),
            "these settings have changed as well; they need a restart"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::Keys;
    use super::*;
    use crate::settings::{Settings, Sources};

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

    fn loaded(keys: &'static str) -> Loaded {
        reload(Some(keys))().expect("loads")
    }

    #[test]
    fn good_keys_replace_all_and_what_is_wrong_or_empty_replaces_none() {
        let keyring = Keyring::new(load(&loaded("old").settings).expect("keys"));
        for (again, expected) in [
            (Some("old,new"), [true, true]),
            (None, [true, true]),
            (Some(""), [true, true]),
            (Some(" , "), [true, true]),
            (Some("new"), [false, true]),
        ] {
            read_again(&keyring, &reload(again), &AtStart::default());
            let keys = keyring.now();
            let there = ["old", "new"].map(|key| keys.find(key).is_some());
            assert_eq!(there, expected, "{again:?}");
        }
    }

    #[test]
    fn an_open_server_may_be_closed() {
        let keyring = Keyring::new(Keys::default());
        read_again(&keyring, &reload(Some("")), &AtStart::default());
        assert!(keyring.now().is_open());
        read_again(&keyring, &reload(Some("new")), &AtStart::default());
        assert!(!keyring.now().is_open());
    }

    #[tokio::test]
    async fn being_asked_exchanges_the_keys() {
        let start = loaded("old");
        let keyring = Keyring::new(load(&start.settings).expect("keys"));
        let reloader = Reloader::start(keyring.clone(), &start, reload(Some("new")));
        reloader.ask();
        let exchanged = async {
            while keyring.now().find("new").is_none() {
                tokio::task::yield_now().await;
            }
        };
        let limit = std::time::Duration::from_secs(60);
        tokio::time::timeout(limit, exchanged).await.expect("soon");
    }
}
