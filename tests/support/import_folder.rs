//! A temporary folder with a small model to import, and a store.

use std::path::PathBuf;

use tempfile::TempDir;
use uttera_stt::models::{ModelError, ModelStore};

use crate::small_model::SmallModel;

/// A store and a folder to import, both temporary.
pub struct ImportFolder {
    /// Contains the folder to import and the store.
    pub dir: TempDir,
}

impl ImportFolder {
    /// Writes the model into the folder to import.
    pub fn new(model: &SmallModel) -> Self {
        let dir = tempfile::tempdir().unwrap();
        model.write(&dir.path().join("folder")).unwrap();
        Self { dir }
    }

    /// The folder to import.
    pub fn folder(&self) -> PathBuf {
        self.dir.path().join("folder")
    }

    /// The store.
    pub fn store(&self) -> ModelStore {
        ModelStore::new(self.dir.path().join("store"))
    }

    /// Imports the folder as `small-test`.
    pub fn import(&self) -> Result<PathBuf, ModelError> {
        self.store().import(&self.folder(), Some("small-test"))
    }
}
