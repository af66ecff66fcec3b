//! Packages for Node in tests, installed once with npm and kept in the build folder.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::python::run;
use crate::repository;

/// The version of OpenAI's client for Node that the tests use, and of the WebSockets that it uses.
const OPENAI: &str = "openai@6.49.0 ws@8.18.3";

/// A folder in which Node finds OpenAI's client. `None`, with a message, if Node or npm is not installed.
pub fn openai() -> Option<PathBuf> {
    package("openai-node", OPENAI)
}

/// A folder in which Node finds these packages, separated by spaces. `None`, with a message, if Node or npm is not installed.
pub fn package(name: &str, requirement: &str) -> Option<PathBuf> {
    if !is_installed("node") || !is_installed("npm") {
        println!("skipped: node and npm are not installed");
        return None;
    }
    let folder = repository().join("target").join(name);
    fs::create_dir_all(&folder).expect("a folder");
    // Each test runs in its own process: one installs it, the others wait.
    let lock = File::create(folder.with_extension("lock")).expect("creates");
    lock.lock().expect("locks");
    let ready = folder.join(".ready");
    if fs::read_to_string(&ready).is_ok_and(|made_for| made_for == requirement) {
        return Some(folder);
    }
    run(Command::new("npm")
        .args(["install", "--silent", "--no-audit", "--no-fund", "--prefix"])
        .arg(&folder)
        .args(requirement.split(' ')));
    fs::write(ready, requirement).expect("writes");
    Some(folder)
}

/// Whether a program of this name can be started.
pub fn is_installed(program: &str) -> bool {
    let mut command = Command::new(program);
    let version = command
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    version.status().is_ok_and(|status| status.success())
}
