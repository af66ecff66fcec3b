//! Shared code of the tests: starting servers and sending requests, stand-ins for other services, and test data.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(
    clippy::new_without_default,
    reason = "`new` creates files and listens on ports, which a default value must not do"
)]

pub mod audio;
pub mod browser;
pub mod command_line;
pub mod escalation_pair;
pub mod events;
pub mod forwarder;
pub mod http;
pub mod import_folder;
pub mod keys;
pub mod libretranslate;
pub mod models;
pub mod networks;
pub mod node;
pub mod null_engine;
pub mod nvml_driver;
pub mod page;
pub mod port;
pub mod processes;
pub mod prometheus;
pub mod python;
pub mod realtime;
pub mod redis_sentinel;
pub mod redis_server;
pub mod routers;
pub mod s3_server;
pub mod samples;
pub mod server;
pub mod small_model;
pub mod tls;
pub mod transcribe_script;
pub mod waiting;
pub mod wav;
pub mod wer;
pub mod wyoming;

use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;

pub use http::{form, refused};
pub use models::{model, voice_activity};
pub use processes::{allocated_kib, children, is_stopped, lives, signal};
pub use samples::{corpus, sample, sample_text, words};
pub use server::Server;
pub use waiting::{patiently, until};

/// A test fails if a condition takes longer than this.
pub const PATIENCE: Duration = Duration::from_secs(240);

/// The repository's root folder.
pub fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// The program under test.
pub fn program() -> &'static Path {
    static PROGRAM: LazyLock<PathBuf> = LazyLock::new(|| built("uttera-stt"));
    &PROGRAM
}

/// A program that Cargo builds with the tests, by its path relative to the parent of the tests' folder. (Cargo gives the
/// path itself only to test binaries, at compile time.)
pub fn built(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a test has a path");
    let folder = test.ancestors().nth(2).expect("two folders above a test");
    folder.join(name)
}

/// Runs checks, one after the other, on a server that they share. Prints the name of each, so that the output of a
/// failed test ends with the check that failed.
#[macro_export]
macro_rules! checks {
    ($server:expr; $($check:ident),+ $(,)?) => {
        $(
            eprintln!("checking: {}", stringify!($check));
            $check($server).await;
        )+
    };
}
