//! Uploads on disk: written as they arrive, limited in total size, removed when they are no longer
//! used, and cleaned up at the next start after a crash.

use std::fs::{File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest, Sha256};
use stt_actors::domain::chunk::AudioSource;
use tempfile::TempPath;
use tokio::io::{AsyncSeekExt, AsyncWriteExt};
use tracing::{info, warn};

use crate::http::reply::error::ApiError;

/// All uploads together may take this many times the space of the largest one.
const CAPACITY_IN_UPLOADS: u64 = 4;
/// The lock file in a folder of uploads, locked by the process that owns the folder.
const LOCK: &str = "lock";

/// A folder of uploads.
#[derive(Clone)]
pub struct UploadStore(Arc<Inner>);

struct Inner {
    folder: PathBuf,
    /// The limit of one upload, in bytes.
    largest: u64,
    /// The limit of all uploads together, in bytes.
    capacity: u64,
    used: AtomicU64,
    /// The system releases the lock when the process ends, however it ends.
    _lock: File,
}

impl Inner {
    fn remove(&self) {
        match std::fs::remove_dir_all(&self.folder) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => warn!(%error, "removing the upload folder failed"),
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.remove();
    }
}

impl UploadStore {
    /// Creates a folder for this process in `parent`, and removes the folders of dead processes.
    /// `largest`: the limit of one upload, in bytes.
    pub fn open(parent: &Path, largest: u64) -> io::Result<Self> {
        create_private(parent)?;
        remove_stale(parent)?;
        let unnamed = tempfile::Builder::new()
            .prefix(".new-")
            .tempdir_in(parent)?;
        let lock = File::create(unnamed.path().join(LOCK))?;
        lock.lock()?;
        // Lock the folder before it gets a name that other processes clean up.
        let folder = parent.join(format!("run-{}", uuid::Uuid::new_v4()));
        std::fs::rename(unnamed.keep(), &folder)?;
        Ok(Self(Arc::new(Inner {
            folder,
            largest,
            capacity: largest.saturating_mul(CAPACITY_IN_UPLOADS),
            used: AtomicU64::new(0),
            _lock: lock,
        })))
    }

    /// Removes the folder even if this store is still in use: for the end of the process, which does
    /// not wait for the server's threads.
    pub fn close(&self) {
        self.0.remove();
    }

    /// The default parent folder: one per user, so that several users can run servers.
    pub fn default_parent() -> PathBuf {
        let user = nix::unistd::getuid();
        std::env::temp_dir().join(format!("uttera-stt-uploads-{user}"))
    }

    /// The folder of this process. A later process removes what is left in it after a crash.
    pub fn folder(&self) -> &Path {
        &self.0.folder
    }

    /// The limit of one upload, in bytes.
    pub fn largest(&self) -> u64 {
        self.0.largest
    }

    /// Bytes that all uploads take now.
    pub fn used(&self) -> u64 {
        self.0.used.load(Ordering::Relaxed)
    }

    /// Begins an upload of at most [`Self::largest`] bytes.
    pub fn begin(&self) -> Result<Upload, ApiError> {
        self.begin_up_to(self.0.largest)
    }

    /// Begins an upload of at most `max_bytes`: for a body that is longer than its audio.
    pub fn begin_up_to(&self, max_bytes: u64) -> Result<Upload, ApiError> {
        let (file, stored) = self.create(max_bytes)?;
        Ok(Upload {
            file: tokio::fs::File::from_std(file),
            stored,
            is_samples: false,
        })
    }

    /// Begins an upload of samples without a header, and adds that of a WAV file: 16 kHz, mono, signed
    /// 16 bit.
    pub async fn begin_samples(&self) -> Result<Upload, ApiError> {
        let mut upload = self.begin_up_to(self.0.largest.saturating_add(WAV_HEADER as u64))?;
        upload.is_samples = true;
        upload.write(&wav_header(0)).await?;
        Ok(upload)
    }

    /// Begins an upload on a thread that may block.
    pub fn begin_blocking(&self) -> Result<BlockingUpload, ApiError> {
        let (file, stored) = self.create(self.0.largest)?;
        Ok(BlockingUpload { file, stored })
    }

    fn create(&self, max_bytes: u64) -> Result<(File, UploadFile), ApiError> {
        let file = tempfile::Builder::new()
            .prefix("upload-")
            .tempfile_in(&self.0.folder)
            .map_err(|error| storage_error(&error))?;
        let (file, path) = file.into_parts();
        let stored = UploadFile {
            path,
            bytes: 0,
            max_bytes,
            digest: Sha256::new(),
            store: Arc::clone(&self.0),
        };
        Ok((file, stored))
    }
}

/// Creates a folder that only this user can read: recordings are private.
fn create_private(parent: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(parent)
}

/// Removes the folders of dead processes, whose lock is free.
fn remove_stale(parent: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(parent)? {
        let entry = entry?;
        if !entry.file_name().to_string_lossy().starts_with("run-") {
            continue;
        }
        let folder = entry.path();
        // A folder without a lock file is being removed by another process.
        let Ok(lock) = File::open(folder.join(LOCK)) else {
            continue;
        };
        match lock.try_lock() {
            Ok(()) => {
                info!(folder = %folder.display(), "removing the uploads of a crashed process");
                std::fs::remove_dir_all(&folder)?;
            }
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
    Ok(())
}

/// An upload in progress.
pub struct Upload {
    file: tokio::fs::File,
    stored: UploadFile,
    /// The file starts with a WAV header, which needs the final length.
    is_samples: bool,
}

/// An upload in progress on a thread that may block.
pub struct BlockingUpload {
    file: File,
    stored: UploadFile,
}

/// A complete upload.
#[derive(Clone, Debug)]
pub struct StoredUpload {
    /// The file. It is removed with the last clone.
    pub source: AudioSource,
    /// The SHA-256 of the uploaded bytes.
    pub digest: [u8; 32],
}

/// A file that is removed, and its space released, on drop.
struct UploadFile {
    path: TempPath,
    bytes: u64,
    max_bytes: u64,
    digest: Sha256,
    store: Arc<Inner>,
}

impl UploadFile {
    /// Counts and hashes bytes that are about to be written.
    ///
    /// # Errors
    /// The upload, or all uploads together, would exceed the limit.
    fn add(&mut self, bytes: &[u8]) -> Result<(), ApiError> {
        let added = bytes.len() as u64;
        if self.bytes + added > self.max_bytes {
            let largest = self.store.largest;
            return Err(ApiError::upload_too_large(self.bytes + added, largest));
        }
        let used = self.store.used.fetch_add(added, Ordering::Relaxed) + added;
        // From here on, drop releases the space, even if the write fails.
        self.bytes += added;
        if used > self.store.capacity {
            warn!(used, "the upload folder is full");
            return Err(ApiError::insufficient_storage());
        }
        self.digest.update(bytes);
        Ok(())
    }

    fn complete(self) -> StoredUpload {
        let path = self.path.to_path_buf();
        let digest = self.digest.clone().finalize().into();
        StoredUpload {
            source: AudioSource::guarded(path, Arc::new(self)),
            digest,
        }
    }
}

impl Drop for UploadFile {
    fn drop(&mut self) {
        self.store.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Upload {
    /// Appends bytes, within the limits.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), ApiError> {
        self.stored.add(bytes)?;
        self.file
            .write_all(bytes)
            .await
            .map_err(|error| storage_error(&error))
    }

    /// Completes the upload.
    pub async fn finish(mut self) -> Result<StoredUpload, ApiError> {
        let finished = async {
            if self.is_samples {
                let bytes = self.stored.bytes - WAV_HEADER as u64;
                self.file.seek(io::SeekFrom::Start(0)).await?;
                self.file.write_all(&wav_header(bytes)).await?;
            }
            self.file.flush().await
        };
        finished.await.map_err(|error| storage_error(&error))?;
        Ok(self.stored.complete())
    }
}

impl BlockingUpload {
    /// Appends bytes, within the limits.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), ApiError> {
        self.stored.add(bytes)?;
        let written = self.file.write_all(bytes);
        written.map_err(|error| storage_error(&error))
    }

    /// Completes the upload.
    pub fn finish(self) -> StoredUpload {
        self.stored.complete()
    }
}

const WAV_HEADER: usize = 44;

/// The header of a WAV file with `bytes` of samples: 16 kHz, mono, signed 16 bit.
fn wav_header(bytes: u64) -> [u8; WAV_HEADER] {
    let rate = stt_actors::domain::chunk::SAMPLE_RATE;
    // Ignore half a sample at the end. Uploads longer than the format allows exceed the upload limit.
    let bytes = u32::try_from(bytes & !1).unwrap_or(u32::MAX);
    let mut header = [0; WAV_HEADER];
    let mut fields = header.as_mut_slice();
    for field in [
        b"RIFF".as_slice(),
        &bytes.saturating_add(36).to_le_bytes(),
        b"WAVEfmt ",
        &16_u32.to_le_bytes(),
        // PCM, one channel.
        &1_u16.to_le_bytes(),
        &1_u16.to_le_bytes(),
        &rate.to_le_bytes(),
        &(2 * rate).to_le_bytes(),
        &2_u16.to_le_bytes(),
        &16_u16.to_le_bytes(),
        b"data",
        &bytes.to_le_bytes(),
    ] {
        // Cannot fail: the fields have 44 bytes.
        let _ = fields.write_all(field);
    }
    header
}

pub fn storage_error(error: &io::Error) -> ApiError {
    warn!(%error, "storing an upload failed");
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            ApiError::insufficient_storage()
        }
        _ => ApiError::internal(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(largest: u64) -> (tempfile::TempDir, UploadStore) {
        let parent = tempfile::tempdir().expect("a folder");
        let store = UploadStore::open(parent.path(), largest).expect("opens");
        (parent, store)
    }

    #[tokio::test]
    async fn an_upload_is_removed_with_its_last_user_and_releases_its_space() {
        let (_parent, store) = store(100);
        let mut upload = store.begin().expect("begins");
        upload.write(b"hello").await.expect("fits");
        let StoredUpload { source, digest } = upload.finish().await.expect("finishes");
        assert_eq!(digest, <[u8; 32]>::from(Sha256::digest(b"hello")));
        assert_eq!(std::fs::read(source.path()).expect("is there"), b"hello");
        let (path, again) = (source.path().to_path_buf(), source.clone());
        drop(source);
        assert!(path.exists());
        drop(again);
        assert!(!path.exists());
        assert_eq!(store.used(), 0);
    }

    #[tokio::test]
    async fn one_upload_and_all_together_are_limited() {
        let (_parent, store) = store(10);
        let mut upload = store.begin().expect("begins");
        let error = upload.write(&[0; 11]).await.expect_err("too large");
        assert_eq!(error.code(), "upload_too_large");
        let mut kept = Vec::new();
        for _ in 0..4 {
            let mut upload = store.begin().expect("begins");
            upload.write(&[0; 10]).await.expect("fits");
            kept.push(upload);
        }
        let mut one_more = store.begin().expect("begins");
        let error = one_more.write(&[0; 10]).await.expect_err("full");
        assert_eq!(error.code(), "insufficient_storage");
        drop((kept, one_more));
        assert_eq!(store.used(), 0);
    }

    #[test]
    fn the_folder_of_a_crashed_process_is_removed_and_one_in_use_is_not() {
        let parent = tempfile::tempdir().expect("a folder");
        let living = UploadStore::open(parent.path(), 10).expect("opens");
        let crashed = parent.path().join("run-crashed");
        std::fs::create_dir(&crashed).expect("makes");
        std::fs::write(crashed.join(LOCK), b"").expect("writes");
        std::fs::write(crashed.join("upload-1"), b"secret").expect("writes");
        let second = UploadStore::open(parent.path(), 10).expect("opens");
        assert!(!crashed.exists());
        assert!(living.0.folder.exists() && second.0.folder.exists());
        let folder = living.0.folder.clone();
        let held = living.clone();
        living.close();
        assert!(!folder.exists());
        drop((living, held));
    }
}
