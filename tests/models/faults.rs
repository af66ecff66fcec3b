//! Damaged, foreign and contended model files: each is an error that names the cause.
#![allow(clippy::unwrap_used)]

use std::error::Error;
use std::fs;

use test_support::small_model::{SmallModel, VOCABULARY, WIDTH};
use uttera_stt::models::{GgmlFile, ModelError, ModelStore, Verdict};

use test_support::import_folder::ImportFolder;

/// The error with its causes, as users see it.
fn whole(error: &ModelError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        text = format!("{text}: {source}");
        cause = source.source();
    }
    text
}

fn import_error(model: &SmallModel) -> String {
    let bench = ImportFolder::new(model);
    let error = bench.import().unwrap_err();
    let left = bench.store().local().unwrap();
    assert!(left.is_empty(), "a failed import left {left:?}");
    whole(&error)
}

#[test]
fn a_well_formed_folder_is_imported() {
    let bench = ImportFolder::new(&SmallModel::new());
    let path = bench.import().unwrap();
    let file = GgmlFile::open(&path).unwrap();
    assert_eq!(file.dimensions.n_vocab, VOCABULARY);
    assert_eq!(file.dimensions.n_audio_state, WIDTH);
    assert_eq!(file.weights_name(), "f16");
    assert!(!file.dimensions.is_multilingual());
    assert_eq!(
        bench.store().verify("small-test").unwrap().verdict,
        Verdict::AsWritten
    );
    // A second run has nothing to do and is no error.
    assert_eq!(bench.import().unwrap(), path);
}

#[test]
fn a_folder_cut_short_anywhere_is_refused() {
    let bench = ImportFolder::new(&SmallModel::new());
    let whole_file = fs::read(bench.folder().join("model.bin")).unwrap();
    let cuts = (0..100).chain((100..whole_file.len()).step_by(139_119));
    for length in cuts.chain([whole_file.len() - 1]) {
        fs::write(bench.folder().join("model.bin"), &whole_file[..length]).unwrap();
        let error = bench.import().unwrap_err();
        assert!(
            matches!(error, ModelError::Corrupt { .. }),
            "{length}: {error}"
        );
    }
    assert!(bench.store().local().unwrap().is_empty());
}

#[test]
fn bytes_after_the_end_are_refused() {
    let bench = ImportFolder::new(&SmallModel::new());
    let mut bytes = fs::read(bench.folder().join("model.bin")).unwrap();
    bytes.push(0);
    fs::write(bench.folder().join("model.bin"), bytes).unwrap();
    assert!(whole(&bench.import().unwrap_err()).contains("1 bytes follow"));
}

#[test]
fn another_version_and_another_kind_of_model_are_named() {
    let mut model = SmallModel::new();
    model.version = 5;
    assert!(import_error(&model).contains("version 5"));
    let mut model = SmallModel::new();
    model.spec = "TransformerSpec".into();
    assert!(import_error(&model).contains("TransformerSpec"));
}

#[test]
fn a_byte_count_that_does_not_fit_the_shape_is_refused() {
    let mut model = SmallModel::new();
    model.find("encoder/conv1/bias").unwrap().shape = vec![WIDTH + 1];
    assert!(import_error(&model).contains("encoder/conv1/bias"));
    let mut model = SmallModel::new();
    model.find("encoder/conv1/bias").unwrap().shape = vec![0, u32::MAX, u32::MAX, u32::MAX];
    assert!(import_error(&model).contains("overflows"));
}

#[test]
fn a_tensor_of_the_wrong_shape_is_refused() {
    let mut model = SmallModel::new();
    model
        .find("encoder/layer_0/ffn/linear_0/weight")
        .unwrap()
        .shape = vec![WIDTH, 4 * WIDTH];
    assert!(import_error(&model).contains("mlp.0.weight"));
}

#[test]
fn a_variable_that_is_missing_or_there_twice_is_refused() {
    let mut model = SmallModel::new();
    model
        .variables
        .retain(|variable| variable.name != "decoder/layer_norm/beta");
    assert!(import_error(&model).contains("decoder/layer_norm/beta is missing"));
    let mut model = SmallModel::new();
    let twice = model.variables[3].clone();
    model.variables.push(twice);
    assert!(import_error(&model).contains("exists twice"));
}

#[test]
fn an_alias_that_leads_nowhere_is_refused() {
    let mut model = SmallModel::new();
    model.aliases[0].1 = model.aliases[0].0.clone();
    assert!(import_error(&model).contains("decoder/embeddings/weight is missing"));
}

#[test]
fn a_bias_for_keys_is_refused_because_whisper_would_ignore_it() {
    let mut model = SmallModel::new();
    model
        .find("decoder/layer_0/attention/linear_1/bias")
        .unwrap()
        .data[1] = 0x3c;
    assert!(import_error(&model).contains("bias for keys"));
}

#[test]
fn integer_weights_need_scales_that_can_divide() {
    let quantised = |scale: f32| {
        let mut model = SmallModel::new();
        let weight = model.find("encoder/layer_0/ffn/linear_0/weight").unwrap();
        weight.kind = 1;
        weight.data = vec![5; (4 * WIDTH * WIDTH) as usize];
        let mut scales = weight.clone();
        scales.name.push_str("_scale");
        scales.shape = vec![4 * WIDTH];
        scales.kind = 0;
        scales.data = (0..4 * WIDTH).flat_map(|_| scale.to_le_bytes()).collect();
        model.variables.push(scales);
        model
    };
    assert!(ImportFolder::new(&quantised(10.0)).import().is_ok());
    assert!(import_error(&quantised(0.0)).contains("zero or a value that is not a number"));
    assert!(import_error(&quantised(f32::NAN)).contains("zero or a value that is not a number"));
    let mut model = quantised(10.0);
    model.variables.pop();
    assert!(import_error(&model).contains("weight_scale is missing"));
}

#[test]
fn a_folder_without_vocabulary_says_which_files_would_do() {
    let bench = ImportFolder::new(&SmallModel::new());
    fs::remove_file(bench.folder().join("vocabulary.txt")).unwrap();
    let error = bench.import().unwrap_err().to_string();
    assert!(
        error.contains("tokenizer.json") && error.contains("vocabulary.txt"),
        "{error}"
    );
    fs::write(bench.folder().join("tokenizer.json"), "{\"model\": 3}").unwrap();
    assert!(whole(&bench.import().unwrap_err()).contains("tokenizer"));
}

#[test]
fn a_ggml_file_cut_short_anywhere_is_refused_before_whisper_sees_it() {
    let bench = ImportFolder::new(&SmallModel::new());
    let path = bench.import().unwrap();
    let bytes = fs::read(&path).unwrap();
    let cuts = (0..300)
        .chain((300..bytes.len()).step_by(50_021))
        .chain([bytes.len() - 1]);
    for length in cuts {
        fs::write(&path, &bytes[..length]).unwrap();
        let error = bench.store().resolve("small-test", None).unwrap_err();
        let refused = matches!(
            error,
            ModelError::Corrupt { .. } | ModelError::NotAModel { .. }
        );
        assert!(refused, "{length}: {error}");
        assert!(error.to_string().contains("delete it"), "{error}");
    }
}

#[test]
fn a_changed_byte_in_a_weight_is_found_by_verify() {
    let bench = ImportFolder::new(&SmallModel::new());
    let path = bench.import().unwrap();
    let mut bytes = fs::read(&path).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&path, bytes).unwrap();
    assert!(
        bench.store().resolve("small-test", None).is_ok(),
        "the structure is whole"
    );
    let error = bench.store().verify("small-test").unwrap_err();
    assert!(matches!(error, ModelError::Checksum { .. }), "{error}");
}

#[test]
fn other_formats_are_recognised_and_rejected_with_instructions() {
    let dir = tempfile::tempdir().unwrap();
    let store = ModelStore::new(dir.path().to_owned());
    let cases: [(&str, &[u8], &str); 7] = [
        ("small.pt", b"PK\x03\x04....", "models pull small"),
        ("old.pt", b"\x80\x02\x8a\x0a", "convert-pt-to-ggml.py"),
        ("renamed.bin", b"PK\x03\x04....", "PyTorch"),
        ("page.bin", b"  <!DOCTYPE html><html>", "web page"),
        ("new.bin", b"GGUF\x03\0\0\0", "GGUF"),
        (
            "pointer.bin",
            b"version https://git-lfs.github.com/spec/v1\n",
            "git lfs pull",
        ),
        ("empty.bin", b"", "empty file"),
    ];
    for (name, bytes, advice) in cases {
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        let error = store
            .resolve(path.to_str().unwrap(), None)
            .unwrap_err()
            .to_string();
        assert!(error.contains(advice), "{name}: {error}");
    }
    let transformers = dir.path().join("hf");
    fs::create_dir(&transformers).unwrap();
    fs::write(transformers.join("model.safetensors"), b"x").unwrap();
    let error = store
        .resolve(transformers.to_str().unwrap(), None)
        .unwrap_err()
        .to_string();
    assert!(error.contains("ct2-transformers-converter"), "{error}");
}

#[test]
fn only_folders_are_imported() {
    let dir = tempfile::tempdir().unwrap();
    let store = ModelStore::new(dir.path().join("store"));
    let file = dir.path().join("ggml-x.bin");
    fs::write(&file, b"lmgg").unwrap();
    let error = store.import(&file, None).unwrap_err().to_string();
    assert!(error.contains("needs no import"), "{error}");
    let error = whole(&store.import(&dir.path().join("nowhere"), None).unwrap_err());
    assert!(
        error.contains("nowhere") && error.contains("not found"),
        "{error}"
    );
}

#[test]
fn a_missing_file_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let store = ModelStore::new(dir.path().join("none-yet"));
    let text = |model: &str| store.resolve(model, None).unwrap_err().to_string();
    assert!(text("base").contains("models pull base"));
    assert!(text("smal.en").contains("did you mean small.en"));
    assert!(text("/nowhere/ggml-base.bin").contains("/nowhere/ggml-base.bin"));
    assert!(store.local().unwrap().is_empty());
    assert!(
        !dir.path().join("none-yet").exists(),
        "looking does not create the folder"
    );
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    let bench = ImportFolder::new(&SmallModel::new());
    let blocker = bench.dir.path().join("file");
    fs::write(&blocker, b"").unwrap();
    let store = ModelStore::new(blocker.join("store"));
    let error = store.import(&bench.folder(), None).unwrap_err();
    assert!(matches!(&error, ModelError::Io { .. }), "{error}");
    assert!(error.to_string().contains("store"), "{error}");
}
