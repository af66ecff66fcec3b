//! The audio of jobs: files in a folder, which several nodes may share.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use stt_actors::domain::chunk::AudioSource;
use tracing::{info, warn};

use crate::jobs::record::StoredAudio;

/// A file that no job needs is removed when it is this old. A younger one may belong to a job that is being stored.
const ORPHAN_AGE: Duration = Duration::from_secs(3600);

/// The folder. Clones refer to the same one.
#[derive(Clone, Debug)]
pub struct AudioFolder(Arc<PathBuf>);

impl AudioFolder {
    /// Opens the folder for audio in the folder of jobs, and creates both, readable for this user only: recordings are
    /// private.
    ///
    /// # Errors
    /// The folder cannot be created.
    pub fn open(jobs: &Path) -> io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        let folder = jobs.join("audio");
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)?;
        Ok(Self(Arc::new(folder)))
    }

    /// Stores a file, which stays where it is. It is linked if it is on the same file system, else copied, and on disk
    /// afterwards.
    ///
    /// # Errors
    /// The file cannot be stored.
    pub async fn store(&self, file: &Path) -> io::Result<StoredAudio> {
        let key = uuid::Uuid::new_v4().simple().to_string();
        let (folder, file, path) = (Arc::clone(&self.0), file.to_owned(), self.path(&key));
        let stored = move || {
            let linked =
                fs::hard_link(&file, &path).or_else(|_| fs::copy(&file, &path).map(|_| ()));
            let synced = linked.and_then(|()| {
                let audio = File::open(&path)?;
                audio.sync_all()?;
                File::open(&*folder)?.sync_all()?;
                Ok(audio.metadata()?.len())
            });
            synced.inspect_err(|_| {
                // A part of a copy, if there is one.
                let _ = fs::remove_file(&path);
            })
        };
        let bytes = tokio::task::spawn_blocking(stored)
            .await
            .map_err(io::Error::other)??;
        Ok(StoredAudio { key, bytes })
    }

    /// The audio of a job, to be decoded.
    ///
    /// # Errors
    /// It is not there.
    pub async fn fetch(&self, audio: &StoredAudio) -> io::Result<AudioSource> {
        let path = self.path(&audio.key);
        let metadata = tokio::fs::metadata(&path).await?;
        if metadata.len() != audio.bytes {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the file has another length",
            ));
        }
        Ok(AudioSource::file(path))
    }

    /// Removes a file. It may be gone already.
    pub async fn remove(&self, key: &str) {
        match tokio::fs::remove_file(self.path(key)).await {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => warn!(%error, key, "the audio of a job could not be removed"),
        }
    }

    /// Removes old files that are not in use: their jobs were not stored, because the process ended before.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn sweep(&self, in_use: &[String]) -> io::Result<()> {
        for entry in fs::read_dir(&*self.0)? {
            let entry = entry?;
            let name = entry.file_name();
            let is_known = in_use.iter().any(|key| name == **key);
            let age = entry.metadata().and_then(|metadata| metadata.modified());
            let age = age.ok().and_then(|modified| modified.elapsed().ok());
            if !is_known && age.is_some_and(|age| age > ORPHAN_AGE) {
                info!(key = %name.to_string_lossy(), "removing audio that no job needs");
                let _ = fs::remove_file(entry.path());
            }
        }
        Ok(())
    }

    fn path(&self, key: &str) -> PathBuf {
        self.0.join(key)
    }
}
