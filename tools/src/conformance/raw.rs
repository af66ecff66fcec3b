//! A connection on which a check writes the bytes of a request itself: what the HTTP client would not send.

use anyhow::{Context, bail, ensure};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::check::Skip;
use super::target::Target;

/// Maximum size of an answer, in bytes.
const MAX_ANSWER_BYTES: usize = 1 << 20;

/// A connection to the server.
pub struct Connection {
    stream: BufReader<TcpStream>,
    /// The `Host` header's value.
    host: String,
    /// What precedes the paths of the API.
    prefix: String,
}

/// The status line, headers and body of an answer.
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Header lines in lower case.
    pub headers: Vec<String>,
    /// The body as text.
    pub body: String,
}

impl Connection {
    /// Connects to the server.
    ///
    /// # Errors
    /// The server cannot be reached; [`Skip`] if it is reached through TLS.
    pub async fn open(target: &Target) -> anyhow::Result<Self> {
        let url = reqwest::Url::parse(target.url())?;
        if url.scheme() != "http" {
            bail!(Skip("the server is reached through TLS"));
        }
        let (host, port) = url
            .host_str()
            .zip(url.port_or_known_default())
            .context("the address has no host")?;
        let stream = TcpStream::connect((host.trim_matches(['[', ']']), port)).await?;
        Ok(Self {
            stream: BufReader::new(stream),
            host: format!("{host}:{port}"),
            prefix: url.path().trim_end_matches('/').to_owned(),
        })
    }

    /// Writes these bytes.
    ///
    /// # Errors
    /// The server has closed the connection.
    pub async fn send(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        Ok(self.stream.write_all(bytes).await?)
    }

    /// Sends a GET request with these additional header lines, each with its line break, and reads the answer.
    ///
    /// # Errors
    /// As [`Self::answer`].
    pub async fn get(&mut self, path: &str, headers: &str) -> anyhow::Result<Answer> {
        let (host, prefix) = (&self.host, &self.prefix);
        let request = format!("GET {prefix}{path} HTTP/1.1\r\nHost: {host}\r\n{headers}\r\n");
        self.send(request.as_bytes()).await?;
        self.answer().await
    }

    /// Reads an answer that has a Content-Length.
    ///
    /// # Errors
    /// The connection ends before the answer does, or the answer is not HTTP/1.
    pub async fn answer(&mut self) -> anyhow::Result<Answer> {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            let mut limited = (&mut self.stream).take(MAX_ANSWER_BYTES as u64);
            let length = limited.read_line(&mut line).await?;
            ensure!(length > 0, "the connection was closed without an answer");
            match line.trim_end() {
                "" => break,
                line => lines.push(line.to_ascii_lowercase()),
            }
        }
        ensure!(!lines.is_empty(), "the answer begins with an empty line");
        let status = lines.remove(0);
        let status = status
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok());
        let length = lines
            .iter()
            .find_map(|line| line.strip_prefix("content-length:"));
        let length: usize = length
            .context("the answer has no Content-Length")?
            .trim()
            .parse()?;
        ensure!(length <= MAX_ANSWER_BYTES, "the answer has {length} bytes");
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).await?;
        Ok(Answer {
            status: status.context("the answer is not HTTP/1")?,
            headers: lines,
            body: String::from_utf8_lossy(&body).into_owned(),
        })
    }

    /// Checks that the server closes the connection without sending more.
    ///
    /// # Errors
    /// More bytes arrive.
    pub async fn ensure_closed(&mut self) -> anyhow::Result<()> {
        let mut byte = [0];
        match self.stream.read(&mut byte).await {
            Ok(0) | Err(_) => Ok(()),
            Ok(_) => bail!("more bytes follow the answer"),
        }
    }
}
