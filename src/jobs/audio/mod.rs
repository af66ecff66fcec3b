//! Where the audio of jobs is stored: in a [`folder`], or in an [`s3`] store.

pub mod folder;
pub mod s3;

use std::io;
use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use sha2::{Digest, Sha256};
use stt_actors::domain::chunk::AudioSource;
use thiserror::Error;

use crate::jobs::record::StoredAudio;

/// Audio that no job needs is removed when it is this old. Younger audio may belong to a job that is being stored.
const ORPHAN_AGE: Duration = Duration::from_secs(3600);

/// Why the audio of a job cannot be read.
#[derive(Debug, Error)]
pub enum AudioError {
    /// It is not there, or it is not what was stored.
    #[error("{0}")]
    Lost(String),
    /// It cannot be read now, although the store can be used.
    #[error("{0}")]
    Unreadable(String),
    /// This node has no space for a copy.
    #[error("no copy for decoding could be made: {0}")]
    NoCopy(io::Error),
    /// The store cannot be used now.
    #[error("{0}")]
    Unavailable(String),
}

impl From<io::Error> for AudioError {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::NotFound {
            Self::Lost(error.to_string())
        } else {
            Self::Unreadable(error.to_string())
        }
    }
}

/// Stores the audio of jobs.
#[async_trait]
pub trait AudioStore: Send + Sync {
    /// Stores a file under this name; it also stays where it is. It is durable afterwards. Returns its size.
    async fn store(&self, file: &Path, key: &str) -> io::Result<u64>;

    /// Asks whether the store can be used.
    async fn ping(&self) -> io::Result<()>;

    /// The audio of a job, in a file, to be decoded. It does not notice [`AudioError::Unavailable`]: [`fetch`] does.
    async fn fetch(&self, audio: &StoredAudio) -> Result<AudioSource, AudioError>;

    /// Removes audio. It may be gone already.
    async fn remove(&self, key: &str);

    /// Removes old audio whose name has this prefix and that is not in use: its jobs were not stored, because the process
    /// ended before.
    async fn sweep(&self, prefix: &str, in_use: &[String]) -> io::Result<()>;
}

/// The audio of a job, in a file, to be decoded.
///
/// # Errors
/// Why not; if it is the store that cannot be used, not this audio alone, [`AudioError::Unavailable`].
pub async fn fetch(store: &dyn AudioStore, audio: &StoredAudio) -> Result<AudioSource, AudioError> {
    match store.fetch(audio).await {
        Err(error @ (AudioError::Lost(_) | AudioError::Unreadable(_))) => {
            Err(match store.ping().await {
                Ok(()) => error,
                Err(error) => AudioError::Unavailable(error.to_string()),
            })
        }
        fetched => fetched,
    }
}

/// The prefix of the names of a store's audio: a folder or a bucket may have audio of other stores, which is not this
/// store's to remove.
pub(super) fn prefix(salt: &[u8; 16]) -> String {
    let digest = Sha256::digest(salt);
    let four = [digest[0], digest[1], digest[2], digest[3]];
    format!("{:08x}-", u32::from_be_bytes(four))
}

/// A name for new audio.
pub(super) fn new_key(salt: &[u8; 16]) -> String {
    format!("{}{}", prefix(salt), uuid::Uuid::new_v4().simple())
}

/// Whether audio with this name can be removed.
fn is_left_over(name: &str, prefix: &str, in_use: &[String], age: Option<Duration>) -> bool {
    name.starts_with(prefix)
        && age.is_some_and(|age| age > ORPHAN_AGE)
        && !in_use.iter().any(|key| key == name)
}
