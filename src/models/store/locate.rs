//! Finds the file or folder that a model setting means. Changes nothing.

use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::models::catalogue::{self, file_name};
use crate::models::checksum::hex;
use crate::models::compute::ComputeType;
use crate::models::error::ModelError;
use crate::models::sniff;

/// What a model name or path refers to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Located {
    /// A ggml file (not yet checked).
    File {
        /// Name to show and to derive file names from.
        name: String,
        /// The file.
        path: PathBuf,
    },
    /// A CTranslate2 folder (not yet checked).
    Folder {
        /// Name to show.
        name: String,
        /// The folder.
        path: PathBuf,
    },
    /// A quantised catalogue model that can be made from its float model, which is on disk.
    Variant {
        /// Canonical name of the variant.
        name: String,
        /// The float model's file.
        base: PathBuf,
        /// The variant's type.
        compute: ComputeType,
    },
}

/// Looks for `model` among the catalogue names, in the store `dir`, and in the file system, in this order, so
/// that a folder called `base` in the working directory never hides the model.
pub(crate) fn locate(dir: &Path, model: &str) -> Result<Located, ModelError> {
    let model = model.trim();
    if !looks_like_path(model) {
        if let Some(located) = locate_name(dir, model) {
            return Ok(located);
        }
        if let Some(entry) = catalogue::find(model) {
            return Err(missing(dir, entry.name));
        }
    }
    locate_path(Path::new(model))
}

fn looks_like_path(model: &str) -> bool {
    model.contains('/') || model.starts_with('~') || model.starts_with('.')
}

fn locate_name(dir: &Path, model: &str) -> Option<Located> {
    if !is_file_name_part(model) {
        return None;
    }
    let name = catalogue::canonical(model);
    for candidate in [name, model] {
        let path = dir.join(file_name(candidate));
        if path.is_file() {
            return Some(Located::File {
                name: name.to_owned(),
                path,
            });
        }
    }
    for candidate in [name, model, &format!("faster-whisper-{name}")] {
        let path = dir.join(candidate);
        if sniff::is_ctranslate2_folder(&path) {
            return Some(Located::Folder {
                name: name.to_owned(),
                path,
            });
        }
    }
    let (base, compute) = split_variant(catalogue::find(name)?.name)?;
    let base = dir.join(file_name(base));
    base.is_file().then(|| Located::Variant {
        name: name.to_owned(),
        base,
        compute,
    })
}

/// Splits `base-q5_1` into `base` and its type; `None` for float models.
pub(crate) fn split_variant(name: &str) -> Option<(&str, ComputeType)> {
    let (base, suffix) = name.rsplit_once('-')?;
    let compute = suffix.parse().ok()?;
    Some((base, compute))
}

fn locate_path(path: &Path) -> Result<Located, ModelError> {
    let path = expand_home(path);
    let name = name_of(&path);
    match fs::metadata(&path) {
        Ok(metadata) if metadata.is_dir() => Ok(Located::Folder { name, path }),
        Ok(_) => Ok(Located::File { name, path }),
        Err(_) if is_bare_name(&path) => {
            let name = path.to_string_lossy().into_owned();
            let near = catalogue::near(&name);
            Err(ModelError::UnknownName { name, near })
        }
        Err(_) => Err(ModelError::NotFound {
            model: path.to_string_lossy().into_owned(),
            place: std::env::current_dir().unwrap_or_default(),
            hint: "; WHISPER_MODEL is a catalogue name, a ggml file or a CTranslate2 folder".into(),
        }),
    }
}

fn is_bare_name(path: &Path) -> bool {
    let extension = path
        .extension()
        .and_then(|e| e.to_str())
        .unwrap_or_default();
    !looks_like_path(&path.to_string_lossy()) && !matches!(extension, "bin" | "pt")
}

fn expand_home(path: &Path) -> PathBuf {
    match (path.strip_prefix("~"), std::env::home_dir()) {
        (Ok(rest), Some(home)) => home.join(rest),
        _ => path.to_owned(),
    }
}

/// The error for a catalogue model that is not on disk. It mentions a PyTorch checkpoint of the same name.
fn missing(dir: &Path, name: &str) -> ModelError {
    let checkpoint = dir.join(format!("{name}.pt"));
    let hint = if checkpoint.is_file() {
        format!(
            "; {} is there, but that is a PyTorch checkpoint: fetch the right format with \
             `uttera-stt models pull {name}`",
            checkpoint.display()
        )
    } else {
        format!("; fetch it with `uttera-stt models pull {name}`")
    };
    ModelError::NotFound {
        model: name.to_owned(),
        place: dir.to_owned(),
        hint,
    }
}

/// A short name for a file or folder: without `ggml-`, `faster-whisper-` and extension, and for a
/// Hugging Face cache (`models--org--name/snapshots/<revision>`) the model's.
pub fn name_of(path: &Path) -> String {
    let part = |path: &Path| {
        path.file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    };
    let in_cache = path
        .parent()
        .filter(|parent| part(parent) == "snapshots")
        .and_then(Path::parent)
        .map(part)
        .and_then(|repository| repository.rsplit("--").next().map(str::to_owned));
    let name = in_cache.unwrap_or_else(|| part(path));
    let name = name.strip_suffix(".bin").unwrap_or(&name);
    let name = name.strip_prefix("ggml-").unwrap_or(name);
    let name = name.strip_prefix("faster-whisper-").unwrap_or(name);
    let clean: String = name
        .chars()
        .map(|c| if is_name_character(c) { c } else { '-' })
        .take(80)
        .collect();
    let clean = clean.trim_start_matches(['.', '-']);
    if clean.is_empty() {
        "model".to_owned()
    } else {
        clean.to_owned()
    }
}

fn is_name_character(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')
}

/// Whether a name is safe inside `ggml-<name>.bin`.
pub(crate) fn is_file_name_part(name: &str) -> bool {
    (1..=100).contains(&name.len())
        && name.chars().all(is_name_character)
        && !name.starts_with(['.', '-'])
}

/// A name for files derived from a file or folder outside the store. It contains a hash of the path, so that
/// two sources of one name do not collide.
pub(crate) fn cache_key(name: &str, source: &Path) -> String {
    let source = fs::canonicalize(source).unwrap_or_else(|_| source.to_owned());
    let digest = hex(&Sha256::digest(source.as_os_str().as_encoded_bytes()));
    format!("{name}-{}", &digest[..8])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_looked_up_in_the_store_and_not_in_the_working_directory() {
        let dir = tempfile::tempdir().unwrap();
        let error = locate(dir.path(), "src").unwrap();
        assert!(
            matches!(error, Located::Folder { .. }),
            "a folder that is no model name is a path"
        );
        let error = locate(dir.path(), "turbo").unwrap_err();
        assert!(matches!(&error, ModelError::NotFound { model, .. } if model == "large-v3-turbo"));
        fs::write(dir.path().join("ggml-large-v3-turbo.bin"), b"x").unwrap();
        let located = locate(dir.path(), "turbo").unwrap();
        assert!(matches!(located, Located::File { name, .. } if name == "large-v3-turbo"));
    }

    #[test]
    fn a_stock_checkpoint_in_the_store_is_named_in_the_hint() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("small.pt"), b"PK").unwrap();
        let message = locate(dir.path(), "small").unwrap_err().to_string();
        assert!(
            message.contains("small.pt") && message.contains("models pull small"),
            "{message}"
        );
    }

    #[test]
    fn a_quantised_variant_is_made_from_the_float_model_on_disk() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("ggml-base.en.bin"), b"x").unwrap();
        let located = locate(dir.path(), "base.en-q5_1").unwrap();
        assert!(matches!(
            located,
            Located::Variant {
                compute: ComputeType::Q5_1,
                ..
            }
        ));
        assert_eq!(split_variant("large-v3"), None);
        assert_eq!(split_variant("large-v3-turbo"), None);
    }

    #[test]
    fn names_of_paths_are_short_and_harmless() {
        for (path, name) in [
            ("/models/faster-whisper-base.en", "base.en"),
            ("/m/ggml-small-q5_1.bin", "small-q5_1"),
            (
                "/c/models--Systran--faster-whisper-tiny/snapshots/0123abcd",
                "tiny",
            ),
            ("/m/my model; rm", "my-model--rm"),
            ("/m/..", "model"),
        ] {
            assert_eq!(name_of(Path::new(path)), name, "{path}");
        }
        assert!(!is_file_name_part("../x") && !is_file_name_part("") && !is_file_name_part(".x"));
    }
}
