//! Lists and verifies the models in the store.

use std::fs;
use std::path::PathBuf;

use super::{ModelStore, ResolvedModel};
use crate::models::catalogue::{self, CATALOGUE, CatalogueEntry};
use crate::models::checksum::sha256_file;
use crate::models::error::ModelError;
use crate::models::files;

/// The meaning of a verified model's checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is the published file, byte for byte.
    Published,
    /// It is unchanged since this program imported or converted it.
    AsWritten,
    /// It is well-formed; its checksum is unknown.
    WellFormed,
    /// It is complete and has a catalogue name, but is not the published file, and no record tells its
    /// origin: for example, it was imported elsewhere and copied here.
    Unrecorded,
}

/// A model that passed verification.
#[derive(Debug, Clone)]
pub struct Verified {
    /// Name as resolved.
    pub name: String,
    /// The file.
    pub path: PathBuf,
    /// SHA-256 in hexadecimal.
    pub sha256: String,
    /// The meaning of the checksum.
    pub verdict: Verdict,
}

/// A ggml file in the store.
#[derive(Debug, Clone)]
pub struct LocalModel {
    /// Name between `ggml-` and `.bin`.
    pub name: String,
    /// The file.
    pub path: PathBuf,
    /// Size in bytes.
    pub size_bytes: u64,
}

impl ModelStore {
    /// Checks a model on disk: its structure, and its checksum if one is known. Blocks for seconds.
    pub fn verify(&self, model: &str) -> Result<Verified, ModelError> {
        let ResolvedModel { name, path, .. } = self.resolve(model, None)?;
        let sha256 = sha256_file(&path)?;
        let entry = catalogue::find(&name).filter(|_| path.parent() == Some(self.dir()));
        let verdict = match (entry, files::read_record(&path)) {
            (Some(entry), _) if entry.has_checksum(&sha256) => Verdict::Published,
            (_, Some(record)) if record.sha256 == sha256 => Verdict::AsWritten,
            (_, Some(record)) => {
                return Err(ModelError::Checksum {
                    path,
                    expected: record.sha256,
                    found: sha256,
                });
            }
            (Some(_), None) => Verdict::Unrecorded,
            (None, None) => Verdict::WellFormed,
        };
        Ok(Verified {
            name,
            path,
            sha256,
            verdict,
        })
    }

    /// The ggml files in the store, by name.
    pub fn local(&self) -> Result<Vec<LocalModel>, ModelError> {
        let entries = match fs::read_dir(self.dir()) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(ModelError::io("read the folder", self.dir())(error)),
        };
        let mut models: Vec<LocalModel> = entries
            .flatten()
            .filter_map(|entry| {
                let file = entry.file_name().into_string().ok()?;
                let name = file.strip_prefix("ggml-")?.strip_suffix(".bin")?.to_owned();
                let size_bytes = entry.metadata().ok().filter(fs::Metadata::is_file)?.len();
                Some(LocalModel {
                    name,
                    path: entry.path(),
                    size_bytes,
                })
            })
            .collect();
        models.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(models)
    }

    /// All models of the catalogue, with their file if it is on disk.
    pub fn catalogue(&self) -> Vec<(&'static CatalogueEntry, Option<PathBuf>)> {
        CATALOGUE
            .iter()
            .map(|entry| {
                let path = self.dir().join(entry.file_name());
                (entry, path.is_file().then_some(path))
            })
            .collect()
    }
}
