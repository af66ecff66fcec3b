//! A place to import a small model, to be thrown away.

use std::path::PathBuf;

use tempfile::TempDir;
use uttera_stt::models::{ModelError, ModelStore};

use crate::small_model::SmallModel;

/// A store and a folder to import, both to be thrown away.
pub struct Bench {
    pub dir: TempDir,
}

impl Bench {
    pub fn new(model: &SmallModel) -> Self {
        let dir = tempfile::tempdir().unwrap();
        model.write(&dir.path().join("folder")).unwrap();
        Self { dir }
    }

    pub fn folder(&self) -> PathBuf {
        self.dir.path().join("folder")
    }

    pub fn store(&self) -> ModelStore {
        ModelStore::new(self.dir.path().join("store"))
    }

    pub fn import(&self) -> Result<PathBuf, ModelError> {
        self.store().import(&self.folder(), Some("small-test"))
    }
}
