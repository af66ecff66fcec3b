//! A folder, which several nodes may share.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use stt_actors::domain::chunk::AudioSource;
use tracing::{info, warn};

use super::{AudioError, AudioStore, is_left_over};
use crate::jobs::record::StoredAudio;

/// The folder.
#[derive(Debug)]
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

    fn path(&self, key: &str) -> PathBuf {
        self.0.join(key)
    }
}

#[async_trait]
impl AudioStore for AudioFolder {
    /// The file is linked if it is on the same file system, else copied, and on disk afterwards.
    async fn store(&self, file: &Path, key: &str) -> io::Result<u64> {
        let (folder, file, path) = (Arc::clone(&self.0), file.to_owned(), self.path(key));
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
        tokio::task::spawn_blocking(stored)
            .await
            .map_err(io::Error::other)?
    }

    async fn ping(&self) -> io::Result<()> {
        tokio::fs::read_dir(&*self.0).await?.next_entry().await?;
        Ok(())
    }

    async fn fetch(&self, audio: &StoredAudio) -> Result<AudioSource, AudioError> {
        let path = self.path(&audio.key);
        // Opened, because a file that may not be read has a length, too.
        let metadata = tokio::fs::File::open(&path).await?.metadata().await?;
        if metadata.len() != audio.bytes {
            return Err(AudioError::Lost("the file has another length".to_owned()));
        }
        Ok(AudioSource::file(path))
    }

    async fn remove(&self, key: &str) {
        match tokio::fs::remove_file(self.path(key)).await {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => warn!(%error, key, "the audio of a job could not be removed"),
        }
    }

    async fn sweep(&self, prefix: &str, in_use: &[String]) -> io::Result<()> {
        let (folder, in_use) = (Arc::clone(&self.0), in_use.to_vec());
        let prefix = prefix.to_owned();
        let sweep = move || {
            for entry in fs::read_dir(&*folder)? {
                let entry = entry?;
                let name = entry.file_name();
                let key = name.to_string_lossy();
                let age = entry.metadata().and_then(|metadata| metadata.modified());
                let age = age.ok().and_then(|modified| modified.elapsed().ok());
                if is_left_over(&key, &prefix, &in_use, age) {
                    info!(%key, "removing audio that no job needs");
                    let _ = fs::remove_file(entry.path());
                }
            }
            Ok(())
        };
        tokio::task::spawn_blocking(sweep)
            .await
            .map_err(io::Error::other)?
    }
}
