//! The log files: `uttera-stt.log` and its predecessors `.1` to `.4`, of which `.1` is the latest.
//!
//! A thread of its own writes them. Whoever logs never waits for the disk: lines that it cannot take are lost, and
//! counted. A disk or a folder that does not take lines costs lines, never the server; the log on standard error goes
//! on.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tracing::{info, warn};
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};

use crate::metrics::record_lost_log_lines;

/// A file that would get longer than this is rotated, in bytes.
const MAX_BYTES: u64 = 10 * 1000 * 1000;
/// Number of files.
const FILES: usize = 5;
/// Lines that wait for the disk.
const MAX_WAITING_LINES: usize = 4096;
/// The users of the file's group may read it: collectors of logs.
const MODE: u32 = 0o640;
const FOLDER_MODE: u32 = 0o750;
/// After a failure the file is left alone for this long.
const RETRY: Duration = Duration::from_secs(1);

/// Starts the thread that writes the log files. Dropping the guard waits up to a second for the last lines.
pub fn start(folder: &Path, name: &str) -> (NonBlocking, WorkerGuard) {
    let dropped = Arc::new(OnceLock::new());
    let file = LogFile {
        rotating: RotatingFile::new(folder.join(name), MAX_BYTES),
        failed_at: None,
        lost: 0,
        dropped: Arc::clone(&dropped),
    };
    let (writer, guard) = NonBlockingBuilder::default()
        .buffered_lines_limit(MAX_WAITING_LINES)
        .lossy(true)
        .thread_name("log-file")
        .finish(file);
    // Set once, here.
    let _ = dropped.set(writer.error_counter());
    (writer, guard)
}

/// Writes lines to the file, and reports what is lost. It never fails.
struct LogFile {
    rotating: RotatingFile,
    /// When it failed last; `None`: it works.
    failed_at: Option<Instant>,
    /// Lines that could not be written.
    lost: u64,
    /// Lines for which there was no room, set right after the start.
    dropped: Arc<OnceLock<ErrorCounter>>,
}

impl Write for LogFile {
    /// Writes one line.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.failed_at.is_some_and(|at| at.elapsed() < RETRY) {
            self.lost += 1;
        } else {
            match self.rotating.append(line) {
                Ok(()) => self.works(),
                Err(error) => self.failed(&error),
            }
        }
        let dropped = self.dropped.get().map_or(0, ErrorCounter::dropped_lines);
        record_lost_log_lines(self.lost + dropped as u64);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

// These lines go to the file as well, but cause no further ones: only a change of its state does.
impl LogFile {
    fn works(&mut self) {
        if self.failed_at.take().is_some() {
            let (path, lost) = (self.rotating.path.display(), self.lost);
            info!(%path, lost_lines = lost, "the log file is written again");
        }
    }

    fn failed(&mut self, error: &io::Error) {
        self.lost += 1;
        if self.failed_at.replace(Instant::now()).is_none() {
            let path = self.rotating.path.display();
            warn!(
                %path, %error,
                "the log file cannot be written (LOG_DIR); the log continues on standard error"
            );
        }
    }
}

/// A file that is renamed when it is full.
struct RotatingFile {
    path: PathBuf,
    max_bytes: u64,
    open: Option<OpenFile>,
}

struct OpenFile {
    file: File,
    bytes: u64,
    /// Device and number, to notice that the path leads to another file or to none.
    id: (u64, u64),
}

impl RotatingFile {
    fn new(path: PathBuf, max_bytes: u64) -> Self {
        Self {
            path,
            max_bytes,
            open: None,
        }
    }

    /// Appends a line; all of it, or none.
    fn append(&mut self, line: &[u8]) -> io::Result<()> {
        let length = line.len() as u64;
        let mut open = self.current()?;
        if open.bytes > 0 && open.bytes + length > self.max_bytes {
            drop(open);
            self.rotate()?;
            open = self.current()?;
        }
        if let Err(error) = open.file.write_all(line) {
            // The part of a line that a full disk took.
            let _ = open.file.set_len(open.bytes);
            return Err(error);
        }
        open.bytes += length;
        self.open = Some(open);
        Ok(())
    }

    /// The file at the path: the open one, unless somebody moved or removed it.
    fn current(&mut self) -> io::Result<OpenFile> {
        let known = self.open.take();
        let now = fs::metadata(&self.path).map(|found| id(&found)).ok();
        match known.filter(|open| Some(open.id) == now) {
            Some(open) => Ok(open),
            None => self.open(),
        }
    }

    fn open(&self) -> io::Result<OpenFile> {
        if let Some(folder) = self.path.parent() {
            let mut builder = DirBuilder::new();
            builder.recursive(true).mode(FOLDER_MODE).create(folder)?;
        }
        let mut options = OpenOptions::new();
        let file = (options.append(true).create(true).mode(MODE)).open(&self.path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::other("it is not a file"));
        }
        Ok(OpenFile {
            bytes: metadata.len(),
            id: id(&metadata),
            file,
        })
    }

    fn rotate(&self) -> io::Result<()> {
        for number in (1..FILES - 1).rev() {
            rename(&self.numbered(number), &self.numbered(number + 1))?;
        }
        rename(&self.path, &self.numbered(1))
    }

    fn numbered(&self, number: usize) -> PathBuf {
        let mut path = self.path.clone().into_os_string();
        path.push(format!(".{number}"));
        path.into()
    }
}

fn id(metadata: &fs::Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// Renames a file, if there is one.
fn rename(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn append(file: &mut RotatingFile, lines: &[&str]) {
        for line in lines {
            file.append(line.as_bytes()).expect("written");
        }
    }

    fn read(file: &RotatingFile, number: usize) -> Option<String> {
        let path = match number {
            0 => file.path.clone(),
            _ => file.numbered(number),
        };
        fs::read_to_string(path).ok()
    }

    fn log_file(rotating: RotatingFile) -> LogFile {
        LogFile {
            rotating,
            failed_at: None,
            lost: 0,
            dropped: Arc::default(),
        }
    }

    #[test]
    fn a_full_file_is_renamed_and_the_oldest_removed() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut file = RotatingFile::new(folder.path().join("new/a.log"), 8);
        append(&mut file, &["one\n", "two\n", "3\n"]);
        assert_eq!(read(&file, 0).as_deref(), Some("3\n"));
        assert_eq!(read(&file, 1).as_deref(), Some("one\ntwo\n"));
        // A restart continues the file.
        let mut file = RotatingFile::new(file.path, 8);
        append(&mut file, &["4\n", "longer than a file\n"]);
        assert_eq!(read(&file, 1).as_deref(), Some("3\n4\n"));
        append(&mut file, &["5.......\n", "6.......\n", "7.......\n"]);
        let all: Vec<_> = (0..=FILES).map(|number| read(&file, number)).collect();
        assert_eq!(all[0].as_deref(), Some("7.......\n"));
        assert_eq!(all[4].as_deref(), Some("3\n4\n"));
        assert_eq!(all[5], None);
        let mode = fs::metadata(&file.path)
            .expect("there")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777 & !MODE, 0, "{mode:o}");
    }

    #[test]
    fn a_file_or_folder_that_vanished_is_made_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut file = RotatingFile::new(folder.path().join("logs/a.log"), 100);
        append(&mut file, &["one\n"]);
        fs::remove_dir_all(folder.path().join("logs")).expect("removed");
        append(&mut file, &["two\n"]);
        assert_eq!(read(&file, 0).as_deref(), Some("two\n"));
        // As `logrotate` does it.
        fs::rename(&file.path, folder.path().join("logs/moved")).expect("renamed");
        append(&mut file, &["three\n"]);
        assert_eq!(read(&file, 0).as_deref(), Some("three\n"));
    }

    #[test]
    fn a_full_disk_loses_whole_lines_and_never_fails() {
        // A device on which every write fails for lack of space; it is no file, so a link to it is not opened as one.
        let full = OpenOptions::new().append(true).open("/dev/full");
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.log");
        std::os::unix::fs::symlink("/dev/full", &path).expect("linked");
        let mut rotating = RotatingFile::new(path.clone(), 100);
        rotating.open = full.ok().map(|file| OpenFile {
            id: id(&file.metadata().expect("a device")),
            bytes: 0,
            file,
        });
        let mut log = log_file(rotating);
        for _ in 0..3 {
            assert_eq!(log.write(b"line\n").expect("never fails"), 5);
        }
        assert_eq!(log.lost, 3);
        // Space again.
        fs::remove_file(&path).expect("removed");
        log.failed_at = log.failed_at.and_then(|at| at.checked_sub(RETRY));
        log.write_all(b"again\n").expect("never fails");
        assert_eq!(fs::read_to_string(&path).expect("there"), "again\n");
        assert_eq!((log.lost, log.failed_at), (3, None));
    }

    #[test]
    fn a_folder_that_cannot_be_made_loses_lines_only() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("file");
        fs::write(&file, "").expect("written");
        let mut log = log_file(RotatingFile::new(file.join("logs/a.log"), 100));
        log.write_all(b"line\n").expect("never fails");
        assert_eq!(log.lost, 1);
    }
}
