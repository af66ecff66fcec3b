//! Jobs: `/v1/audio/jobs`.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::audio::Audio;
use crate::call::Call;
use crate::client::Client;
use crate::error::Error;
use crate::reply;
use crate::speech::{ResponseFormat, SpeechOptions};

const JOBS: &str = "/v1/audio/jobs";
/// The first pause between two looks at a job, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// The least time limit of a look at a job.
const LAST_LOOK: Duration = Duration::from_secs(10);
/// The longest pause between two looks at a job while the server cannot be reached.
const LONGEST_OUTAGE_PAUSE: Duration = Duration::from_secs(60);

/// Options of a job beside those of its transcription.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobOptions {
    /// Where the server reports the end of the job.
    pub callback_url: Option<String>,
    /// A request with the key of an earlier one returns the job of that one. Default: a random key, so that a repeated
    /// attempt makes no second job.
    pub idempotency_key: Option<String>,
}

/// The state of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum JobStatus {
    /// It waits.
    Queued,
    /// A node works on it.
    Running,
    /// It has a result.
    Done,
    /// It has an error.
    Failed,
    /// It was deleted.
    Cancelled,
    /// A state that this version does not know.
    #[serde(other)]
    Unknown,
}

impl JobStatus {
    /// Whether the job has ended.
    pub fn is_over(self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Cancelled)
    }
}

/// A job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Job {
    /// The id.
    pub id: String,
    /// The state.
    pub status: JobStatus,
    /// The name of the file.
    #[serde(default)]
    pub file_name: Option<String>,
    /// When it was submitted, in Unix seconds.
    #[serde(default)]
    pub created_at: f64,
    /// When it is removed, in Unix seconds; `None` until it has ended.
    #[serde(default)]
    pub expires_at: Option<f64>,
    /// Seconds of audio that are transcribed.
    #[serde(default)]
    pub seconds_done: f64,
    /// Length of the audio in seconds, as far as it is known.
    #[serde(default)]
    pub seconds_known: Option<f64>,
    /// How many queued jobs come before it.
    #[serde(default)]
    pub queue_position: Option<u64>,
    /// Estimated seconds until it is done.
    #[serde(default)]
    pub eta_seconds: Option<f64>,
    /// Why it failed.
    #[serde(default)]
    pub error: Option<JobFailure>,
    /// Its callback.
    #[serde(default)]
    pub callback: Option<JobCallback>,
}

/// Why a job failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct JobFailure {
    /// The code, as in errors of requests.
    pub code: String,
    /// For people.
    pub message: String,
}

/// The callback of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct JobCallback {
    /// Where it goes.
    pub url: String,
    /// `pending`, `delivered`, `failed` or `refused`.
    pub status: String,
    /// How often it was sent.
    pub attempts: u32,
}

#[derive(Deserialize)]
struct Jobs {
    data: Vec<Job>,
}

impl Client {
    /// `POST /v1/audio/jobs`: submits audio whose text is fetched later, in `format` unless another one is asked for then.
    pub async fn submit_job(
        &self,
        audio: impl Into<Audio>,
        format: ResponseFormat,
        options: &SpeechOptions,
        job: &JobOptions,
    ) -> Result<Job, Error> {
        let mut fields = options.form_fields(format);
        let callback = job.callback_url.iter();
        fields.extend(callback.map(|url| ("callback_url".to_owned(), url.clone())));
        let key =
            (job.idempotency_key.clone()).unwrap_or_else(|| format!("{:032x}", fastrand::u128(..)));
        let call = Call {
            request_id: options.request_id.clone(),
            timeout: options.timeout,
            headers: vec![("Idempotency-Key".to_owned(), key)],
            ..Call::post(JOBS, fields, audio.into())
        };
        Ok(self.run(&call, reply::json).await?.0)
    }

    /// `GET /v1/audio/jobs/{id}`.
    pub async fn job(&self, id: &str) -> Result<Job, Error> {
        Ok(self.run(&Call::get(path(id, "")?), reply::json).await?.0)
    }

    /// `GET /v1/audio/jobs`: the caller's jobs, the latest first.
    pub async fn jobs(&self) -> Result<Vec<Job>, Error> {
        let (jobs, _): (Jobs, _) = self.run(&Call::get(JOBS), reply::json).await?;
        Ok(jobs.data)
    }

    /// `GET /v1/audio/jobs/{id}/result`: the text of a job that is done, in this format.
    pub async fn job_result(&self, id: &str, format: ResponseFormat) -> Result<String, Error> {
        let path = path(id, &format!("/result?response_format={}", format.name()))?;
        Ok(self.run(&Call::get(path), reply::text).await?.0)
    }

    /// `DELETE /v1/audio/jobs/{id}`: cancels a job if it is not over, and removes it.
    pub async fn delete_job(&self, id: &str) -> Result<(), Error> {
        self.run(&Call::delete(path(id, "")?), reply::text).await?;
        Ok(())
    }

    /// Waits until a job is over, and returns it. `progress` gets the job after each look at it.
    ///
    /// The wait itself has no time limit. A server that is away or busy does not end it before `patience` has passed
    /// since the last answer (`None`: never), and at most ten seconds more for the last look: a look that fails with an error that a later call may not get (see
    /// [`Error::is_retryable`]), or at the time limit of a call, is repeated after a pause that grows to a minute. A
    /// caller that does not want to wait any longer drops the future; the job stays as it is. The telemetry hook reports
    /// the failed looks.
    ///
    /// # Errors
    /// The server rejects the look: the key is not valid, or there is no such job (404). Or the last failure, when
    /// `patience` is over.
    pub async fn wait_for_job(
        &self,
        id: &str,
        patience: Option<Duration>,
        mut progress: impl FnMut(&Job),
    ) -> Result<Job, Error> {
        let (mut pause, mut outage_pause) = (FIRST_PAUSE, FIRST_PAUSE);
        let mut answered = Instant::now();
        loop {
            match self.look_at(id, patience, answered).await {
                Ok(job) => {
                    answered = Instant::now();
                    progress(&job);
                    if job.status.is_over() {
                        return Ok(job);
                    }
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    outage_pause = FIRST_PAUSE;
                }
                Err(error) if error.is_retryable() || matches!(error, Error::Timeout { .. }) => {
                    let left = patience.map(|patience| patience.checked_sub(answered.elapsed()));
                    let left = match left {
                        Some(None) => return Err(error),
                        Some(Some(left)) => left,
                        None => Duration::MAX,
                    };
                    let asked = error.retry_after().unwrap_or_default();
                    let wait = outage_pause.max(asked.min(LONGEST_OUTAGE_PAUSE));
                    // The last look is at the end.
                    tokio::time::sleep(wait.min(left)).await;
                    outage_pause = (outage_pause * 2).min(LONGEST_OUTAGE_PAUSE);
                }
                Err(error) => return Err(error),
            }
        }
    }
}

impl Client {
    /// One look at a job, which ends with the patience.
    async fn look_at(
        &self,
        id: &str,
        patience: Option<Duration>,
        answered: Instant,
    ) -> Result<Job, Error> {
        let look = self.job(id);
        let Some(patience) = patience else {
            return look.await;
        };
        let left = patience.saturating_sub(answered.elapsed()).max(LAST_LOOK);
        let looked = tokio::time::timeout(left, look).await;
        looked.unwrap_or(Err(Error::Timeout {
            limit: left,
            whole: true,
        }))
    }
}

/// The path of a job.
fn path(id: &str, rest: &str) -> Result<String, Error> {
    let is_id = !id.is_empty()
        && id
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if !is_id {
        return Err(Error::Invalid(format!("{id:?} is no id of a job")));
    }
    Ok(format!("{JOBS}/{id}{rest}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_may_lack_what_is_unknown_and_have_what_this_version_does_not_know() {
        let job: Job =
            serde_json::from_str(r#"{"id":"1","status":"resting","more":1}"#).expect("a job");
        assert_eq!((job.status, job.seconds_known), (JobStatus::Unknown, None));
        assert!(path("../health", "").is_err());
        assert_eq!(path("1a", "/x").expect("an id"), "/v1/audio/jobs/1a/x");
    }
}
