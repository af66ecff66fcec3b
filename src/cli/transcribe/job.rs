//! The text of a file by a job of a server: for `transcribe --job` and `watch`.

use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use sha2::{Digest, Sha256};
use thiserror::Error;
use uttera_stt_client::{Audio, Client, Error, Job, JobOptions, ResponseFormat, SpeechOptions};

use super::Progress;
use crate::models::checksum::hex;

/// The longest pause before another attempt.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// A job that has ended. The server keeps it until it is deleted or expires.
pub struct FinishedJob {
    /// The id.
    pub id: String,
    /// The text, or why there is none.
    pub text: Result<String, String>,
}

/// Why the outcome of a job is not known.
#[derive(Debug, Error)]
pub enum JobError {
    /// A call failed, or the file cannot be read.
    #[error(transparent)]
    Call(#[from] Error),
    /// The server accepted the job, and is away for longer than the caller waits.
    #[error("{0}; the job stays on the server, and the same command takes it up again")]
    Away(Error),
    /// The server accepted the job, and does not have it any more.
    #[error("the server does not have the job any more")]
    Lost,
}

impl JobError {
    /// Whether the server is away or busy, see [`is_outage`].
    pub fn is_outage(&self) -> bool {
        match self {
            Self::Call(error) => is_outage(error),
            Self::Away(_) | Self::Lost => false,
        }
    }

    /// Whether the file is the reason, see [`is_about_the_file`].
    pub fn is_about_the_file(&self) -> bool {
        match self {
            Self::Call(error) => is_about_the_file(error),
            Self::Away(_) | Self::Lost => false,
        }
    }
}

/// Whether the server is away or busy, so that the same call may succeed later.
pub fn is_outage(error: &Error) -> bool {
    error.is_retryable() || matches!(error, Error::Timeout { .. })
}

/// Whether the file is the reason for an error, so that no later attempt succeeds while the file stays the same. An error
/// of the server, its address, the key or a proxy is no reason to give up a file.
pub fn is_about_the_file(error: &Error) -> bool {
    match error {
        Error::Status(error) => is_status_about_the_file(error.status),
        Error::Source(error) => matches!(
            error.kind(),
            ErrorKind::PermissionDenied | ErrorKind::InvalidInput
        ),
        error => matches!(error, Error::Invalid(_)),
    }
}

fn is_status_about_the_file(status: u16) -> bool {
    let is_about_other_things =
        matches!(status, 401 | 403 | 404 | 405 | 407 | 408 | 409 | 425 | 429);
    (400..500).contains(&status) && !is_about_other_things
}

/// Pauses before further attempts: from a second, each twice as long, to a minute.
#[derive(Debug, Default)]
pub struct Pause {
    attempts: u32,
}

impl Pause {
    /// Whether there was no pause yet.
    pub fn is_new(&self) -> bool {
        self.attempts == 0
    }

    /// The next pause.
    pub fn next(&mut self) -> Duration {
        let pause = Duration::from_secs(1 << self.attempts.min(6)).min(LONGEST_PAUSE);
        self.attempts += 1;
        pause
    }

    /// The pause after an error, at least what the server asks for, up to a minute.
    pub fn after(&mut self, error: &JobError) -> Duration {
        let asked = match error {
            JobError::Call(error) => error.retry_after().unwrap_or_default(),
            JobError::Away(_) | JobError::Lost => Duration::ZERO,
        };
        self.next().max(asked.min(LONGEST_PAUSE))
    }
}

/// Submits a file as a job, and waits for it; the caller deletes the job when its text is safe. The same file with the
/// same options is the same job, as long as the server keeps it: another call takes it up without another upload.
/// `submitted` gets the job at once. `patience`: how long the server may be away then; `None`: for ever.
///
/// # Errors
/// The file cannot be read, the server cannot be reached or rejects a call, is away for too long, or does not have the
/// job any more.
pub async fn finish_job(
    client: &Client,
    file: &Path,
    format: ResponseFormat,
    options: &SpeechOptions,
    patience: Option<Duration>,
    submitted: impl FnOnce(&Job),
) -> Result<FinishedJob, JobError> {
    let key = idempotency_key(file, format, options).map_err(Error::Source)?;
    let job = JobOptions {
        idempotency_key: Some(key),
        ..JobOptions::default()
    };
    let Progress(bar) = &Progress::of(file, "{msg} {bar:30} {pos}/{len} s of audio");
    let job = (client.submit_job(Audio::file(file), format, options, &job)).await?;
    submitted(&job);
    let show = |job: &Job| {
        bar.set_length(job.seconds_known.unwrap_or_default().ceil() as u64);
        bar.set_position(job.seconds_done as u64);
    };
    let ended = client.wait_for_job(&job.id, patience, show).await;
    let job = ended.map_err(|error| match error {
        error if is_outage(&error) => JobError::Away(error),
        error => lost(error),
    })?;
    let text = match job.error {
        Some(error) => Err(error.message),
        None => Ok(client.job_result(&job.id, format).await.map_err(lost)?),
    };
    Ok(FinishedJob { id: job.id, text })
}

/// An error of a call about a job that was accepted.
fn lost(error: Error) -> JobError {
    match error.status() {
        Some(status) if status.status == 404 => JobError::Lost,
        _ => error.into(),
    }
}

/// A key that is equal for the same file with the same options.
fn idempotency_key(
    file: &Path,
    format: ResponseFormat,
    options: &SpeechOptions,
) -> std::io::Result<String> {
    let metadata = std::fs::metadata(file)?;
    let path = std::fs::canonicalize(file)?;
    let modified = metadata.modified()?.duration_since(std::time::UNIX_EPOCH);
    let modified = modified.unwrap_or_default().as_nanos();
    // The time limit of the upload does not change the job.
    let options = SpeechOptions {
        timeout: None,
        ..options.clone()
    };
    let what = format!("{} {modified} {format:?} {options:?}", metadata.len());
    let digest = Sha256::new()
        .chain_update(path.as_os_str().as_encoded_bytes())
        .chain_update([0])
        .chain_update(what)
        .finalize();
    Ok(hex(&digest[..16]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_minute() {
        let mut pause = Pause::default();
        let seconds: Vec<u64> = (0..8).map(|_| pause.next().as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 32, 60, 60]);
    }

    #[test]
    fn an_outage_is_never_the_fault_of_a_file() {
        let unreachable = [
            Error::Connect(String::new()),
            Error::Interrupted(String::new()),
            Error::BadReply(String::new()),
            Error::Timeout {
                limit: Duration::ZERO,
                whole: true,
            },
        ];
        for error in unreachable.map(JobError::Call) {
            assert!(error.is_outage() && !error.is_about_the_file(), "{error}");
        }
        for status in [400, 413, 415, 422] {
            assert!(is_status_about_the_file(status), "{status}");
        }
        for status in [301, 401, 403, 404, 408, 409, 425, 429, 500, 502, 503, 507] {
            assert!(!is_status_about_the_file(status), "{status}");
        }
        let stale = std::io::Error::from_raw_os_error(nix::libc::ESTALE);
        let locked = ErrorKind::PermissionDenied.into();
        assert!(!JobError::Call(Error::Source(stale)).is_about_the_file());
        assert!(JobError::Call(Error::Source(locked)).is_about_the_file());
    }
}
