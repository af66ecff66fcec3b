//! The work on one file: from its upload to its written result.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use tokio::sync::Semaphore;
use uttera_stt_client::{Client, Error, ResponseFormat, SpeechOptions};

use super::files::{Outcome, Version};
use super::{is_lasting, names, tell};
use crate::cli::transcribe::job::{FinishedJob, JobError, Pause, finish_job};

/// Files that are with the server at the same time.
const AT_ONCE: usize = 4;
/// The wait for programs that set a file's time of modification after they closed it, as wget does: the file would
/// otherwise count as changed while its job runs.
const SETTLING: Duration = Duration::from_secs(2);
/// The time limit of an upload: this, and what the file takes at this speed.
const UPLOAD_SECONDS: u64 = 600;
const UPLOAD_BYTES_PER_SECOND: u64 = 64 * 1024;

/// A file fails after so many calls that the server ended because the upload took too long (408).
const MOST_SLOW_UPLOADS: u32 = 3;

/// What the work on all files has in common.
pub struct Work {
    client: Client,
    format: ResponseFormat,
    language: Option<String>,
    /// A file is given up if its result cannot be written, or if the server rejects the key or its address is wrong; else
    /// it waits until that changes.
    is_once: bool,
    places: Semaphore,
}

impl Work {
    pub fn new(
        client: Client,
        format: ResponseFormat,
        language: Option<String>,
        is_once: bool,
    ) -> Self {
        Self {
            client,
            format,
            language,
            is_once,
            places: Semaphore::new(AT_ONCE),
        }
    }

    /// Transcribes a complete file and writes the result, or the reason why there is none. While the server is away, busy
    /// or rejects the key, the file waits.
    pub async fn transcribe(&self, file: &Path, result: &Path) -> Outcome {
        tokio::time::sleep(SETTLING).await;
        let (mut pause, mut was_lost, mut slow_uploads) = (Pause::default(), false, 0);
        // The semaphore is never closed.
        let mut place = self.places.acquire().await.ok();
        loop {
            let version = match Version::of(file) {
                Ok(Some(version)) => Ok(version),
                Ok(None) => return Outcome::Gone,
                // The next look tells it, and later ones take the file again.
                Err(error) if is_lasting(&error) => return Outcome::Changed,
                Err(error) => Err(JobError::Call(Error::Source(error))),
            };
            let (version, error) = match version {
                Ok(version) => match self.finish(file, version).await {
                    Ok(job) => return self.keep(&job, file, version, result).await,
                    Err(error) => (Some(version), error),
                },
                Err(error) => (None, error),
            };
            match (version, Version::of(file)) {
                (_, Ok(None)) => return Outcome::Gone,
                (Some(before), Ok(Some(after))) if before != after => return Outcome::Changed,
                _ => {}
            }
            let is_lost = matches!(error, JobError::Lost);
            slow_uploads += u32::from(status(&error) == Some(408));
            if let Some(version) = version
                && (error.is_about_the_file()
                    || (is_lost && was_lost)
                    || slow_uploads >= MOST_SLOW_UPLOADS)
            {
                let is_written = self.fail(file, result, &with_causes(&error)).await;
                return if is_written {
                    Outcome::Failed(version)
                } else {
                    Outcome::GivenUp(version)
                };
            }
            if let Some(version) = version
                && (self.is_once && !is_lost && !error.is_outage())
            {
                tell(format_args!("{}: {}", file.display(), with_causes(&error)));
                return Outcome::GivenUp(version);
            }
            was_lost |= is_lost;
            if !concerns_all_files(&error) {
                place = None;
            }
            if matches!(error, JobError::Call(Error::Source(_))) && pause.is_new() {
                let why = with_causes(&error);
                tell(format_args!("{}: {why}; trying again", file.display()));
            }
            tokio::time::sleep(pause.after(&error)).await;
            if place.is_none() {
                place = self.places.acquire().await.ok();
            }
        }
    }

    async fn finish(&self, file: &Path, version: Version) -> Result<FinishedJob, JobError> {
        let limit = UPLOAD_SECONDS + version.bytes() / UPLOAD_BYTES_PER_SECOND;
        let options = SpeechOptions {
            language: self.language.clone(),
            timeout: Some(Duration::from_secs(limit)),
            ..SpeechOptions::default()
        };
        finish_job(&self.client, file, self.format, &options, None, |_| {}).await
    }

    /// Writes the outcome of a job, and deletes the job then. The outcome of older content is not written.
    async fn keep(
        &self,
        job: &FinishedJob,
        file: &Path,
        version: Version,
        result: &Path,
    ) -> Outcome {
        let is_there = match Version::of(file) {
            Ok(Some(now)) if now != version => {
                self.delete(job).await;
                return Outcome::Changed;
            }
            Ok(now) => now.is_some(),
            // The file system is away: the job tells what the file was.
            Err(_) => true,
        };
        let is_safe = match &job.text {
            Ok(text) => self.write(result, text).await,
            Err(_) if !is_there => true,
            Err(message) => {
                let message = format!("the job failed: {message}");
                self.fail(file, result, &message).await
            }
        };
        if is_safe {
            self.delete(job).await;
        }
        match &job.text {
            _ if !is_there => Outcome::Gone,
            Ok(_) if is_safe => {
                // A failure of older content.
                let _ = std::fs::remove_file(names::failure(result));
                // A closed standard output is no reason to stop.
                let _ = writeln!(std::io::stdout(), "{}", result.display());
                Outcome::Transcribed(version)
            }
            Err(_) if is_safe => Outcome::Failed(version),
            _ => Outcome::GivenUp(version),
        }
    }

    /// A job that cannot be deleted expires.
    async fn delete(&self, job: &FinishedJob) {
        let _ = self.client.delete_job(&job.id).await;
    }

    /// Reports why a file has no result. Returns whether the reason was written.
    async fn fail(&self, file: &Path, result: &Path, why: &str) -> bool {
        tell(format_args!("{}: {why}", file.display()));
        let text = format!("{why}\n");
        self.write(&names::failure(result), &text).await
    }

    /// Writes a file. If that fails, it waits until it succeeds: without the file, the same recording would be
    /// transcribed again and again.
    async fn write(&self, target: &Path, text: &str) -> bool {
        let mut pause = Pause::default();
        loop {
            let Err(error) = names::write(target, text) else {
                return true;
            };
            if pause.is_new() {
                let target = target.display();
                tell(format_args!("{target} cannot be written: {error:#}"));
            }
            if self.is_once {
                return false;
            }
            tokio::time::sleep(pause.next()).await;
        }
    }
}

/// Whether other files would get the same error now, so that they need not be tried meanwhile.
fn concerns_all_files(error: &JobError) -> bool {
    match error {
        JobError::Call(Error::Connect(_)) => true,
        error => status(error).is_some_and(|status| !matches!(status, 408 | 409 | 500)),
    }
}

fn status(error: &JobError) -> Option<u16> {
    match error {
        JobError::Call(Error::Status(error)) => Some(error.status),
        _ => None,
    }
}

fn with_causes(error: &JobError) -> String {
    match error {
        JobError::Call(Error::Source(error)) => format!("the file cannot be read: {error}"),
        error => error.to_string(),
    }
}
