//! The weights of the voice activity detector: one small file beside the models.
//!
//! It is the 16 kHz network of Silero VAD as its authors publish it (MIT licence), from their repository or from a
//! mirror. As for every model, the checksum is its identity.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use super::ModelStore;
use crate::models::checksum::{sha256_bytes, sha256_file};
use crate::models::error::ModelError;
use crate::models::files::{self, ModelLock};
use crate::models::progress::{Finish, Progress};

/// Its name among the models.
pub const VOICE_ACTIVITY_NAME: &str = "silero-vad";

const FILE_NAME: &str = "silero-vad-16k.safetensors";
const SIZE_BYTES: u64 = 1_239_748;
const SHA256: &str = "c59271c284ae9c8335d795d60e0bfdb71aaaceec578d9bd9ffc1b8153c319ea1";
const PUBLISHED_AT: &str = "https://raw.githubusercontent.com/snakers4/silero-vad/d5b52843f79c97810940534f3433e162470af83d/src/silero_vad/data/silero_vad_16k.safetensors";

impl ModelStore {
    /// The detector's weights, if the file is complete. Blocks for a few milliseconds.
    pub fn voice_activity(&self) -> Option<PathBuf> {
        let path = self.dir().join(FILE_NAME);
        let is_whole = sha256_file(&path).is_ok_and(|found| found == SHA256);
        is_whole.then_some(path)
    }

    /// The detector's weights, which are fetched if necessary.
    ///
    /// # Errors
    /// No source has them, or they cannot be written to the disk.
    pub async fn ensure_voice_activity(
        &self,
        progress: &dyn Progress,
    ) -> Result<PathBuf, ModelError> {
        let _lock = ModelLock::take(self.dir(), VOICE_ACTIVITY_NAME).await?;
        let target = self.dir().join(FILE_NAME);
        if let Some(there) = self.voice_activity() {
            return Ok(there);
        }
        files::require_space(self.dir(), 4 * SIZE_BYTES)?;
        progress.start(VOICE_ACTIVITY_NAME, Some(SIZE_BYTES));
        let _finish = Finish(progress);
        let mut reasons = Vec::new();
        for place in self.source.places_of_a_small_file(FILE_NAME, PUBLISHED_AT) {
            match place.fetch(SIZE_BYTES).await.and_then(checked) {
                Ok(bytes) => {
                    write(&target, &bytes)?;
                    return Ok(target);
                }
                Err(reason) => reasons.push(reason),
            }
        }
        Err(self.offline(VOICE_ACTIVITY_NAME, FILE_NAME.to_owned(), reasons))
    }
}

fn checked(bytes: Vec<u8>) -> Result<Vec<u8>, String> {
    let found = sha256_bytes(&bytes);
    if found == SHA256 {
        return Ok(bytes);
    }
    Err(format!("it has the checksum {found}, not {SHA256}"))
}

/// Writes the file; it gets its name only when it is complete.
fn write(target: &Path, bytes: &[u8]) -> Result<(), ModelError> {
    let part = target.with_extension("part");
    let mut file = File::create(&part).map_err(ModelError::io("create", &part))?;
    file.write_all(bytes)
        .and_then(|()| file.sync_all())
        .map_err(ModelError::io("write", &part))?;
    fs::rename(&part, target).map_err(ModelError::io("rename", target))
}
