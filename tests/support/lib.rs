//! What the tests share: starting servers and asking them, stand-ins for other services, and test data.

pub mod audio;
pub mod browser;
pub mod command_line;
pub mod escalation_pair;
pub mod events;
pub mod import_folder;
pub mod keys;
pub mod libretranslate;
pub mod models;
pub mod nvml_driver;
pub mod port;
pub mod python;
pub mod redis_server;
pub mod server;
pub mod small_model;
pub mod transcribe_script;
pub mod wer;

use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;

pub use server::*;

/// Anything that takes longer than this has failed.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The repository's root folder.
pub fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// The program under test. Cargo builds it with the tests and puts it one folder above theirs: only a
/// test binary itself is told the path when it is compiled.
pub fn program() -> &'static Path {
    static PROGRAM: LazyLock<PathBuf> = LazyLock::new(|| {
        let test = std::env::current_exe().expect("a test has a path");
        let folder = test.ancestors().nth(2).expect("two folders above a test");
        folder.join("uttera-stt")
    });
    &PROGRAM
}
