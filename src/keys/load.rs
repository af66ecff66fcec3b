//! Loads the keys of `API_KEYS` and `API_KEYS_FILE`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use thiserror::Error;
use tracing::warn;

use super::file::{self, Line};
use super::{Key, Keys};
use crate::settings::{Secret, Settings};

/// Shorter keys cause a warning, since they can be guessed.
pub const SHORTEST_GOOD_KEY: usize = 16;

/// Why the keys are unusable: one line that contains no key.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum KeysError {
    /// The file is unreadable or invalid.
    #[error("API_KEYS_FILE: {0}")]
    File(String),
    /// The list is invalid.
    #[error("API_KEYS: {0}")]
    List(String),
    /// A reload found no key although the server has keys.
    #[error("neither API_KEYS nor API_KEYS_FILE has a key now; removing all keys needs a restart")]
    WouldOpen,
}

/// Loads all keys. Without either setting there are none, and the server is open.
///
/// # Errors
/// The first problem.
pub fn load(settings: &Settings) -> Result<Keys, KeysError> {
    let listed = listed(&settings.api_keys)?;
    let path = settings.api_keys_file.as_deref();
    let of_file = path.map_or(Ok(Vec::new()), file::read);
    let of_file = of_file.map_err(KeysError::File)?;
    let (mut names, mut texts) = (BTreeSet::new(), BTreeSet::new());
    let mut keys = Vec::new();
    for line in listed.into_iter().chain(of_file) {
        let name = line.key.name.clone();
        if !names.insert(name.clone()) {
            return Err(KeysError::File(format!("the name {name} occurs twice")));
        }
        if !texts.insert(line.text) {
            let message = format!("the key of {name} has another name as well");
            return Err(KeysError::File(message));
        }
        keys.push(line.key);
    }
    Ok(Keys(keys))
}

/// The keys of the list, named by position. A repeated key counts once.
fn listed(texts: &[Secret]) -> Result<Vec<Line>, KeysError> {
    let mut seen = BTreeSet::new();
    let mut lines = Vec::new();
    for (index, text) in texts.iter().enumerate() {
        file::check_key(text).map_err(KeysError::List)?;
        if seen.insert(&**text) {
            lines.push(Line {
                key: Key::unnamed(index + 1, text),
                text: text.to_string(),
            });
        }
    }
    Ok(lines)
}

/// The first configured key, for a client of a server with these settings.
pub fn plain_key(settings: &Settings) -> Option<String> {
    let of_file = || {
        let lines = file::read(settings.api_keys_file.as_deref()?).ok()?;
        lines.into_iter().next().map(|line| line.text)
    };
    let listed = settings.api_keys.first().cloned();
    listed.map(Secret::reveal).or_else(of_file)
}

/// What is weak about keys that are valid.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Weaknesses {
    /// Names of the keys that can be guessed because they are short.
    pub short: Vec<String>,
    /// The file of keys, if every user of the machine can read it.
    pub readable_file: Option<PathBuf>,
}

/// Finds short keys and a file that every user can read.
pub fn weaknesses(settings: &Settings) -> Weaknesses {
    let listed = listed(&settings.api_keys).unwrap_or_default();
    let path = settings.api_keys_file.as_deref();
    let of_file = path.and_then(|path| file::read(path).ok());
    let lines = listed.iter().chain(of_file.iter().flatten());
    let short = lines.filter(|line| line.text.len() < SHORTEST_GOOD_KEY);
    Weaknesses {
        short: short.map(|line| line.key.name.to_string()).collect(),
        readable_file: path
            .filter(|path| is_world_readable(path))
            .map(Path::to_path_buf),
    }
}

/// Logs the weaknesses of the keys.
pub(super) fn warn_of(settings: &Settings) {
    let Weaknesses {
        short,
        readable_file,
    } = weaknesses(settings);
    if !short.is_empty() {
        warn!(
            keys = short.join(","),
            "keys with fewer than {SHORTEST_GOOD_KEY} characters can be guessed"
        );
    }
    if let Some(path) = readable_file {
        warn!(file = %path.display(), "every user of this machine can read the file of keys");
    }
}

fn is_world_readable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    let metadata = path.metadata();
    metadata.is_ok_and(|metadata| metadata.permissions().mode() & 0o004 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(list: &[&str], file: Option<&str>) -> (tempfile::TempDir, Settings) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("keys");
        if let Some(text) = file {
            std::fs::write(&path, text).expect("writes");
        }
        let mut settings = Settings::default();
        settings.api_keys = list.iter().map(|key| Secret::from(*key)).collect();
        settings.api_keys_file = file.map(|_| path);
        (folder, settings)
    }

    #[test]
    fn keys_of_both_sources_are_valid_and_unnamed_keys_get_names() {
        let (_folder, settings) = settings(&["one", "two", "one"], Some("laptop three\n"));
        let keys = load(&settings).expect("loads");
        let name = |key| keys.find(key).map(|key| key.name.to_string());
        assert_eq!(name("one").as_deref(), Some("key-1"));
        assert_eq!(name("two").as_deref(), Some("key-2"));
        assert_eq!(name("three").as_deref(), Some("laptop"));
        assert_eq!(keys.names().count(), 3);
        assert_eq!(plain_key(&settings).as_deref(), Some("one"));
    }

    #[test]
    fn a_key_keeps_its_id_when_its_position_in_the_list_changes() {
        let of = |list: &[&str], key: &str| {
            let (_folder, settings) = settings(list, None);
            let keys = load(&settings).expect("loads");
            keys.find(key).expect("it is in force").clone()
        };
        let (alice, bob) = (of(&["alice", "bob"], "alice"), of(&["alice", "bob"], "bob"));
        let alone = of(&["bob"], "bob");
        assert_eq!(alone.name, alice.name);
        assert_eq!(alone.id, bob.id);
        assert_ne!(alone.id, alice.id);
        assert!(!alone.id.contains("bob"));
    }

    #[test]
    fn a_repeated_name_or_key_is_rejected_without_quoting_the_key() {
        for (list, file) in [
            (&[][..], "a sesame1\na sesame2\n"),
            (&[], "a sesame1\nb sesame1\n"),
            (&["sesame1"], "a sesame1\n"),
        ] {
            let (_folder, settings) = settings(list, Some(file));
            let error = load(&settings).expect_err("rejected").to_string();
            assert!(error.starts_with("API_KEYS_FILE: "), "{error}");
            assert!(!error.contains("sesame"), "{error}");
        }
        let (_folder, settings) = settings(&["s\u{e9}same"], None);
        assert!(matches!(load(&settings), Err(KeysError::List(_))));
    }

    #[test]
    fn a_server_without_keys_is_open_and_a_missing_file_is_an_error() {
        let (_folder, open) = settings(&[], None);
        assert!(load(&open).expect("loads").is_open());
        let (folder, mut closed) = settings(&[], None);
        closed.api_keys_file = Some(folder.path().join("nowhere"));
        assert!(matches!(load(&closed), Err(KeysError::File(_))));
        closed.api_keys_file = Some(folder.path().to_owned());
        assert!(matches!(load(&closed), Err(KeysError::File(_))));
    }
}
