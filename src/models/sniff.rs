//! Recognises files and folders that are not models.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::error::ModelError;

/// Fails for files that are recognised as something else; the error says what to do.
///
/// Files that start like a ggml model or like no known format pass; the parser checks those.
pub(crate) fn refuse_other_formats(path: &Path) -> Result<(), ModelError> {
    let mut head = Vec::with_capacity(64);
    File::open(path)
        .and_then(|file| file.take(64).read_to_end(&mut head))
        .map_err(ModelError::io("read", path))?;
    let extension = path
        .extension()
        .and_then(|e| e.to_str())
        .unwrap_or_default();
    // A zip archive or a pickle: both generations of torch.save.
    if head.starts_with(b"PK\x03\x04") || head.starts_with(&[0x80, 0x02]) || extension == "pt" {
        let name = path
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        return Err(ModelError::IsPyTorch {
            path: path.to_owned(),
            name,
        });
    }
    let text = String::from_utf8_lossy(&head)
        .trim_start()
        .to_ascii_lowercase();
    let (what, advice) = if head.is_empty() {
        ("an empty file", "delete it and fetch the model again")
    } else if head.starts_with(b"GGUF") {
        (
            "a GGUF file",
            "whisper.cpp reads the older ggml format: use a ggml-*.bin file",
        )
    } else if text.starts_with("<!doctype") || text.starts_with("<html") {
        (
            "a web page",
            "delete it and fetch the model again, not the page that shows it",
        )
    } else if text.starts_with("version https://git-lfs") {
        (
            "a Git LFS pointer",
            "run `git lfs pull` in its folder to get the model itself",
        )
    } else {
        return Ok(());
    };
    Err(ModelError::NotAModel {
        path: path.to_owned(),
        what: what.to_owned(),
        advice: advice.to_owned(),
    })
}

/// Whether a folder looks like a CTranslate2 model.
pub(crate) fn is_ctranslate2_folder(folder: &Path) -> bool {
    folder.join("model.bin").is_file()
}

/// Fails for folders that cannot be imported; the error says what to do.
pub(crate) fn require_ctranslate2_folder(folder: &Path) -> Result<(), ModelError> {
    if is_ctranslate2_folder(folder) {
        return Ok(());
    }
    if folder.is_file() {
        refuse_other_formats(folder)?;
        return Err(ModelError::NotAModel {
            path: folder.to_owned(),
            what: "a file".to_owned(),
            advice: "CTranslate2 models are folders; a ggml file needs no import: put it into the \
                     models folder as ggml-<name>.bin, or use its path as the model"
                .to_owned(),
        });
    }
    if folder.is_dir() {
        return Err(not_a_model_folder(folder));
    }
    Err(ModelError::io("read", folder)(
        std::io::ErrorKind::NotFound.into(),
    ))
}

/// The error for a folder that is not a CTranslate2 model.
fn not_a_model_folder(folder: &Path) -> ModelError {
    let transformers = [
        "model.safetensors",
        "pytorch_model.bin",
        "model.safetensors.index.json",
    ]
    .iter()
    .any(|file| folder.join(file).exists());
    let (what, advice) = if transformers {
        (
            "a Hugging Face transformers model",
            "convert it with `ct2-transformers-converter --model FOLDER --output_dir OUT \
             --copy_files tokenizer.json --quantization float16` and import OUT",
        )
    } else {
        (
            "a folder without a model.bin",
            "give a CTranslate2 (faster-whisper) folder or a ggml file",
        )
    };
    ModelError::NotAModel {
        path: folder.to_owned(),
        what: what.to_owned(),
        advice: advice.to_owned(),
    }
}
