//! Where the checks look: the folders of this machine, or of a made-up one in tests.

use std::path::PathBuf;

/// A machine by its root folder.
#[derive(Clone, Debug)]
pub struct Machine {
    root: PathBuf,
}

impl Machine {
    /// This machine.
    pub fn here() -> Self {
        Self::under(PathBuf::from("/"))
    }

    /// A machine whose `/proc`, `/dev`, `/etc` and so on lie under this folder.
    pub fn under(root: PathBuf) -> Self {
        Self { root }
    }

    /// Where the file with this absolute path lies.
    pub fn path(&self, absolute: &str) -> PathBuf {
        self.root.join(absolute.trim_start_matches('/'))
    }

    /// Whether a file or folder exists.
    pub fn has(&self, absolute: &str) -> bool {
        self.path(absolute).exists()
    }

    /// The content of a file; empty if it cannot be read.
    pub fn text(&self, absolute: &str) -> String {
        let bytes = std::fs::read(self.path(absolute)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Names in a folder, sorted; none if it cannot be read.
    pub fn names(&self, folder: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.path(folder)).into_iter().flatten();
        let mut names: Vec<String> = entries
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort();
        names
    }

    /// Whether this is a container: Docker, Podman, or one that systemd knows.
    pub fn is_container(&self) -> bool {
        [
            "/.dockerenv",
            "/run/.containerenv",
            "/run/systemd/container",
        ]
        .iter()
        .any(|mark| self.has(mark))
    }

    /// Whether this is Linux inside Windows.
    pub fn is_wsl(&self) -> bool {
        let version = self.text("/proc/version").to_ascii_lowercase();
        version.contains("microsoft")
    }
}

/// A made-up machine.
#[cfg(test)]
pub(super) struct MadeUp(tempfile::TempDir);

#[cfg(test)]
impl MadeUp {
    /// A machine with these files.
    pub(super) fn new(files: &[(&str, &str)]) -> Self {
        let made_up = Self(tempfile::tempdir().expect("a folder"));
        for (path, text) in files {
            let path = made_up.machine().path(path);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("creates");
            std::fs::write(path, text).expect("writes");
        }
        made_up
    }

    /// It as the checks see it.
    pub(super) fn machine(&self) -> Machine {
        Machine::under(self.0.path().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_and_wsl_are_recognised_by_their_marks() {
        let plain = MadeUp::new(&[("/proc/version", "Linux version 6.1.0-18-amd64")]);
        assert!(!plain.machine().is_container() && !plain.machine().is_wsl());
        let wsl = MadeUp::new(&[(
            "/proc/version",
            "Linux version 5.15.0-microsoft-standard-WSL2",
        )]);
        assert!(wsl.machine().is_wsl());
        for mark in [
            "/.dockerenv",
            "/run/.containerenv",
            "/run/systemd/container",
        ] {
            assert!(
                MadeUp::new(&[(mark, "")]).machine().is_container(),
                "{mark}"
            );
        }
        assert_eq!(MadeUp::new(&[]).machine().text("/proc/version"), "");
    }
}
