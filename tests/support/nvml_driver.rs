//! A stand-in for NVIDIA's driver library, which the tests build and whose state they write.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;
use uttera_stt::nvml::NvmlProbe;

use crate::repository;

/// Two GPUs, and processes on both.
pub const TWO_GPUS: &str = "\
    device GPU-aaaa-1111 24000 20000\n\
    device GPU-aaaa-2222 8000 1000\n\
    compute 0 100 3000\n\
    compute 0 101 -1\n\
    compute 1 102 500\n\
    graphics 1 100 77\n";

/// The folder of the stand-in and its state.
pub struct Driver(TempDir);

impl Driver {
    /// A folder without the stand-in.
    pub fn missing() -> Self {
        let driver = Self(tempfile::tempdir().expect("a folder"));
        driver.says(TWO_GPUS);
        driver
    }

    /// An installed stand-in with two GPUs.
    pub fn installed() -> Self {
        let driver = Self::missing();
        driver.install(&[]);
        driver
    }

    /// Builds the stand-in, without these functions.
    pub fn install(&self, without: &[&str]) {
        let source = repository().join("tests/support/nvml_stand_in.c");
        let status = Command::new("cc")
            .args(["-shared", "-fPIC", "-Wall", "-Wextra", "-Werror"])
            .arg(source)
            .arg("-o")
            .arg(self.library())
            .arg(format!("-DSTATE=\"{}\"", self.state().display()))
            .args(
                without
                    .iter()
                    .map(|name| format!("-D{name}=left_out_{name}")),
            )
            .status()
            .expect("cc runs");
        assert!(status.success());
    }

    /// The path of the library, once it is installed.
    pub fn library(&self) -> PathBuf {
        self.0.path().join("libnvidia-ml.so.1")
    }

    /// The file that the library reads its answers from.
    pub fn state(&self) -> PathBuf {
        self.0.path().join("state")
    }

    /// Writes the file with the answers.
    pub fn says(&self, state: &str) {
        std::fs::write(self.state(), state).expect("writes");
    }

    /// Makes one function fail with this code.
    pub fn fails(&self, function: &str, code: u32) {
        self.says(&format!("{TWO_GPUS}fail {function} {code}\n"));
    }

    /// Numbers of starts and shutdowns of the library.
    pub fn starts(&self) -> (usize, usize) {
        let calls = self.0.path().join("state.calls");
        let calls = std::fs::read_to_string(calls).unwrap_or_default();
        let count = |call: &str| calls.lines().filter(|line| *line == call).count();
        (count("start"), count("shutdown"))
    }

    /// A probe for one GPU that loads this library.
    pub fn probe(&self, device_index: u32) -> NvmlProbe {
        probe(&[&self.library()], device_index)
    }
}

/// A probe that looks in these files only.
pub fn probe(libraries: &[&Path], device_index: u32) -> NvmlProbe {
    NvmlProbe::new(device_index)
        .with_visible_devices(None)
        .with_libraries(libraries.iter().map(|path| path.to_path_buf()).collect())
}
