//! Real models: both that wheels hold through the whole path, folders as CTranslate2 itself writes them, and
//! every number format, each loaded by both engines and put to work.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use test_support::models::{ct2_folder, models_dir, resolved, store, transcribe_command};
use uttera_stt::engine::{Engine, EngineChoice};
use uttera_stt::models::{ComputeType, GgmlFile, ModelStore, Verdict, find};

/// Checksum of the import from the two wheels. A published file of the same model is accepted as well.
const TINY_EN_SHA256: &str = "49b35c0f0fa5e8fe48396546d4c3308e7cc3e8a50589273a99710c76fd373fdf";
const BASE_SHA256: &str = "c0db470711f9496ec80feedb59b0916f10a0c301218e7254a61e7d3d1890dc6d";

fn assert_understands(path: &Path) {
    let engines = match GgmlFile::open(path).unwrap().weights_name() {
        "f32" => {
            let options = uttera_stt::engine::whisper::Options::default();
            let refused = Engine::load(path, EngineChoice::WhisperCpp, options).unwrap_err();
            assert!(refused.contains("32-bit weights"), "{refused}");
            &[EngineChoice::Native][..]
        }
        _ => &[EngineChoice::Native, EngineChoice::WhisperCpp],
    };
    for engine in engines {
        let text = transcribe_command(path, *engine);
        let file = path.display();
        assert!(
            text.contains("turn on the kitchen light"),
            "{file}, {engine:?}: {text}"
        );
    }
}

fn assert_model(name: &str, multilingual: bool, sha256: &str) {
    let model = resolved(name);
    assert_eq!(model.name, name);
    assert_eq!(model.multilingual, multilingual);
    // The same tensors and vocabulary as the published file: the same size to the byte.
    assert_eq!(model.size_bytes, find(name).unwrap().size_bytes());
    let verified = store().verify(name).unwrap();
    let known = verified.sha256 == sha256 || verified.verdict == Verdict::Published;
    assert!(known, "{}", verified.sha256);
    assert_understands(&model.path);
}

#[test]
fn the_tiny_english_wheel_becomes_a_model_that_transcribes() {
    assert_model("tiny.en", false, TINY_EN_SHA256);
}

#[test]
fn the_two_part_base_wheel_becomes_a_multilingual_model_that_transcribes() {
    assert_model("base", true, BASE_SHA256);
}

#[test]
fn importing_gives_the_same_bytes_today() {
    let folder = tempfile::tempdir().unwrap();
    let store = ModelStore::new(folder.path().to_path_buf());
    store.import(&ct2_folder("float16"), Some("fresh")).unwrap();
    assert_eq!(store.verify("fresh").unwrap().sha256, TINY_EN_SHA256);
}

#[test]
fn a_model_on_disk_is_used_with_every_source_out_of_reach() {
    let there = resolved("tiny.en");
    let store = ModelStore::new(models_dir()).with_mirror("http://127.0.0.1:9");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let silent = uttera_stt::models::Silent;
    assert_eq!(
        runtime
            .block_on(store.ensure("tiny.en", None, &silent))
            .unwrap(),
        there
    );
    assert_eq!(
        runtime.block_on(store.pull("tiny.en", &silent)).unwrap(),
        there.path
    );
}

#[test]
fn whisper_loads_and_runs_every_compute_type() {
    let base = resolved("tiny.en");
    let dir = tempfile::tempdir().unwrap();
    for compute in ComputeType::ALL {
        let path = dir.path().join(format!("{compute}.bin"));
        if compute == ComputeType::Float16 {
            fs::copy(&base.path, &path).unwrap();
        } else {
            store().convert("tiny.en", compute, Some(&path)).unwrap();
        }
        assert_eq!(
            GgmlFile::open(&path).unwrap().weights_name(),
            compute.file_suffix()
        );
        assert_understands(&path);
    }
}

#[test]
fn quantised_files_have_the_size_of_the_published_ones() {
    let base = resolved("base");
    let dir = tempfile::tempdir().unwrap();
    for (variant, compute) in [
        ("base-q5_1", ComputeType::Q5_1),
        ("base-q8_0", ComputeType::Int8),
    ] {
        let path = dir.path().join(variant);
        store()
            .convert(base.path.to_str().unwrap(), compute, Some(&path))
            .unwrap();
        let published = find(variant).unwrap().size_bytes();
        assert_eq!(fs::metadata(&path).unwrap().len(), published, "{variant}");
    }
}

#[test]
fn eight_bit_folders_of_ctranslate2_are_imported() {
    let reference = resolved("tiny.en");
    for quantization in ["int8", "int8_float16"] {
        let dir = tempfile::tempdir().unwrap();
        let store = ModelStore::new(dir.path().to_owned());
        let path = store
            .import(&ct2_folder(quantization), Some(quantization))
            .unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().len(),
            reference.size_bytes,
            "{quantization}"
        );
        assert_close(&reference.path, &path);
        assert_understands(&path);
    }
}

/// With eight bits per weight, the error is at most half a step, and a step is at most 1/127 of the largest weight.
/// Compares the last matrix of the file with the f16 data.
fn assert_close(reference: &Path, imported: &Path) {
    let (a, b) = (fs::read(reference).unwrap(), fs::read(imported).unwrap());
    let marker = b"decoder.blocks.3.mlp.0.weight";
    let at = |bytes: &[u8]| {
        bytes
            .windows(marker.len())
            .position(|window| window == marker)
            .unwrap()
            + marker.len()
    };
    let row = |bytes: &[u8], number: usize| -> Vec<f32> {
        let from = at(bytes) + number * 384 * 2;
        let row = &bytes[from..from + 384 * 2];
        row.as_chunks::<2>()
            .0
            .iter()
            .map(|b| half::f16::from_le_bytes(*b).to_f32())
            .collect()
    };
    for number in [0, 700, 1535] {
        let (a, b) = (row(&a, number), row(&b, number));
        let largest = a.iter().fold(0.0f32, |most, value| most.max(value.abs()));
        let worst = a
            .iter()
            .zip(&b)
            .fold(0.0f32, |most, (a, b)| most.max((a - b).abs()));
        assert!(
            worst > 0.0 && worst <= largest / 127.0 * 0.52,
            "row {number}: {worst}"
        );
    }
}

#[test]
fn a_32_bit_folder_gives_the_same_16_bit_model_and_a_32_bit_one() {
    let reference = resolved("tiny.en");
    let folder = ct2_folder("float32");
    let dir = tempfile::tempdir().unwrap();
    let store = ModelStore::new(dir.path().to_owned());
    let half = store.resolve(folder.to_str().unwrap(), None).unwrap();
    let single = store
        .resolve(folder.to_str().unwrap(), Some(ComputeType::Float32))
        .unwrap();
    assert_eq!(half.size_bytes, reference.size_bytes);
    let file = GgmlFile::open(&single.path).unwrap();
    assert_eq!(file.weights_name(), "f32");
    assert_ne!(half.path, single.path);
    assert_understands(&single.path);
    // The source had 16-bit weights, so nothing was lost.
    let imported = ct2_folder("float16");
    let path = store.import(&imported, Some("from-halves")).unwrap();
    assert!(fs::read(path).unwrap() == fs::read(half.path).unwrap());
}

#[test]
fn a_token_list_replaces_a_missing_tokenizer() {
    let source = ct2_folder("int8");
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("folder");
    fs::create_dir(&folder).unwrap();
    for file in ["model.bin", "vocabulary.json"] {
        fs::copy(source.join(file), folder.join(file)).unwrap();
    }
    let store = ModelStore::new(dir.path().join("store"));
    let listed = store.import(&folder, Some("listed")).unwrap();
    let whole = store.import(&source, Some("whole")).unwrap();
    assert!(fs::read(listed).unwrap() == fs::read(whole).unwrap());
}

#[test]
fn sixteen_bit_integers_are_imported() {
    let dir = tempfile::tempdir().unwrap();
    let store = ModelStore::new(dir.path().to_owned());
    let path = store.import(&ct2_folder("int16"), Some("int16")).unwrap();
    assert_understands(&path);
}
