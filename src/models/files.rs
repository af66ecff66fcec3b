//! Puts model files into place so that no process ever sees an incomplete one.
//!
//! A file is written under a temporary name in the same folder, flushed to the disk, and renamed. A lock file
//! per model prevents processes that need the same one from doing the work twice. Beside each file that this
//! program wrote is a small record (`<file>.json`) with its origin and checksum, so that a conversion is
//! repeated when its source changes, and damage can be detected.

use std::fs::{self, File, TryLockError};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use nix::sys::statvfs::statvfs;
use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

use super::checksum::HashingWriter;
use super::error::{FormatError, ModelError};

/// Interval at which a waiting task tries a lock.
const LOCK_POLL: Duration = Duration::from_millis(100);
/// Prefix and suffix of files that are being written.
const TEMPORARY_PREFIX: &str = ".ggml-";
const TEMPORARY_SUFFIX: &str = ".tmp";
/// Space to leave free on the disk besides the model itself.
const SPARE_BYTES: u64 = 64 * 1024 * 1024;

/// Record of a file that this program put into the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// The operation: `download`, `import` or `convert`.
    pub(crate) made_by: String,
    /// The source file; none for a download.
    pub(crate) source: Option<SourceStamp>,
    /// Size of the file in bytes.
    pub(crate) size_bytes: u64,
    /// SHA-256 of the file when it was written.
    pub(crate) sha256: String,
}

/// Identifies a source file's state without reading it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SourceStamp {
    /// Its path.
    pub(crate) path: PathBuf,
    /// Size in bytes.
    pub(crate) size_bytes: u64,
    /// Last change, in nanoseconds since 1970.
    pub(crate) modified_nanos: u64,
}

impl SourceStamp {
    /// The stamp of a file in its present state.
    pub(crate) fn of(path: &Path) -> Result<Self, ModelError> {
        let path = fs::canonicalize(path).map_err(ModelError::io("find", path))?;
        let metadata = fs::metadata(&path).map_err(ModelError::io("read", &path))?;
        let modified = metadata
            .modified()
            .ok()
            .and_then(|t| t.duration_since(UNIX_EPOCH).ok());
        Ok(Self {
            size_bytes: metadata.len(),
            modified_nanos: modified.map_or(0, |age| age.as_nanos() as u64),
            path,
        })
    }
}

fn record_path(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".json");
    PathBuf::from(name)
}

/// The record beside a file, if it is readable and matches the file's size.
pub(crate) fn read_record(file: &Path) -> Option<Record> {
    let record: Record = serde_json::from_slice(&fs::read(record_path(file)).ok()?).ok()?;
    let size = fs::metadata(file).ok()?.len();
    (record.size_bytes == size).then_some(record)
}

/// Writes the record beside a file.
pub(crate) fn write_record(file: &Path, record: &Record) -> Result<(), ModelError> {
    let path = record_path(file);
    let text = serde_json::to_vec_pretty(record).map_err(io::Error::other);
    let text = text.map_err(ModelError::io("write", &path))?;
    let mut temporary = temporary_in(parent(file))?;
    temporary
        .write_all(&text)
        .map_err(ModelError::io("write", &path))?;
    persist(temporary, &path)
}

/// The folder of a file.
fn parent(file: &Path) -> &Path {
    file.parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

/// A temporary file in a folder, which is created if necessary. It is removed unless persisted.
fn temporary_in(folder: &Path) -> Result<NamedTempFile, ModelError> {
    fs::create_dir_all(folder).map_err(ModelError::io("create the folder", folder))?;
    tempfile::Builder::new()
        .prefix(TEMPORARY_PREFIX)
        .suffix(TEMPORARY_SUFFIX)
        .tempfile_in(folder)
        .map_err(ModelError::io("write into", folder))
}

/// Flushes a temporary file to the disk and gives it its name.
fn persist(temporary: NamedTempFile, target: &Path) -> Result<(), ModelError> {
    readable_by_all(temporary.as_file()).map_err(ModelError::io("set the mode of", target))?;
    temporary
        .as_file()
        .sync_all()
        .map_err(ModelError::io("flush", target))?;
    temporary
        .persist(target)
        .map_err(|error| ModelError::io("put into place", target)(error.error))?;
    sync_folder(target);
    Ok(())
}

/// Temporary files are private; models are shared between users like any other download.
fn readable_by_all(file: &File) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    file.set_permissions(fs::Permissions::from_mode(0o644))
}

/// Makes a rename durable. Errors are ignored: not every file system supports it, and the rename has
/// succeeded.
fn sync_folder(file: &Path) {
    if let Ok(folder) = File::open(parent(file)) {
        let _ = folder.sync_all();
    }
}

/// Writes a model through `fill` and puts it and its record into place.
pub(crate) fn publish(
    target: &Path,
    made_by: &str,
    source: Option<SourceStamp>,
    fill: impl FnOnce(&mut HashingWriter<BufWriter<&File>>) -> Result<(), ModelError>,
) -> Result<Record, ModelError> {
    let temporary = temporary_in(parent(target))?;
    let buffered = BufWriter::with_capacity(1024 * 1024, temporary.as_file());
    let mut out = HashingWriter::new(buffered);
    fill(&mut out)?;
    let (_, sha256, size_bytes) = out.finish().map_err(ModelError::io("write", target))?;
    let record = Record {
        made_by: made_by.to_owned(),
        source,
        size_bytes,
        sha256,
    };
    persist(temporary, target)?;
    write_record(target, &record)?;
    Ok(record)
}

/// Gives a finished download its name, with a record of its checksum.
pub(crate) fn adopt(part: &Path, target: &Path, sha256: String) -> Result<(), ModelError> {
    let file = File::open(part).map_err(ModelError::io("open", part))?;
    file.sync_all().map_err(ModelError::io("flush", part))?;
    let size_bytes = file.metadata().map_err(ModelError::io("read", part))?.len();
    fs::rename(part, target).map_err(ModelError::io("put into place", target))?;
    sync_folder(target);
    let made_by = "download".to_owned();
    write_record(
        target,
        &Record {
            made_by,
            source: None,
            size_bytes,
            sha256,
        },
    )
}

/// Maps an error of a parser that reads `source` and writes `target`: an I/O error while writing does not
/// mean that the source is damaged.
pub(crate) fn blame<'a>(
    source: &'a Path,
    target: &'a Path,
) -> impl FnOnce(FormatError) -> ModelError + 'a {
    move |error| match error {
        FormatError::Io(error) => ModelError::io("convert into", target)(error),
        error => ModelError::corrupt(source)(error),
    }
}

/// A lock on one model of a store, held until dropped.
#[derive(Debug)]
pub(crate) struct ModelLock {
    _file: Option<File>,
}

/// Outcome of an attempt to lock.
enum Attempt {
    Held(ModelLock),
    Busy(File),
}

impl ModelLock {
    fn attempt(file: File) -> Result<Attempt, io::Error> {
        match file.try_lock() {
            Ok(()) => Ok(Attempt::Held(Self { _file: Some(file) })),
            Err(TryLockError::WouldBlock) => Ok(Attempt::Busy(file)),
            // Some network file systems do not support locks. Renaming keeps the files whole anyway.
            Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => {
                tracing::warn!("the file system of the models folder does not support locks");
                Ok(Attempt::Held(Self { _file: None }))
            }
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn open(dir: &Path, name: &str) -> Result<(File, PathBuf), ModelError> {
        fs::create_dir_all(dir).map_err(ModelError::io("create the folder", dir))?;
        let path = dir.join(format!(".ggml-{name}.lock"));
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(ModelError::io("open", &path))?;
        Ok((file, path))
    }

    /// Waits for the lock on `name`, blocking this thread.
    pub(crate) fn take_blocking(dir: &Path, name: &str) -> Result<Self, ModelError> {
        let (file, path) = Self::open(dir, name)?;
        match Self::attempt(file).map_err(ModelError::io("lock", &path))? {
            Attempt::Held(lock) => Ok(lock),
            Attempt::Busy(file) => {
                tracing::info!(
                    model = name,
                    "waiting for another process to finish this model"
                );
                file.lock().map_err(ModelError::io("lock", &path))?;
                Ok(Self { _file: Some(file) })
            }
        }
    }

    /// Waits for the lock on `name`; gives up when the future is dropped.
    pub(crate) async fn take(dir: &Path, name: &str) -> Result<Self, ModelError> {
        let (mut file, path) = Self::open(dir, name)?;
        let mut told = false;
        loop {
            match Self::attempt(file).map_err(ModelError::io("lock", &path))? {
                Attempt::Held(lock) => return Ok(lock),
                Attempt::Busy(again) => file = again,
            }
            if !told {
                tracing::info!(
                    model = name,
                    "waiting for another process to finish this model"
                );
                told = true;
            }
            tokio::time::sleep(LOCK_POLL).await;
        }
    }
}

/// Fails if the disk has too little space. File systems that do not report it pass.
pub(crate) fn require_space(dir: &Path, needed: u64) -> Result<(), ModelError> {
    let Ok(stats) = statvfs(dir) else {
        return Ok(());
    };
    let free = stats
        .blocks_available()
        .saturating_mul(stats.fragment_size());
    if free >= needed.saturating_add(SPARE_BYTES) {
        return Ok(());
    }
    Err(ModelError::NoSpace {
        dir: dir.to_owned(),
        needed,
        free,
    })
}

/// Prefix of the folders in which `scripts/models-from-wheels` works.
const WORK_PREFIX: &str = ".ggml-work-";
/// Age after which files of a killed process are removed.
const STALE_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// Removes temporary files that killed processes left behind a day ago or more.
pub(crate) fn sweep(dir: &Path) {
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_file = name.starts_with(TEMPORARY_PREFIX) && name.ends_with(TEMPORARY_SUFFIX);
        let is_folder = name.starts_with(WORK_PREFIX);
        let age = entry
            .metadata()
            .and_then(|m| m.modified())
            .ok()
            .and_then(|m| m.elapsed().ok());
        if !(is_file || is_folder) || age.is_none_or(|age| age < STALE_AFTER) {
            continue;
        }
        tracing::info!(path = %entry.path().display(), "removing an abandoned temporary file");
        let _ = if is_folder {
            fs::remove_dir_all(entry.path())
        } else {
            fs::remove_file(entry.path())
        };
    }
}
