//! A job as replies, events and callbacks show it.

use std::time::Duration;

use serde::Serialize;
use stt_actors::Snapshot;
use utoipa::ToSchema;

use crate::jobs::record::{Job, State};

/// A job.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[schema(as = Job)]
#[serde(deny_unknown_fields)]
pub struct JobReport {
    /// The id.
    pub id: String,
    /// Always `transcription.job`.
    pub object: &'static str,
    /// The id of the first job of the same request.
    pub batch: String,
    /// The place of the file in the request, from 0.
    pub number: usize,
    /// `queued`, `running`, `done`, `failed`; `cancelled` in the last event of a job that was deleted.
    pub status: &'static str,
    /// The name of the file, as the client sent it.
    #[schema(required)]
    pub file_name: Option<String>,
    /// When it was submitted, in Unix seconds.
    pub created_at: f64,
    /// When it was taken for the first time.
    #[schema(required)]
    pub started_at: Option<f64>,
    /// When it ended.
    #[schema(required)]
    pub finished_at: Option<f64>,
    /// When it is removed with its result; null until it has ended.
    #[schema(required)]
    pub expires_at: Option<f64>,
    /// Seconds of audio that are transcribed.
    pub seconds_done: f64,
    /// Length of the audio in seconds, as far as it is known; null until it is decoded.
    #[schema(required)]
    pub seconds_known: Option<f64>,
    /// How many queued jobs come before it; null if it is not queued.
    #[schema(required)]
    pub queue_position: Option<usize>,
    /// Estimated seconds until it is done; null if it is over, or nothing is known of its audio.
    #[schema(required)]
    pub eta_seconds: Option<f64>,
    /// The format of the result, unless another one is asked for.
    pub response_format: &'static str,
    /// Why it failed.
    #[schema(required)]
    pub error: Option<JobFailure>,
    /// The callback, if there is one.
    #[schema(required)]
    pub callback: Option<CallbackReport>,
}

/// Why a job failed.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct JobFailure {
    /// The code, as in other errors.
    pub code: String,
    /// For people.
    pub message: String,
}

/// The callback of a job.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[schema(as = JobCallback)]
#[serde(deny_unknown_fields)]
pub struct CallbackReport {
    /// Where it goes.
    pub url: String,
    /// `pending`, `delivered`, `failed` or `refused`.
    pub status: &'static str,
    /// How often it was sent.
    pub attempts: u32,
}

/// The jobs of a caller.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct JobList {
    /// Always `list`.
    pub object: &'static str,
    /// The jobs, the latest first; those of one request in the order of their files.
    pub data: Vec<JobReport>,
}

/// A job that was deleted.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DeletedJob {
    /// The id.
    pub id: String,
    /// Always `transcription.job`.
    pub object: &'static str,
    /// Always true.
    pub deleted: bool,
}

/// The kind of object, as OpenAI's API names objects.
pub const OBJECT: &str = "transcription.job";

impl JobReport {
    /// A job at this place of the queue, on a node in this state.
    pub fn of(job: &Job, place: Option<usize>, node: &Snapshot) -> Self {
        Self {
            queue_position: place.filter(|_| job.state == State::Queued),
            eta_seconds: eta(job, place, node).map(|eta| (eta.as_secs_f64() * 10.0).round() / 10.0),
            ..Self::of_ended(job)
        }
    }

    /// A job that is over.
    pub fn of_ended(job: &Job) -> Self {
        let known = job.progress.seconds_known;
        Self {
            id: job.id.clone(),
            object: OBJECT,
            batch: job.batch.clone(),
            number: job.number,
            status: job.state.as_str(),
            file_name: job.file_name.clone(),
            created_at: rounded(job.created),
            started_at: job.started.map(rounded),
            finished_at: job.finished.map(rounded),
            expires_at: job.expires.map(rounded),
            seconds_done: rounded(job.progress.seconds_done),
            seconds_known: (known > 0.0).then(|| rounded(known)),
            queue_position: None,
            eta_seconds: None,
            response_format: job.form.format.name(),
            error: job.error.as_ref().map(|error| JobFailure {
                code: error.code.clone(),
                message: error.message.clone(),
            }),
            callback: job.callback.as_ref().map(|callback| CallbackReport {
                url: callback.url.clone(),
                status: callback.state.as_str(),
                attempts: callback.attempts,
            }),
        }
    }

    /// The same job after it was deleted.
    #[must_use]
    pub fn cancelled(self) -> Self {
        Self {
            status: "cancelled",
            queue_position: None,
            eta_seconds: None,
            ..self
        }
    }
}

/// The estimated time until a job is done: the work of the requests before it, and its own audio at the measured speed.
/// Unknown before the audio was decoded, and if other jobs come first.
fn eta(job: &Job, place: Option<usize>, node: &Snapshot) -> Option<Duration> {
    let is_next = match job.state {
        State::Queued => place == Some(0),
        State::Running => true,
        State::Done | State::Failed => false,
    };
    let left = job.progress.seconds_known - job.progress.seconds_done;
    let factor = node
        .hot_real_time_factor
        .filter(|_| is_next && job.progress.seconds_known > 0.0)?;
    let work = Duration::from_secs_f64((left.max(0.0) * factor).min(1e9));
    Some(node.drain_estimate() + work / node.lanes().max(1) as u32)
}

fn rounded(seconds: f64) -> f64 {
    (seconds * 1000.0).round() / 1000.0
}
