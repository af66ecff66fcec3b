//! Imports and conversions in the store: made once, made again when their source changed, and made by one of
//! several processes that need them.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use test_support::import_folder::ImportFolder;
use test_support::small_model::SmallModel;
use uttera_stt::models::{ComputeType, GgmlFile, ModelError};

#[test]
fn a_folder_as_model_is_imported_once_and_again_when_it_changed() {
    let bench = ImportFolder::new(&SmallModel::new());
    let folder = bench.folder();
    let model = folder.to_str().unwrap();
    let first = bench.store().resolve(model, None).unwrap();
    let imported = fs::metadata(&first.path).unwrap().modified().unwrap();
    let again = bench.store().resolve(model, None).unwrap();
    assert_eq!(first, again);
    assert_eq!(
        fs::metadata(&again.path).unwrap().modified().unwrap(),
        imported
    );
    let mut changed = SmallModel::new();
    changed.find("encoder/layer_norm/beta").unwrap().data[0] ^= 1;
    changed.write(&folder).unwrap();
    let before = fs::read(&first.path).unwrap();
    let after = bench.store().resolve(model, None).unwrap();
    assert_ne!(fs::read(&after.path).unwrap(), before);
}

#[test]
fn a_conversion_is_kept_until_its_source_changes() {
    let bench = ImportFolder::new(&SmallModel::new());
    let source = bench.import().unwrap();
    let resolve = || {
        bench
            .store()
            .resolve("small-test", Some(ComputeType::Int8))
            .unwrap()
    };
    let first = resolve();
    assert_eq!(GgmlFile::open(&first.path).unwrap().weights_name(), "q8_0");
    assert_eq!(
        first.path,
        bench.store().dir().join("ggml-small-test-q8_0.bin")
    );
    let made = fs::metadata(&first.path).unwrap().modified().unwrap();
    assert_eq!(
        fs::metadata(resolve().path).unwrap().modified().unwrap(),
        made
    );
    let mut bytes = fs::read(&source).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&source, bytes).unwrap();
    assert_ne!(
        fs::metadata(resolve().path).unwrap().modified().unwrap(),
        made
    );
}

#[test]
fn a_conversion_that_was_damaged_is_made_again() {
    let bench = ImportFolder::new(&SmallModel::new());
    bench.import().unwrap();
    let resolve = || bench.store().resolve("small-test", Some(ComputeType::Q5_1));
    let path = resolve().unwrap().path;
    let whole_file = fs::read(&path).unwrap();
    fs::write(&path, &whole_file[..whole_file.len() / 2]).unwrap();
    assert_eq!(fs::read(resolve().unwrap().path).unwrap(), whole_file);
}

#[test]
fn quantised_weights_are_not_quantised_again() {
    let bench = ImportFolder::new(&SmallModel::new());
    bench.import().unwrap();
    let store = bench.store();
    let small = store
        .resolve("small-test", Some(ComputeType::Int8))
        .unwrap();
    let file = small.path.to_str().unwrap();
    let as_is = store.resolve(file, Some(ComputeType::Q5_0)).unwrap();
    assert_eq!(
        as_is.path, small.path,
        "an explicit quantised file is used as it is"
    );
    let error = store.convert(file, ComputeType::Q5_0, None).unwrap_err();
    assert!(
        matches!(error, ModelError::NotConvertible { .. }),
        "{error}"
    );
}

#[test]
fn an_import_never_replaces_another_model() {
    let bench = ImportFolder::new(&SmallModel::new());
    let store = bench.store();
    fs::create_dir_all(store.dir()).unwrap();
    fs::write(
        store.dir().join("ggml-small-test.bin"),
        b"another program's",
    )
    .unwrap();
    assert!(matches!(
        bench.import().unwrap_err(),
        ModelError::Exists { .. }
    ));
    let error = store
        .import(&bench.folder(), Some("../escape"))
        .unwrap_err();
    assert!(matches!(error, ModelError::BadName { .. }), "{error}");
}

#[test]
fn two_requests_for_the_same_model_at_once_both_get_it() {
    let bench = ImportFolder::new(&SmallModel::new());
    let folder = bench.folder();
    let results: Vec<_> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4)
            .map(|_| {
                let (store, folder) = (bench.store(), folder.clone());
                scope.spawn(move || {
                    let path = folder.to_str().unwrap();
                    store
                        .resolve(path, Some(ComputeType::Q5_0))
                        .map(|model| model.path)
                })
            })
            .collect();
        workers
            .into_iter()
            .map(|worker| worker.join().unwrap())
            .collect()
    });
    let first = results[0].as_ref().unwrap();
    assert!(
        results
            .iter()
            .all(|result| result.as_ref().unwrap() == first)
    );
    assert_eq!(no_temporary_files(bench.store().dir()), 0);
}

fn no_temporary_files(dir: &Path) -> usize {
    fs::read_dir(dir)
        .unwrap()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().ends_with(".tmp"))
        .count()
}
