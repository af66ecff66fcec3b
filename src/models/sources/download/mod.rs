//! Downloads the published ggml files over HTTPS, resumes broken downloads and verifies the result.
//!
//! Bytes go into `<file>.part`. After a broken connection it stays there, and the next try continues it with
//! a Range request. Only a file with a published checksum gets its real name, so the server need not be
//! trusted.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::header::{CONTENT_RANGE, RANGE};
use reqwest::{Client, Response, StatusCode};
use tokio::fs::OpenOptions;
use tokio::io::AsyncWriteExt;

use super::FetchError;
use crate::models::catalogue::CatalogueEntry;
use crate::models::checksum::sha256_file;
use crate::models::error::ModelError;
use crate::models::files;
use crate::models::progress::{Finish, Progress};
use crate::tls;

/// Limit of name resolution, TCP and TLS together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest wait for the status line, redirects included.
const REPLY_TIMEOUT: Duration = Duration::from_secs(20);
/// Longest pause between two bytes of a file.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// Consecutive tries without a new byte after which the download gives up.
const MOST_FRUITLESS_TRIES: u32 = 3;
/// Pause before a connection is tried again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

fn client() -> Result<Client, FetchError> {
    tls::install_crypto();
    Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(IDLE_TIMEOUT)
        .user_agent(concat!("uttera-stt/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|error| FetchError::Unavailable(describe(&error)))
}

/// Fetches a model's file from `base` into `dir`. The caller holds the model's lock.
pub(crate) async fn download(
    base: &str,
    entry: &CatalogueEntry,
    dir: &Path,
    progress: &dyn Progress,
) -> Result<PathBuf, FetchError> {
    let target = dir.join(entry.file_name());
    let part = dir.join(format!("{}.part", entry.file_name()));
    let url = format!("{}/{}", base.trim_end_matches('/'), entry.file_name());
    let client = client()?;
    progress.start(entry.name, Some(entry.size_bytes()));
    let _finish = Finish(progress);
    let resumed = part_size(&part) > 0;
    fetch_all(&client, &url, entry, &part, progress).await?;
    let mut found = hash(&part).await?;
    if resumed && !entry.has_checksum(&found) {
        // The older part may belong to another generation of the file: start over.
        tracing::warn!(
            model = entry.name,
            "resumed download has a wrong checksum, starting over"
        );
        fs::remove_file(&part).map_err(ModelError::io("remove", &part))?;
        fetch_all(&client, &url, entry, &part, progress).await?;
        found = hash(&part).await?;
    }
    if !entry.has_checksum(&found) {
        let _ = fs::remove_file(&part);
        return Err(FetchError::Fatal(ModelError::Checksum {
            path: PathBuf::from(url),
            expected: entry.checksums(),
            found,
        }));
    }
    files::adopt(&part, &target, found)?;
    Ok(target)
}

/// Fetches a file of exactly `size` bytes into memory. The error is a line of the offline message.
pub(crate) async fn fetch_small(url: &str, size: u64) -> Result<Vec<u8>, String> {
    let client = client().map_err(|error| match error {
        FetchError::Unavailable(reason) => reason,
        FetchError::Fatal(error) => error.to_string(),
    })?;
    let reply = tokio::time::timeout(REPLY_TIMEOUT, client.get(url).send()).await;
    let mut response = match reply {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => return Err(describe(&error)),
        Err(_) => return Err(format!("{url}: no response in time")),
    };
    if response.status() != StatusCode::OK {
        return Err(format!(
            "{url}: the server responded with {}",
            response.status()
        ));
    }
    let mut bytes = Vec::new();
    while let Some(block) = response.chunk().await.map_err(|error| describe(&error))? {
        bytes.extend_from_slice(&block);
        if bytes.len() as u64 > size {
            break;
        }
    }
    if bytes.len() as u64 == size {
        return Ok(bytes);
    }
    Err(format!("{url}: it is not the published file"))
}

fn part_size(part: &Path) -> u64 {
    fs::metadata(part).map_or(0, |metadata| metadata.len())
}

async fn hash(path: &Path) -> Result<String, ModelError> {
    let path = path.to_owned();
    tokio::task::spawn_blocking(move || sha256_file(&path))
        .await
        .map_err(ModelError::TaskFailed)?
}

/// Fetches until the part is complete, and continues after breaks as long as new bytes arrive.
async fn fetch_all(
    client: &Client,
    url: &str,
    entry: &CatalogueEntry,
    part: &Path,
    progress: &dyn Progress,
) -> Result<(), FetchError> {
    let mut fruitless = 0;
    loop {
        let before = part_size(part);
        let reason = match fetch_once(client, url, entry, part, progress).await {
            Ok(()) => return Ok(()),
            Err(FetchError::Unavailable(reason)) => reason,
            Err(fatal) => return Err(fatal),
        };
        let after = part_size(part);
        fruitless = if after > before { 0 } else { fruitless + 1 };
        // No byte has ever arrived: the source is unreachable, so fail at once.
        if (before == 0 && after == 0) || fruitless >= MOST_FRUITLESS_TRIES {
            return Err(FetchError::Unavailable(reason));
        }
        tracing::warn!(url, reason, "download broke off, resuming");
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

/// Sends one request. Appends to the part, or starts over if the server cannot resume.
async fn fetch_once(
    client: &Client,
    url: &str,
    entry: &CatalogueEntry,
    part: &Path,
    progress: &dyn Progress,
) -> Result<(), FetchError> {
    let have = part_size(part);
    let largest = entry
        .published
        .iter()
        .map(|file| file.size_bytes)
        .max()
        .unwrap_or(0);
    if have > 0 && entry.published.iter().any(|file| file.size_bytes == have) {
        return Ok(());
    }
    let (response, from) = request_rest(client, url, part, have, largest).await?;
    if let Some(rest) = response.content_length() {
        check_announced(url, entry, from + rest)?;
        files::require_space(part.parent().unwrap_or(Path::new(".")), rest)?;
    }
    let announced = response.content_length().is_some();
    append(response, part, from, largest, progress).await?;
    if !announced {
        // Without an announced length, only the end shows that this was another document.
        let got = fs::metadata(part)
            .map_err(ModelError::io("look at", part))?
            .len();
        let checked = check_announced(url, entry, got);
        if checked.is_err() {
            fs::remove_file(part).map_err(ModelError::io("remove", part))?;
        }
        return checked;
    }
    Ok(())
}

/// Requests the bytes that the part lacks. Returns the response and the offset at which its body begins.
async fn request_rest(
    client: &Client,
    url: &str,
    part: &Path,
    have: u64,
    largest: u64,
) -> Result<(Response, u64), FetchError> {
    let mut request = client.get(url);
    if have > 0 && have < largest {
        request = request.header(RANGE, format!("bytes={have}-"));
    }
    let reply = tokio::time::timeout(REPLY_TIMEOUT, request.send()).await;
    let response = match reply {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => return Err(FetchError::Unavailable(describe(&error))),
        Err(_) => return Err(unavailable(url, "no response in time")),
    };
    match response.status() {
        StatusCode::PARTIAL_CONTENT if starts_at(&response, have) => Ok((response, have)),
        StatusCode::OK => Ok((response, 0)),
        StatusCode::RANGE_NOT_SATISFIABLE | StatusCode::PARTIAL_CONTENT => {
            // The part cannot be continued: the next try starts over.
            fs::remove_file(part).map_err(ModelError::io("remove", part))?;
            Err(unavailable(url, "the server could not resume the download"))
        }
        status => Err(unavailable(
            url,
            &format!("the server responded with {status}"),
        )),
    }
}

/// Rejects a file of another size before gigabytes of it are fetched.
fn check_announced(url: &str, entry: &CatalogueEntry, total: u64) -> Result<(), FetchError> {
    if entry.published.iter().any(|file| file.size_bytes == total) {
        return Ok(());
    }
    Err(unavailable(
        url,
        &format!("it offers {total} bytes, not the published file"),
    ))
}

async fn append(
    mut response: Response,
    part: &Path,
    from: u64,
    largest: u64,
    progress: &dyn Progress,
) -> Result<(), FetchError> {
    let url = response.url().to_string();
    let mut file = OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(from == 0)
        .append(from > 0)
        .open(part)
        .await
        .map_err(ModelError::io("open", part))?;
    let mut done = from;
    progress.advance(done);
    let broken = loop {
        match response.chunk().await {
            Ok(Some(chunk)) => {
                done += chunk.len() as u64;
                if done > largest {
                    break Some(unavailable(
                        &url,
                        "it sends more than the published file has",
                    ));
                }
                file.write_all(&chunk)
                    .await
                    .map_err(ModelError::io("write", part))?;
                progress.advance(done);
            }
            Ok(None) => break None,
            Err(error) => break Some(FetchError::Unavailable(describe(&error))),
        }
    };
    file.flush().await.map_err(ModelError::io("write", part))?;
    broken.map_or(Ok(()), Err)
}

fn starts_at(response: &Response, offset: u64) -> bool {
    response
        .headers()
        .get(CONTENT_RANGE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.starts_with(&format!("bytes {offset}-")))
}

fn unavailable(url: &str, reason: &str) -> FetchError {
    FetchError::Unavailable(format!("{}: {reason}", host(url)))
}

/// The host of a URL, for messages: without user, password and query, which may be secret.
fn host(url: &str) -> String {
    reqwest::Url::parse(url)
        .ok()
        .and_then(|url| url.host_str().map(str::to_owned))
        .unwrap_or_else(|| "the mirror".to_owned())
}

/// One line for an error of reqwest: the host and the innermost cause.
fn describe(error: &reqwest::Error) -> String {
    let place = error
        .url()
        .map_or_else(|| "download".to_owned(), |url| host(url.as_str()));
    if error.is_timeout() {
        return format!("{place}: no connection in time");
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    format!("{place}: {cause}")
}

#[cfg(test)]
mod tests;
