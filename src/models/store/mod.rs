//! The models folder and the operations on it.

use std::path::{Path, PathBuf};

use crate::models::catalogue::{self, file_name};
use crate::models::compute::ComputeType;
use crate::models::ctranslate2::import::Ct2Model;
use crate::models::error::ModelError;
use crate::models::files::{self, ModelLock};
use crate::models::ggml::{ElementType, GgmlFile};
use crate::models::progress::Progress;
use crate::models::sources::{FetchError, Source};
use derive::{is_import_of, not_convertible, write_conversion};
use locate::Located;

mod derive;
pub(super) mod inspect;
pub(super) mod locate;
pub(super) mod start_time;
pub(super) mod voice_activity;

/// A folder of ggml files, the conversions made from them, and the sources of more.
///
/// Cheap to clone. Several processes may use one folder at the same time.
#[derive(Debug, Clone)]
pub struct ModelStore {
    dir: PathBuf,
    source: Source,
}

/// A model that is ready to load: its file is complete and well-formed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedModel {
    /// Canonical catalogue name, or a short name of the file or folder.
    pub name: String,
    /// The ggml file.
    pub path: PathBuf,
    /// Whether it supports languages other than English (and can translate into English).
    pub multilingual: bool,
    /// Size of the file in bytes.
    pub size_bytes: u64,
}

/// A model on disk as [`ModelStore::look_up`] finds it: complete and well-formed, perhaps not yet converted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundModel {
    /// Canonical catalogue name, or a short name of the file or folder.
    pub name: String,
    /// The ggml file or the CTranslate2 folder.
    pub path: PathBuf,
    /// Size in bytes of the file with the weights.
    pub size_bytes: u64,
    /// Whether [`ModelStore::resolve`] makes a ggml file from it.
    pub is_source: bool,
}

impl ModelStore {
    /// A store in `dir`, which need not exist yet. The environment may name a mirror of the model files
    /// (`UTTERA_MODEL_MIRROR`: an HTTPS address or a folder); its files must have the published checksums.
    pub fn new(dir: PathBuf) -> Self {
        let mirror = std::env::var("UTTERA_MODEL_MIRROR")
            .ok()
            .filter(|place| !place.is_empty());
        let source = mirror.map_or(Source::Official, |place| Source::mirror(&place));
        Self { dir, source }
    }

    /// Takes ggml files from `base` (`<base>/ggml-<name>.bin`), an address or a folder, instead of the
    /// official address.
    #[must_use]
    pub fn with_mirror(mut self, base: &str) -> Self {
        self.source = Source::mirror(base);
        self
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Turns a name, a ggml file or a CTranslate2 folder into a checked ggml file with weights of the wanted
    /// type (`None`: as they are). Imports and converts if necessary and keeps the result; never uses the
    /// network. Blocks: up to minutes for the first conversion of a large model.
    ///
    /// Quantised weights are used as they are, whatever `compute` is.
    pub fn resolve(
        &self,
        model: &str,
        compute: Option<ComputeType>,
    ) -> Result<ResolvedModel, ModelError> {
        match locate::locate(&self.dir, model)? {
            Located::File { name, path } => self.resolve_file(name, &path, compute),
            Located::Folder { name, path } => self.resolve_folder(name, &path, compute),
            Located::Variant {
                name,
                base,
                compute,
            } => {
                let file = GgmlFile::open(&base)?;
                let target = self.dir.join(file_name(&name));
                let path = self.converted(&base, &file, compute, target)?;
                ready(name, path)
            }
        }
    }

    /// Finds what [`Self::resolve`] would use and checks its structure. Changes nothing: it neither imports nor
    /// converts.
    pub fn look_up(&self, model: &str) -> Result<FoundModel, ModelError> {
        let (name, path, weights, is_source) = match locate::locate(&self.dir, model)? {
            Located::File { name, path } => (name, path.clone(), path, false),
            Located::Variant { name, base, .. } => (name, base.clone(), base, true),
            Located::Folder { name, path } => {
                Ct2Model::open(&path)?;
                let weights = path.join("model.bin");
                (name, path, weights, true)
            }
        };
        if path == weights {
            GgmlFile::open(&weights)?;
        }
        let metadata = std::fs::metadata(&weights).map_err(ModelError::io("read", &weights))?;
        Ok(FoundModel {
            name,
            path,
            size_bytes: metadata.len(),
            is_source,
        })
    }

    fn resolve_file(
        &self,
        name: String,
        path: &Path,
        compute: Option<ComputeType>,
    ) -> Result<ResolvedModel, ModelError> {
        let file = GgmlFile::open(path)?;
        let Some(compute) = compute.filter(|wanted| ElementType::of(*wanted) != file.weights)
        else {
            return Ok(describe(name, path.to_owned(), &file));
        };
        if file.is_quantised() {
            tracing::warn!(
                model = name,
                weights = file.weights_name(),
                wanted = %compute,
                "the model is already quantised and is used as it is"
            );
            return Ok(describe(name, path.to_owned(), &file));
        }
        let in_store = path.parent() == Some(&self.dir);
        let key = if in_store {
            name.clone()
        } else {
            locate::cache_key(&name, path)
        };
        let target = self
            .dir
            .join(file_name(&format!("{key}-{}", compute.file_suffix())));
        let path = self.converted(path, &file, compute, target)?;
        ready(name, path)
    }

    fn resolve_folder(
        &self,
        name: String,
        folder: &Path,
        compute: Option<ComputeType>,
    ) -> Result<ResolvedModel, ModelError> {
        let key = locate::cache_key(&name, folder);
        // Only a folder with float32 weights gains from a float32 import.
        let single = compute == Some(ComputeType::Float32) && Ct2Model::open(folder)?.is_float32();
        let (weights, suffix) = if single {
            (ElementType::F32, "-f32")
        } else {
            (ElementType::F16, "")
        };
        let target = self.dir.join(file_name(&format!("{key}{suffix}")));
        self.imported(folder, &target, weights)?;
        let resolved = self.resolve_file(key, &target, compute)?;
        Ok(ResolvedModel { name, ..resolved })
    }

    /// Like [`Self::resolve`], but pulls a catalogue model that is not on disk.
    pub async fn ensure(
        &self,
        model: &str,
        compute: Option<ComputeType>,
        progress: &dyn Progress,
    ) -> Result<ResolvedModel, ModelError> {
        let missing = match self.resolve_in_background(model, compute).await {
            Err(error @ ModelError::NotFound { .. }) => error,
            result => return result,
        };
        let entry = catalogue::find(model).ok_or(missing)?;
        match self.pull(entry.name, progress).await {
            Ok(_) => {}
            Err(offline @ ModelError::Offline { .. }) => {
                // A mirror may hold the float model that the variant is made from.
                let (base, _) = locate::split_variant(entry.name).ok_or(offline)?;
                self.pull(base, progress).await?;
            }
            Err(error) => return Err(error),
        }
        self.resolve_in_background(model, compute).await
    }

    async fn resolve_in_background(
        &self,
        model: &str,
        compute: Option<ComputeType>,
    ) -> Result<ResolvedModel, ModelError> {
        let (store, model) = (self.clone(), model.to_owned());
        in_background(move || store.resolve(&model, compute)).await
    }

    /// Fetches a catalogue model unless a well-formed file exists; returns the file.
    pub async fn pull(&self, name: &str, progress: &dyn Progress) -> Result<PathBuf, ModelError> {
        let entry = catalogue::require(name)?;
        let target = self.dir.join(entry.file_name());
        let _lock = ModelLock::take(&self.dir, entry.name).await?;
        let there = target.clone();
        if in_background(move || GgmlFile::open(&there)).await.is_ok() {
            return Ok(target);
        }
        files::sweep(&self.dir);
        files::require_space(&self.dir, entry.size_bytes())?;
        let fetched = self.source.fetch(entry, &self.dir, progress).await;
        fetched.map_err(|error| match error {
            FetchError::Unavailable(reason) => {
                self.offline(entry.name, entry.file_name(), vec![reason])
            }
            FetchError::Fatal(error) => error,
        })
    }

    /// The error for a file that no source delivered.
    fn offline(&self, name: &str, file: String, reasons: Vec<String>) -> ModelError {
        ModelError::Offline {
            name: name.to_owned(),
            file: self.dir.join(file),
            reasons,
        }
    }

    /// Converts a CTranslate2 folder into the store, as `ggml-<name>.bin` with 16-bit weights, and returns
    /// that file. The name is the folder's unless given. Blocks for seconds.
    pub fn import(&self, folder: &Path, name: Option<&str>) -> Result<PathBuf, ModelError> {
        let name = match name {
            Some(name) if locate::is_file_name_part(name) => catalogue::canonical(name).to_owned(),
            Some(name) => {
                return Err(ModelError::BadName {
                    name: name.to_owned(),
                });
            }
            None => catalogue::canonical(&locate::name_of(folder)).to_owned(),
        };
        let target = self.dir.join(file_name(&name));
        if target.exists() && !is_import_of(&target, folder) {
            return Err(ModelError::Exists { path: target });
        }
        self.imported(folder, &target, ElementType::F16)?;
        Ok(target)
    }

    /// Converts a model to another number format, into the store or to `output`.
    pub fn convert(
        &self,
        model: &str,
        compute: ComputeType,
        output: Option<&Path>,
    ) -> Result<PathBuf, ModelError> {
        let resolved = self.resolve(model, None)?;
        let file = GgmlFile::open(&resolved.path)?;
        if let Some(output) = output {
            if output.exists() {
                return Err(ModelError::Exists {
                    path: output.to_owned(),
                });
            }
            write_conversion(&resolved.path, &file, compute, output)?;
            return Ok(output.to_owned());
        }
        if file.is_quantised() && ElementType::of(compute) != file.weights {
            return Err(not_convertible(&resolved.path, &file, compute));
        }
        Ok(self.resolve(model, Some(compute))?.path)
    }
}

/// Runs blocking work off the runtime's threads.
async fn in_background<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ModelError> + Send + 'static,
) -> Result<T, ModelError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(ModelError::TaskFailed)?
}

fn describe(name: String, path: PathBuf, file: &GgmlFile) -> ResolvedModel {
    let multilingual = file.dimensions.is_multilingual();
    ResolvedModel {
        name,
        path,
        multilingual,
        size_bytes: file.size_bytes,
    }
}

fn ready(name: String, path: PathBuf) -> Result<ResolvedModel, ModelError> {
    let file = GgmlFile::open(&path)?;
    Ok(describe(name, path, &file))
}
