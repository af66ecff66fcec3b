//! Audio to send: its source, name and type.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::stream::{BoxStream, Stream, StreamExt};
use tokio::io::AsyncRead;
use tokio_util::io::ReaderStream;

/// A stream of byte buffers.
pub(crate) type ByteStream = BoxStream<'static, io::Result<Bytes>>;

/// Size of the buffer for reading a file.
const BUFFER_BYTES: usize = 64 * 1024;

/// Audio to send. The client reads a file while it sends it, and never holds all of it in memory. A
/// file and bytes can be sent again; a stream or a reader only if none of it was sent.
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
        buffers: Arc<Mutex<Option<ByteStream>>>,
        length: Option<u64>,
    },
}

impl Audio {
    /// A file, opened again for each attempt.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self::of(Source::File(path.into()))
    }

    /// Bytes in memory.
    pub fn bytes(bytes: impl Into<Bytes>) -> Self {
        Self::of(Source::Bytes(bytes.into()))
    }

    /// Any reader.
    pub fn reader(reader: impl AsyncRead + Send + 'static) -> Self {
        Self::stream(ReaderStream::with_capacity(reader, BUFFER_BYTES))
    }

    /// Any stream of byte buffers.
    pub fn stream(buffers: impl Stream<Item = io::Result<Bytes>> + Send + 'static) -> Self {
        Self::of(Source::Once {
            buffers: Arc::new(Mutex::new(Some(buffers.boxed()))),
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

    /// Sets the file name in the request. Default: the name of the file.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.file_name = Some(name.into());
        self
    }

    /// Sets the MIME type. Default: `application/octet-stream`.
    #[must_use]
    pub fn content_type(mut self, content_type: impl Into<String>) -> Self {
        self.content_type = Some(content_type.into());
        self
    }

    /// Sets the length of a stream or a reader in bytes, if it is known: some servers reject requests
    /// without a length. The call fails if the source has a different length.
    #[must_use]
    pub fn length(mut self, bytes: u64) -> Self {
        if let Source::Once { length, .. } = &mut self.source {
            *length = Some(bytes);
        }
        self
    }

    /// The file name in the request.
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

    /// Whether all of the audio can be sent, possibly again.
    pub(crate) fn is_whole(&self) -> bool {
        match &self.source {
            Source::File(_) | Source::Bytes(_) => true,
            Source::Once { buffers, .. } => {
                let buffers = buffers.lock().unwrap_or_else(PoisonError::into_inner);
                buffers.is_some()
            }
        }
    }
}

/// Opens a file and returns its contents as a stream, and its length.
pub(crate) async fn open(path: &Path) -> io::Result<(ByteStream, u64)> {
    // Checked before opening, because opening a pipe waits for its writer.
    let metadata = tokio::fs::metadata(path).await?;
    if metadata.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    if !metadata.is_file() {
        let kind = "this is not a regular file with a known length; use Audio::reader";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, kind));
    }
    let file = tokio::fs::File::open(path).await?;
    let metadata = file.metadata().await?;
    let buffers = ReaderStream::with_capacity(file, BUFFER_BYTES);
    Ok((buffers.boxed(), metadata.len()))
}

impl fmt::Debug for Audio {
    /// Does not print the audio.
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
