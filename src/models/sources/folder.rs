//! A folder with the published files, for example on a network share.

use std::fs;
use std::path::{Path, PathBuf};

use super::FetchError;
use crate::models::catalogue::CatalogueEntry;
use crate::models::checksum::sha256_file;
use crate::models::error::ModelError;
use crate::models::files;
use crate::models::progress::{Finish, Progress};

/// Copies a model's file from `folder` into `dir`. The caller holds the model's lock.
pub(crate) async fn copy(
    folder: &Path,
    entry: &CatalogueEntry,
    dir: &Path,
    progress: &dyn Progress,
) -> Result<PathBuf, FetchError> {
    progress.start(entry.name, Some(entry.size_bytes()));
    let _finish = Finish(progress);
    let (source, target) = (folder.join(entry.file_name()), dir.join(entry.file_name()));
    let entry = entry.clone();
    let copied = move || copy_file(&source, &entry, &target);
    (tokio::task::spawn_blocking(copied).await)
        .map_err(|error| FetchError::Fatal(ModelError::TaskFailed(error)))?
}

fn copy_file(source: &Path, entry: &CatalogueEntry, target: &Path) -> Result<PathBuf, FetchError> {
    let size = size_of(source).map_err(FetchError::Unavailable)?;
    if !entry.published.iter().any(|file| file.size_bytes == size) {
        let place = source.display();
        let reason = format!("{place}: it has {size} bytes, the published file does not");
        return Err(FetchError::Unavailable(reason));
    }
    let part = target.with_extension("bin.part");
    fs::copy(source, &part).map_err(ModelError::io("copy", source))?;
    let found = sha256_file(&part)?;
    if !entry.has_checksum(&found) {
        let _ = fs::remove_file(&part);
        return Err(FetchError::Fatal(ModelError::Checksum {
            path: source.to_owned(),
            expected: entry.checksums(),
            found,
        }));
    }
    files::adopt(&part, target, found)?;
    Ok(target.to_owned())
}

/// Reads a file of exactly `size` bytes. The error is a line of the offline message.
pub(crate) async fn read_small(path: &Path, size: u64) -> Result<Vec<u8>, String> {
    if size_of(path)? != size {
        return Err(format!("{}: it is not the published file", path.display()));
    }
    let bytes = tokio::fs::read(path).await;
    bytes.map_err(|error| format!("{}: {error}", path.display()))
}

fn size_of(path: &Path) -> Result<u64, String> {
    let metadata = fs::metadata(path);
    metadata
        .map(|metadata| metadata.len())
        .map_err(|error| format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;
    use crate::models::catalogue::{Published, find};
    use crate::models::checksum::hex;
    use crate::models::progress::Silent;

    /// A catalogue entry whose published file is `file`.
    fn entry_for(file: &[u8]) -> CatalogueEntry {
        let published = vec![Published {
            size_bytes: file.len() as u64,
            sha256: hex(&Sha256::digest(file)).leak(),
        }];
        CatalogueEntry {
            published: published.leak(),
            ..*find("tiny").unwrap()
        }
    }

    /// Copies from a folder that holds `there` as the model whose published file is `published`.
    async fn copied(
        published: &[u8],
        there: Option<&[u8]>,
    ) -> (tempfile::TempDir, Result<PathBuf, FetchError>) {
        let dir = tempfile::tempdir().unwrap();
        let (mirror, models) = (dir.path().join("mirror"), dir.path().join("models"));
        fs::create_dir_all(&mirror).unwrap();
        fs::create_dir_all(&models).unwrap();
        if let Some(bytes) = there {
            fs::write(mirror.join("ggml-tiny.bin"), bytes).unwrap();
        }
        let result = copy(&mirror, &entry_for(published), &models, &Silent).await;
        (dir, result)
    }

    #[tokio::test]
    async fn a_published_file_is_copied_with_a_record_of_its_checksum() {
        let (dir, result) = copied(b"the model", Some(b"the model")).await;
        let path = result.unwrap();
        assert_eq!(path, dir.path().join("models/ggml-tiny.bin"));
        assert_eq!(fs::read(&path).unwrap(), b"the model");
        let record = files::read_record(&path).unwrap();
        assert_eq!(record.sha256, hex(&Sha256::digest(b"the model")));
    }

    #[tokio::test]
    async fn other_bytes_are_refused_and_leave_nothing() {
        let (dir, result) = copied(b"the model", Some(b"the m0del")).await;
        let error = result.unwrap_err();
        assert!(
            matches!(error, FetchError::Fatal(ModelError::Checksum { .. })),
            "{error:?}"
        );
        let left = fs::read_dir(dir.path().join("models")).unwrap().count();
        assert_eq!(left, 0);
    }

    #[tokio::test]
    async fn a_missing_file_and_one_of_another_size_are_reasons() {
        for there in [None, Some(b"longer than that".as_slice())] {
            let (_dir, result) = copied(b"the model", there).await;
            let error = result.unwrap_err();
            assert!(
                matches!(&error, FetchError::Unavailable(reason) if reason.contains("ggml-tiny.bin")),
                "{error:?}"
            );
        }
    }

    #[tokio::test]
    async fn a_small_file_must_have_its_exact_size() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("weights");
        assert!(read_small(&path, 3).await.is_err());
        fs::write(&path, b"abc").unwrap();
        assert_eq!(read_small(&path, 3).await.unwrap(), b"abc");
        assert!(read_small(&path, 4).await.is_err());
    }
}
