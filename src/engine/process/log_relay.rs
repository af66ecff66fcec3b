//! Copies a worker's standard output and error to the log, line by line. The pipe is always drained, so
//! printing never blocks a worker.

use std::io::PipeReader;
use std::os::fd::OwnedFd;

use stt_actors::domain::ids::WorkerId;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, BufReader};
use tokio::net::unix::pipe::Receiver;
use tracing::{info, warn};

/// Longer lines are cut.
const MAX_LINE_BYTES: usize = 4096;

/// Starts the relay, which ends when the last writer closes the pipe.
pub fn start(worker: WorkerId, pipe: PipeReader) -> std::io::Result<()> {
    let receiver = Receiver::from_owned_fd(OwnedFd::from(pipe))?;
    tokio::spawn(async move {
        let mut reader = BufReader::new(receiver);
        loop {
            match next_line(&mut reader).await {
                Ok(Some(line)) if line.is_empty() => {}
                Ok(Some(line)) => info!(%worker, line, "worker says"),
                Ok(None) => return,
                Err(error) => {
                    warn!(%worker, %error, "cannot read the output of a worker");
                    return;
                }
            }
        }
    });
    Ok(())
}

/// One line without its end, cut to [`MAX_LINE_BYTES`]; `None` at the end of the stream.
async fn next_line<R: AsyncBufRead + Unpin>(reader: &mut R) -> std::io::Result<Option<String>> {
    let mut line = Vec::new();
    loop {
        let available = reader.fill_buf().await?;
        if available.is_empty() {
            return Ok((!line.is_empty()).then(|| text(&line)));
        }
        let end = available.iter().position(|&byte| byte == b'\n');
        let part = &available[..end.unwrap_or(available.len())];
        let room = MAX_LINE_BYTES - line.len();
        line.extend_from_slice(&part[..part.len().min(room)]);
        let used = end.map_or(available.len(), |end| end + 1);
        reader.consume(used);
        if end.is_some() {
            return Ok(Some(text(&line)));
        }
    }
}

fn text(line: &[u8]) -> String {
    String::from_utf8_lossy(line).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn endless_lines_are_cut_and_the_next_one_is_whole() {
        let mut input = vec![b'x'; 100_000];
        input.extend_from_slice(b"\nshort \xff\r\nno end");
        let mut reader = BufReader::new(&input[..]);
        let long = next_line(&mut reader)
            .await
            .expect("reads")
            .expect("a line");
        assert_eq!(long.len(), MAX_LINE_BYTES);
        let short = next_line(&mut reader).await.expect("reads");
        assert_eq!(short.as_deref(), Some("short \u{fffd}"));
        let last = next_line(&mut reader).await.expect("reads");
        assert_eq!(last.as_deref(), Some("no end"));
        assert_eq!(next_line(&mut reader).await.expect("reads"), None);
    }
}
