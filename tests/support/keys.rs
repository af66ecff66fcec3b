//! Key files, and reloading them.

use std::path::PathBuf;

use crate::{Server, signal};

/// A key file in its own folder.
pub struct KeysFile {
    _folder: tempfile::TempDir,
    /// The file.
    pub path: PathBuf,
}

impl KeysFile {
    /// Writes a file with these lines.
    pub fn new(text: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("keys");
        let file = Self {
            _folder: folder,
            path,
        };
        file.write(text);
        file
    }

    /// Replaces the file as the documentation says: by renaming a new one, so that no reader sees half a file.
    pub fn write(&self, text: &str) {
        let new = self.path.with_extension("new");
        std::fs::write(&new, text).expect("writes");
        std::fs::rename(new, &self.path).expect("renames");
    }

    /// The path as text, for a setting.
    pub fn name(&self) -> &str {
        self.path.to_str().expect("UTF-8")
    }
}

/// Sends SIGHUP and waits until the log has one more line with this text. Returns that line.
pub async fn hang_up(server: &Server, text: &str) -> String {
    let before = server.log_lines(text).len();
    signal(server.pid(), "HUP");
    let told = || async { server.log_lines(text).len() > before };
    server.until(text, told).await;
    server.log_lines(text).pop().expect("a line")
}
