//! Files derived from others: imports and conversions, which the store keeps until their source changes.

use std::fs;
use std::path::{Path, PathBuf};

use super::ModelStore;
use super::locate;
use crate::models::compute::ComputeType;
use crate::models::ctranslate2::import::Ct2Model;
use crate::models::error::ModelError;
use crate::models::files::{self, ModelLock, SourceStamp};
use crate::models::ggml::convert;
use crate::models::ggml::{ElementType, GgmlFile};
use crate::models::reader::BoundedReader;
use crate::models::sniff;

impl ModelStore {
    /// Ensures that `target` is the import of `folder` in its present state.
    pub(super) fn imported(
        &self,
        folder: &Path,
        target: &Path,
        weights: ElementType,
    ) -> Result<(), ModelError> {
        sniff::require_ctranslate2_folder(folder)?;
        if is_fresh(target, folder, weights) {
            return Ok(());
        }
        let _lock = ModelLock::take_blocking(self.dir(), &locate::name_of(target))?;
        if is_fresh(target, folder, weights) {
            return Ok(());
        }
        tracing::info!(folder = %folder.display(), "importing a CTranslate2 model");
        files::sweep(self.dir());
        write_import(folder, target, weights)
    }

    /// Ensures that `target` is `source` with weights of type `compute`.
    pub(super) fn converted(
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
        let _lock = ModelLock::take_blocking(self.dir(), &locate::name_of(&target))?;
        if is_fresh(&target, source, weights) {
            return Ok(target);
        }
        files::sweep(self.dir());
        write_conversion(source, file, compute, &target)?;
        Ok(target)
    }
}

/// Whether `target` is well-formed, of the wanted type, and not older than its source. A file without a
/// record was copied there, for example a published quantised model, and counts as fresh.
fn is_fresh(target: &Path, source: &Path, weights: ElementType) -> bool {
    if !GgmlFile::open(target).is_ok_and(|file| file.weights == weights) {
        return false;
    }
    let source = if source.is_dir() {
        source.join("model.bin")
    } else {
        source.to_owned()
    };
    match files::read_record(target).and_then(|record| record.source) {
        Some(stamp) => SourceStamp::of(&source).is_ok_and(|now| now == stamp),
        None => true,
    }
}

/// Whether `target` was imported from this folder, in whatever state.
pub(super) fn is_import_of(target: &Path, folder: &Path) -> bool {
    let source = fs::canonicalize(folder.join("model.bin")).ok();
    let known = files::read_record(target).and_then(|record| record.source);
    known.is_some_and(|stamp| Some(stamp.path) == source)
}

/// Imports `folder` as `target`.
fn write_import(folder: &Path, target: &Path, weights: ElementType) -> Result<(), ModelError> {
    let path = folder.join("model.bin");
    let stamp = SourceStamp::of(&path)?;
    let mut model = Ct2Model::open(folder)?;
    files::publish(target, "import", Some(stamp), |out| {
        model
            .write(out, weights)
            .map_err(files::blame(&path, target))
    })?;
    GgmlFile::open(target).map(drop)
}

/// Writes `source`, whose table of contents is `file`, with weights of type `compute` as `target`.
pub(super) fn write_conversion(
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

/// The error that says why a conversion is impossible.
pub(super) fn not_convertible(path: &Path, file: &GgmlFile, to: ComputeType) -> ModelError {
    let reason = convert::obstacle(file, ElementType::of(to)).unwrap_or_default();
    ModelError::NotConvertible {
        path: path.to_owned(),
        to,
        reason,
    }
}
