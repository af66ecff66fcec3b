//! Errors about models, with messages that say what to do.
//!
//! There are two layers: [`FormatError`] describes wrong bytes, [`ModelError`] adds the file, the model and
//! what to do. `Display` never repeats its source; print the chain (`{:#}` of anyhow, or `Error::source`) to
//! see both.

use std::fmt::Write;
use std::io;
use std::path::{Path, PathBuf};

use super::VOICE_ACTIVITY_NAME;
use super::compute::ComputeType;

/// Why bytes are not in the expected format. The parsers return it for any input.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// The file is shorter than its own header promises.
    #[error("it ends early: at byte {at} it announces {needed} more bytes, but has {left}")]
    Truncated {
        /// Offset of the failed read in bytes.
        at: u64,
        /// Bytes that the header announces.
        needed: u64,
        /// Bytes that are left in the file.
        left: u64,
    },
    /// A value that no well-formed file has.
    #[error("{0}")]
    Invalid(String),
    /// The bytes could not be read or written at all.
    #[error("cannot read or write it")]
    Io(#[from] io::Error),
}

impl FormatError {
    /// Shorthand for [`FormatError::Invalid`].
    pub(crate) fn invalid(what: impl Into<String>) -> Self {
        Self::Invalid(what.into())
    }
}

/// Why a model cannot be fetched, read, created or stored.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A name that is neither in the catalogue nor a file or folder.
    #[error("there is no model called {name:?}{}; `uttera-stt models list` shows all", did_you_mean(.near))]
    UnknownName {
        /// The requested name.
        name: String,
        /// Catalogue names that look alike, best first.
        near: Vec<String>,
    },
    /// A catalogue model or a path that is not on disk.
    #[error("{model:?} is not on this machine ({}){hint}", .place.display())]
    NotFound {
        /// The requested name or path.
        model: String,
        /// Where the search took place.
        place: PathBuf,
        /// What to do about it, starting with its own separator; may be empty.
        hint: String,
    },
    /// No source could deliver the model.
    #[error("{}", offline_message(.name, .file, .reasons))]
    Offline {
        /// Name of the model.
        name: String,
        /// Where its file belongs.
        file: PathBuf,
        /// One line per source that was tried.
        reasons: Vec<String>,
    },
    /// The bytes are not those of the published file.
    #[error("{} has the checksum {found}, but should have {expected}: it is damaged or was modified; delete it and fetch it again", .path.display())]
    Checksum {
        /// The file that was checked.
        path: PathBuf,
        /// SHA-256 in hexadecimal, or several joined with "or".
        expected: String,
        /// SHA-256 in hexadecimal.
        found: String,
    },
    /// A model file that is damaged or incomplete.
    #[error("{} is damaged or not a Whisper model; delete it and fetch or import it again", .path.display())]
    Corrupt {
        /// The file in question.
        path: PathBuf,
        /// What the parser found.
        #[source]
        source: FormatError,
    },
    /// A recognised file that is not a model which this program can read.
    #[error("{} is {what}; {advice}", .path.display())]
    NotAModel {
        /// The file or folder.
        path: PathBuf,
        /// What it is, for example "a web page".
        what: String,
        /// What to do instead.
        advice: String,
    },
    /// A checkpoint of the stock openai-whisper package.
    #[error("{}", pytorch_message(.path, .name))]
    IsPyTorch {
        /// The `.pt` file.
        path: PathBuf,
        /// Model name derived from the file name.
        name: String,
    },
    /// A conversion that would lose too much, or that ggml has no format for.
    #[error("{} cannot be converted to {to}: {reason}", .path.display())]
    NotConvertible {
        /// The source file.
        path: PathBuf,
        /// The requested type.
        to: ComputeType,
        /// Why not.
        reason: String,
    },
    /// An import would overwrite another model.
    #[error("{} already exists; delete it first or choose another name with --name", .path.display())]
    Exists {
        /// The existing file.
        path: PathBuf,
    },
    /// A name that cannot be part of a file name.
    #[error("{name:?} cannot name a model: letters, digits, '.', '_' and '-' only, at most 100")]
    BadName {
        /// The name.
        name: String,
    },
    /// The disk is too full.
    #[error("{} has {free} bytes free, {needed} are needed", .dir.display())]
    NoSpace {
        /// The folder on the full disk.
        dir: PathBuf,
        /// Bytes needed.
        needed: u64,
        /// Bytes free.
        free: u64,
    },
    /// An unknown value of COMPUTE_TYPE or `--type`.
    #[error(
        "{value:?} is not a compute type; known types are {}",
        ComputeType::SPELLINGS
    )]
    UnknownComputeType {
        /// The value.
        value: String,
    },
    /// A file or folder could not be read or written.
    #[error("cannot {doing} {}", .path.display())]
    Io {
        /// A verb phrase, for example "create the folder".
        doing: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The error of the operating system.
        #[source]
        source: io::Error,
    },
    /// A background task of this module panicked, which is a bug.
    #[error("the model task ended unexpectedly")]
    TaskFailed(#[source] tokio::task::JoinError),
}

impl ModelError {
    /// Builds a closure for `map_err` on I/O results.
    pub(crate) fn io(
        doing: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io {
            doing,
            path,
            source,
        }
    }

    /// Builds a closure for `map_err` on parser results.
    pub(crate) fn corrupt(path: impl Into<PathBuf>) -> impl FnOnce(FormatError) -> Self {
        let path = path.into();
        move |source| Self::Corrupt { path, source }
    }
}

fn did_you_mean(near: &[String]) -> String {
    match near {
        [] => String::new(),
        names => format!(" (did you mean {}?)", names.join(" or ")),
    }
}

fn offline_message(name: &str, file: &Path, reasons: &[String]) -> String {
    let mut text = format!("the model {name:?} is not on this machine and could not be fetched:");
    for reason in reasons {
        text.push_str("\n  - ");
        text.push_str(reason);
    }
    let folder = file.parent().unwrap_or(Path::new("."));
    let file = file.file_name().unwrap_or_default().to_string_lossy();
    // Writing to a String cannot fail.
    let _ = write!(
        text,
        "\nTo go on without a network:\n  - copy the file {file} into {}",
        folder.display()
    );
    if name != VOICE_ACTIVITY_NAME {
        let _ = write!(
            text,
            "\n  - or run `uttera-stt models import <CTranslate2 folder> --name {name}`"
        );
    }
    text.push_str(
        "\nTo make a source reachable:\
         \n  - set a proxy (HTTPS_PROXY) or a mirror of the model files (UTTERA_MODEL_MIRROR)",
    );
    text
}

fn pytorch_message(path: &Path, name: &str) -> String {
    format!(
        "{} is a PyTorch checkpoint of the stock openai-whisper package, which this program does \
         not read. Fetch the same model in the right format with `uttera-stt models pull {name}`, \
         or convert the checkpoint with whisper.cpp's models/convert-pt-to-ggml.py and name the \
         result ggml-{name}.bin (a Hugging Face model: `ct2-transformers-converter --model \
         openai/whisper-{name} --output_dir DIR --copy_files tokenizer.json --quantization \
         float16`, then `uttera-stt models import DIR`)",
        path.display()
    )
}
