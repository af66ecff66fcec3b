//! Uploads on disk: written as they come, counted against one bound, removed with their last
//! user, and swept at the next start if a crash left them.

use std::fs::{File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest, Sha256};
use stt_actors::ports::AudioSource;
use tempfile::TempPath;
use tokio::io::{AsyncSeekExt, AsyncWriteExt};
use tracing::{info, warn};

use crate::http::reply::error::ApiError;

/// All uploads together may take this many times the largest one.
const LARGEST_UPLOADS_AT_ONCE: u64 = 4;
/// Held by the process that owns a folder of uploads.
const LOCK: &str = "lock";

/// Where uploads go.
#[derive(Clone)]
pub struct UploadStore(Arc<Inner>);

struct Inner {
    folder: PathBuf,
    largest: u64,
    space: u64,
    used: AtomicU64,
    /// Locked as long as the process lives, however it ends.
    _lock: File,
}

impl Inner {
    fn remove(&self) {
        match std::fs::remove_dir_all(&self.folder) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => warn!(%error, "the folder of uploads could not be removed"),
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.remove();
    }
}

impl UploadStore {
    /// A folder of this process's own below `parent`, after removing those of dead processes.
    /// `largest` is the bound on one upload, in bytes.
    pub fn open(parent: &Path, largest: u64) -> io::Result<Self> {
        create_private(parent)?;
        sweep(parent)?;
        let unnamed = tempfile::Builder::new()
            .prefix(".new-")
            .tempdir_in(parent)?;
        let lock = File::create(unnamed.path().join(LOCK))?;
        lock.lock()?;
        // Locked before it has a name that a sweep looks at.
        let folder = parent.join(format!("run-{}", uuid::Uuid::new_v4()));
        std::fs::rename(unnamed.keep(), &folder)?;
        Ok(Self(Arc::new(Inner {
            folder,
            largest,
            space: largest.saturating_mul(LARGEST_UPLOADS_AT_ONCE),
            used: AtomicU64::new(0),
            _lock: lock,
        })))
    }

    /// Removes the folder though somebody may still hold this store: at the end of the server, whose
    /// threads are not waited for.
    pub fn close(&self) {
        self.0.remove();
    }

    /// The usual place: of this user, so that two users' servers do not meet.
    pub fn default_parent() -> PathBuf {
        let user = nix::unistd::getuid();
        std::env::temp_dir().join(format!("uttera-stt-uploads-{user}"))
    }

    /// The bound on one upload, in bytes.
    pub fn largest(&self) -> u64 {
        self.0.largest
    }

    /// Bytes on disk now.
    pub fn used(&self) -> u64 {
        self.0.used.load(Ordering::Relaxed)
    }

    /// Begins an upload.
    pub fn begin(&self) -> Result<Upload, ApiError> {
        self.begin_up_to(self.0.largest)
    }

    /// The same for a body that is longer than the audio in it: up to so many bytes.
    pub fn begin_up_to(&self, most: u64) -> Result<Upload, ApiError> {
        let (file, stored) = self.create(most)?;
        Ok(Upload {
            file: tokio::fs::File::from_std(file),
            stored,
            samples: false,
        })
    }

    /// Begins an upload of samples that have no header: it is stored as a WAV file, 16 kHz, mono, signed
    /// 16 bit.
    pub async fn begin_samples(&self) -> Result<Upload, ApiError> {
        let mut upload = self.begin_up_to(self.0.largest.saturating_add(WAV_HEADER as u64))?;
        upload.samples = true;
        upload.write(&wav_header(0)).await?;
        Ok(upload)
    }

    /// Begins an upload for a thread that may block.
    pub fn begin_blocking(&self) -> Result<BlockingUpload, ApiError> {
        let (file, stored) = self.create(self.0.largest)?;
        Ok(BlockingUpload { file, stored })
    }

    fn create(&self, most: u64) -> Result<(File, Stored), ApiError> {
        let file = tempfile::Builder::new()
            .prefix("upload-")
            .tempfile_in(&self.0.folder)
            .map_err(|error| storage_error(&error))?;
        let (file, path) = file.into_parts();
        let stored = Stored {
            path,
            bytes: 0,
            most,
            digest: Sha256::new(),
            store: Arc::clone(&self.0),
        };
        Ok((file, stored))
    }
}

/// Readable by this user alone: it holds what people said.
fn create_private(parent: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(parent)
}

/// Removes the folders whose process is gone: their lock is free.
fn sweep(parent: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(parent)? {
        let entry = entry?;
        if !entry.file_name().to_string_lossy().starts_with("run-") {
            continue;
        }
        let folder = entry.path();
        // Without a lock: just being removed by somebody else.
        let Ok(lock) = File::open(folder.join(LOCK)) else {
            continue;
        };
        match lock.try_lock() {
            Ok(()) => {
                info!(folder = %folder.display(), "removing uploads that a crash left");
                std::fs::remove_dir_all(&folder)?;
            }
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
    Ok(())
}

/// An upload being written.
pub struct Upload {
    file: tokio::fs::File,
    stored: Stored,
    /// Its header is to be completed when its length is known.
    samples: bool,
}

/// The same, on a thread that may block.
pub struct BlockingUpload {
    file: File,
    stored: Stored,
}

/// An upload that has come.
#[derive(Clone, Debug)]
pub struct Received {
    /// Where it is; the file goes with the last copy of this.
    pub source: AudioSource,
    /// SHA-256 of its bytes.
    pub digest: [u8; 32],
}

/// An upload on disk; the file goes when this is dropped.
struct Stored {
    path: TempPath,
    bytes: u64,
    most: u64,
    digest: Sha256,
    store: Arc<Inner>,
}

impl Stored {
    /// Takes in bytes that are about to be written, within the bounds.
    fn add(&mut self, bytes: &[u8]) -> Result<(), ApiError> {
        let added = bytes.len() as u64;
        if self.bytes + added > self.most {
            let largest = self.store.largest;
            return Err(ApiError::upload_too_large(self.bytes + added, largest));
        }
        let used = self.store.used.fetch_add(added, Ordering::Relaxed) + added;
        // Counted from here on, whether the write succeeds or not: dropping takes it back.
        self.bytes += added;
        if used > self.store.space {
            warn!(used, "uploads fill the space that they may take");
            return Err(ApiError::insufficient_storage());
        }
        self.digest.update(bytes);
        Ok(())
    }

    fn received(self) -> Received {
        let path = self.path.to_path_buf();
        let digest = self.digest.clone().finalize().into();
        Received {
            source: AudioSource::guarded(path, Arc::new(self)),
            digest,
        }
    }
}

impl Drop for Stored {
    fn drop(&mut self) {
        self.store.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Upload {
    /// Adds bytes, within the bounds.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), ApiError> {
        self.stored.add(bytes)?;
        self.file
            .write_all(bytes)
            .await
            .map_err(|error| storage_error(&error))
    }

    /// All bytes have come.
    pub async fn finish(mut self) -> Result<Received, ApiError> {
        let finished = async {
            if self.samples {
                let bytes = self.stored.bytes - WAV_HEADER as u64;
                self.file.seek(io::SeekFrom::Start(0)).await?;
                self.file.write_all(&wav_header(bytes)).await?;
            }
            self.file.flush().await
        };
        finished.await.map_err(|error| storage_error(&error))?;
        Ok(self.stored.received())
    }
}

impl BlockingUpload {
    /// Adds bytes, within the bounds.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), ApiError> {
        self.stored.add(bytes)?;
        let written = self.file.write_all(bytes);
        written.map_err(|error| storage_error(&error))
    }

    /// All bytes have come.
    pub fn finish(self) -> Received {
        self.stored.received()
    }
}

const WAV_HEADER: usize = 44;

/// The header of a WAV file with so many bytes of samples: 16 kHz, mono, signed 16 bit.
fn wav_header(bytes: u64) -> [u8; WAV_HEADER] {
    let rate = stt_actors::ports::SAMPLE_RATE;
    // Half a sample at the end is none. Longer than the format can say is longer than is taken.
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
        // A slice of sufficient length: the fields are 44 bytes.
        let _ = fields.write_all(field);
    }
    header
}

fn storage_error(error: &io::Error) -> ApiError {
    warn!(%error, "an upload cannot be stored");
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
    async fn an_upload_goes_with_its_last_user_and_gives_its_space_back() {
        let (_parent, store) = store(100);
        let mut upload = store.begin().expect("begins");
        upload.write(b"hello").await.expect("fits");
        let Received { source, digest } = upload.finish().await.expect("finishes");
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
    async fn one_upload_and_all_together_are_bounded() {
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
    fn what_a_crash_left_is_swept_and_what_lives_is_not() {
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
