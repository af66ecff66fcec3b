//! What is kept of a job.

use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use stt_actors::domain::finished::FinishedPart;
use stt_actors::{Options, Priority, Progress};

use crate::render::{Details, Format};

/// A job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// Its id: random, so that it cannot be guessed.
    pub id: String,
    /// The id that all jobs of one request share: that of the first one.
    pub batch: String,
    /// Its place in the request, from 0.
    pub number: usize,
    /// The number of files of the request.
    #[serde(default = "one")]
    pub files: usize,
    /// Only this owner may see it.
    pub owner: String,
    /// The client for limits: the owner where keys are configured, else the address.
    pub client: String,
    /// Who is charged for the audio.
    pub submitter: Submitter,
    /// The key with which a repeated request is recognised.
    pub idempotency_key: Option<String>,
    /// The name of the file, as the client sent it.
    pub file_name: Option<String>,
    /// The audio; removed when the job is over.
    pub audio: StoredAudio,
    /// What the client asked for.
    pub form: JobForm,
    /// Where the end of the job is reported.
    pub callback: Option<Callback>,
    /// When it was submitted, in Unix seconds.
    pub created: f64,
    /// When it was taken for the first time, in Unix seconds.
    pub started: Option<f64>,
    /// When it ended, in Unix seconds.
    pub finished: Option<f64>,
    /// When it is removed, in Unix seconds; `None` until it has ended.
    pub expires: Option<f64>,
    /// Its state.
    pub state: State,
    /// Its progress.
    pub progress: Progress,
    /// How often it was taken since its last finished chunk.
    pub attempts: u32,
    /// Why it failed.
    pub error: Option<Failure>,
}

fn one() -> usize {
    1
}

/// Who submitted a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Submitter {
    /// The durable id of the key; `None`: no key.
    pub key: Option<String>,
    /// What the id was made with.
    pub salt: [u8; 16],
    /// The address.
    pub address: Option<IpAddr>,
    /// The priority of its work.
    pub priority: Priority,
}

/// The stored audio of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredAudio {
    /// Its name in the store of audio.
    pub key: String,
    /// Its size.
    pub bytes: u64,
}

/// What a client asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobForm {
    /// How to transcribe.
    pub options: Options,
    /// The format of the result, unless another one is asked for.
    pub format: Format,
    /// What the result contains besides the text.
    pub details: Details,
}

/// The state of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It waits until it is taken.
    Queued,
    /// A node works on it.
    Running,
    /// It has a result.
    Done,
    /// It has an error.
    Failed,
}

impl State {
    /// All states.
    pub const ALL: [Self; 4] = [Self::Queued, Self::Running, Self::Done, Self::Failed];

    /// The name in replies and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Done => "done",
            Self::Failed => "failed",
        }
    }

    /// Whether the job has ended.
    pub fn is_over(self) -> bool {
        matches!(self, Self::Done | Self::Failed)
    }
}

/// Why a job failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The code of the error, as in other replies.
    pub code: String,
    /// For people.
    pub message: String,
}

/// A report of the end of a job to its client.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Callback {
    /// Where it goes.
    pub url: String,
    /// How often it was sent.
    pub attempts: u32,
    /// When it is sent next, in Unix seconds; `None`: the job is not over, or nothing is left to do.
    pub next: Option<f64>,
    /// `pending`, `delivered`, `failed` or `refused`.
    pub state: CallbackState,
}

/// The state of a callback.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CallbackState {
    /// It is still to be sent.
    Pending,
    /// The client's server has accepted it.
    Delivered,
    /// All attempts failed.
    Failed,
    /// The address may not be called.
    Refused,
}

impl CallbackState {
    /// The name in replies.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::Failed => "failed",
            Self::Refused => "refused",
        }
    }
}

impl Callback {
    /// A report to this URL.
    pub fn to(url: String) -> Self {
        Self {
            url,
            attempts: 0,
            next: None,
            state: CallbackState::Pending,
        }
    }
}

impl Job {
    /// Records that a node takes the job.
    pub fn take(&mut self) {
        self.state = State::Running;
        self.started.get_or_insert_with(now);
        self.attempts += 1;
    }

    /// Records progress. An attempt that finished a chunk counts as the first one again.
    pub fn advance(&mut self, progress: Progress, parts: &[FinishedPart]) {
        self.progress = progress;
        let has_chunk = |part: &FinishedPart| matches!(part, FinishedPart::Chunk(_));
        if parts.iter().any(has_chunk) {
            self.attempts = 1;
        }
    }

    /// Records the end. The job is kept for `keep` afterwards.
    pub fn end(&mut self, error: Option<Failure>, keep: Duration) {
        let at = now();
        self.state = if error.is_some() {
            State::Failed
        } else {
            State::Done
        };
        self.error = error;
        self.finished = Some(at);
        self.expires = Some(at + keep.as_secs_f64());
        if let Some(callback) = &mut self.callback {
            callback.next = Some(at);
        }
    }
}

/// The time, in Unix seconds.
pub fn now() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs_f64()
}
