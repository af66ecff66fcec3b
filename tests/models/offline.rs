//! Without a network: an error within seconds that says what to do.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::time::{Duration, Instant};

use uttera_stt::models::{ModelError, ModelStore, Silent};

/// An address that refuses connections.
const CLOSED: &str = "http://127.0.0.1:9";

fn store(dir: &Path) -> ModelStore {
    ModelStore::new(dir.to_owned()).with_mirror(CLOSED)
}

#[tokio::test]
async fn a_missing_network_is_reported_within_seconds_with_instructions() {
    let dir = tempfile::tempdir().unwrap();
    let started = Instant::now();
    let error = store(dir.path())
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
}

#[tokio::test]
async fn a_folder_without_the_file_is_named_with_instructions() {
    let dir = tempfile::tempdir().unwrap();
    let mirror = dir.path().join("mirror");
    let error = ModelStore::new(dir.path().join("models"))
        .with_mirror(mirror.to_str().unwrap())
        .pull("base", &Silent)
        .await
        .unwrap_err();
    let text = error.to_string();
    let place = mirror.join("ggml-base.bin").display().to_string();
    assert!(text.contains(&place), "{text}");
    assert!(text.contains("UTTERA_MODEL_MIRROR"), "{text}");
}

#[tokio::test]
async fn an_unknown_name_is_no_reason_to_go_looking() {
    let dir = tempfile::tempdir().unwrap();
    let error = store(dir.path()).pull("bas", &Silent).await.unwrap_err();
    assert!(matches!(error, ModelError::UnknownName { .. }), "{error}");
    let error = store(dir.path())
        .ensure("bas", None, &Silent)
        .await
        .unwrap_err();
    assert!(matches!(error, ModelError::UnknownName { .. }), "{error}");
}
