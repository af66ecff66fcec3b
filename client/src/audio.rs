//! Audio to send: where it comes from and what it is called.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::stream::{BoxStream, Stream, StreamExt};
use tokio::io::AsyncRead;
use tokio_util::io::ReaderStream;

/// Bytes that come piece by piece.
pub(crate) type Pieces = BoxStream<'static, io::Result<Bytes>>;

/// How much of a file is read at a time.
const PIECE_BYTES: usize = 64 * 1024;

/// Audio to be sent. A file is read while it is sent and never held whole; a file and bytes can be
/// sent again, a stream or a reader only as long as nothing of it went out.
#[derive(Clone)]
pub struct Audio {
    pub(crate) source: Source,
    file_name: Option<String>,
    content_type: Option<String>,
}

#[derive(Clone)]
pub(crate) enum Source {
    File(PathBuf),
    Bytes(Bytes),
    Once {
        pieces: Arc<Mutex<Option<Pieces>>>,
        length: Option<u64>,
    },
}

impl Audio {
    /// A file. It is opened anew for each attempt.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self::of(Source::File(path.into()))
    }

    /// Bytes in memory.
    pub fn bytes(bytes: impl Into<Bytes>) -> Self {
        Self::of(Source::Bytes(bytes.into()))
    }

    /// Anything that can be read.
    pub fn reader(reader: impl AsyncRead + Send + 'static) -> Self {
        Self::stream(ReaderStream::with_capacity(reader, PIECE_BYTES))
    }

    /// Pieces as they come.
    pub fn stream(pieces: impl Stream<Item = io::Result<Bytes>> + Send + 'static) -> Self {
        Self::of(Source::Once {
            pieces: Arc::new(Mutex::new(Some(pieces.boxed()))),
            length: None,
        })
    }

    fn of(source: Source) -> Self {
        Self {
            source,
            file_name: None,
            content_type: None,
        }
    }

    /// What the file is called in the request; a file's own name without it.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.file_name = Some(name.into());
        self
    }

    /// Its MIME type, `application/octet-stream` without it.
    #[must_use]
    pub fn content_type(mut self, content_type: impl Into<String>) -> Self {
        self.content_type = Some(content_type.into());
        self
    }

    /// How many bytes a stream or a reader has, where that is known: some servers refuse what has no
    /// length. One that has more or less fails.
    #[must_use]
    pub fn length(mut self, bytes: u64) -> Self {
        if let Source::Once { length, .. } = &mut self.source {
            *length = Some(bytes);
        }
        self
    }

    /// The name in the request.
    pub(crate) fn name(&self) -> String {
        let of_file = || match &self.source {
            Source::File(path) => Some(path.file_name()?.to_string_lossy().into_owned()),
            Source::Bytes(_) | Source::Once { .. } => None,
        };
        let name = self.file_name.clone().or_else(of_file);
        name.unwrap_or_else(|| "audio".to_owned())
    }

    pub(crate) fn mime(&self) -> &str {
        let given = self.content_type.as_deref();
        given.unwrap_or("application/octet-stream")
    }

    /// Whether all of it can be sent (once more).
    pub(crate) fn is_whole(&self) -> bool {
        match &self.source {
            Source::File(_) | Source::Bytes(_) => true,
            Source::Once { pieces, .. } => {
                let pieces = pieces.lock().unwrap_or_else(PoisonError::into_inner);
                pieces.is_some()
            }
        }
    }
}

/// The pieces of a file, and its length.
pub(crate) async fn open(path: &Path) -> io::Result<(Pieces, u64)> {
    // Before it is opened: that of a pipe waits for whoever writes.
    let metadata = tokio::fs::metadata(path).await?;
    if metadata.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    if !metadata.is_file() {
        let kind = "it is no file whose length is known; a reader sends such";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, kind));
    }
    let file = tokio::fs::File::open(path).await?;
    let metadata = file.metadata().await?;
    let pieces = ReaderStream::with_capacity(file, PIECE_BYTES);
    Ok((pieces.boxed(), metadata.len()))
}

impl fmt::Debug for Audio {
    /// Without the audio itself.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.source {
            Source::File(_) => "file",
            Source::Bytes(_) => "bytes",
            Source::Once { .. } => "stream",
        };
        write!(formatter, "Audio({kind} {:?})", self.name())
    }
}

impl From<PathBuf> for Audio {
    fn from(path: PathBuf) -> Self {
        Self::file(path)
    }
}

impl From<&Path> for Audio {
    fn from(path: &Path) -> Self {
        Self::file(path)
    }
}

impl From<Bytes> for Audio {
    fn from(bytes: Bytes) -> Self {
        Self::bytes(bytes)
    }
}

impl From<Vec<u8>> for Audio {
    fn from(bytes: Vec<u8>) -> Self {
        Self::bytes(bytes)
    }
}
