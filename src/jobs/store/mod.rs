//! Where jobs are kept: in a database in a file of this node ([`embedded`]), or in Redis for several nodes that share
//! their jobs ([`shared`]).
//!
//! A job that is taken is *leased* to the node that took it. The embedded store belongs to one process, so that every
//! lease ends when the store is opened again. In a store that nodes share, a lease ends unless it is renewed.

pub mod embedded;
mod resting;
pub mod shared;

use std::io;
use std::time::Duration;

use async_trait::async_trait;
use stt_actors::Progress;
use stt_actors::domain::finished::{FinishedPart, FinishedWork};
use stt_actors::domain::transcript::Transcript;
use thiserror::Error;
use tokio::sync::watch;

use crate::jobs::record::{Callback, Failure, Job, State};

/// How long a callback belongs to whom took it.
pub const CALLBACK_LEASE: Duration = Duration::from_secs(120);

/// Why a store did not do what was asked.
#[derive(Debug, Error)]
pub enum StoreError {
    /// There is no space for it. Everything that was stored before can still be read.
    #[error("there is no space on disk to store the job")]
    Full,
    /// The store cannot be used now.
    #[error("the store of jobs cannot be used: {0}")]
    Unavailable(String),
    /// What was read is not what was written, or another version wrote it.
    #[error("the store of jobs has an entry that cannot be read: {0}")]
    Unreadable(String),
}

impl From<io::Error> for StoreError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full,
            _ => Self::Unavailable(error.to_string()),
        }
    }
}

/// What became of new jobs.
#[derive(Debug)]
pub enum Put {
    /// They are stored.
    Added(Vec<Job>),
    /// The client has jobs with this idempotency key: these.
    Known(Vec<Job>),
    /// They are not stored: there would be too many.
    Exceeded(Exceeded),
}

/// Limits of what is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PutLimits {
    /// Most jobs of all clients, in whatever state.
    pub jobs: usize,
    /// Most bytes of audio of all jobs that are not over.
    pub bytes: u64,
    /// Most jobs of one client, in whatever state.
    pub client_jobs: usize,
    /// Most bytes of audio of one client's jobs that are not over.
    pub client_bytes: u64,
}

/// A limit that new jobs would exceed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exceeded {
    /// [`PutLimits::client_jobs`]; the client has this number.
    ClientJobs(usize),
    /// [`PutLimits::client_bytes`].
    ClientBytes,
    /// [`PutLimits::jobs`].
    Jobs,
    /// [`PutLimits::bytes`].
    Bytes,
}

impl PutLimits {
    /// The limit that new jobs of one client would exceed. `counts`: what is kept, with the numbers of this client.
    pub fn exceeded(&self, counts: &Counts, new: &[Job]) -> Option<Exceeded> {
        let bytes = new.iter().map(|job| job.audio.bytes).sum();
        self.exceeded_by(counts, new.len(), bytes)
    }

    /// The same for a number of jobs and bytes.
    pub fn exceeded_by(&self, counts: &Counts, jobs: usize, bytes: u64) -> Option<Exceeded> {
        let kept: usize = counts.by_state.iter().sum();
        if counts.of_client + jobs > self.client_jobs {
            Some(Exceeded::ClientJobs(counts.of_client))
        } else if counts.client_bytes + bytes > self.client_bytes {
            Some(Exceeded::ClientBytes)
        } else if kept + jobs > self.jobs {
            Some(Exceeded::Jobs)
        } else if counts.audio_bytes + bytes > self.bytes {
            Some(Exceeded::Bytes)
        } else {
            None
        }
    }
}

/// A job that this node has taken.
#[derive(Debug)]
pub struct Claimed {
    /// The job.
    pub job: Job,
    /// The work that earlier attempts finished.
    pub finished: FinishedWork,
}

/// For how long a job that is put back is not taken, so that others come first. A restart of the process ends it for this
/// process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rest {
    /// By this process.
    pub here: Duration,
    /// By any process that shares the store.
    pub everywhere: Duration,
}

/// Numbers of jobs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Jobs by state, in the order of [`State::ALL`].
    pub by_state: [usize; State::ALL.len()],
    /// Those of the client in the question.
    pub of_client: usize,
    /// Bytes of stored audio.
    pub audio_bytes: u64,
    /// Those of the client in the question.
    pub client_bytes: u64,
}

impl Counts {
    /// Counts a job. `client`: the client in the question.
    pub fn add(&mut self, job: &Job, client: Option<&str>) {
        for (count, state) in self.by_state.iter_mut().zip(State::ALL) {
            *count += usize::from(state == job.state);
        }
        let is_of_client = client == Some(&*job.client);
        self.of_client += usize::from(is_of_client);
        if !job.state.is_over() {
            self.audio_bytes += job.audio.bytes;
            self.client_bytes += job.audio.bytes * u64::from(is_of_client);
        }
    }

    /// The number of jobs in a state.
    pub fn of(&self, state: State) -> usize {
        let counts = self.by_state.iter().zip(State::ALL);
        counts
            .filter(|(_, other)| *other == state)
            .map(|(count, _)| count)
            .sum()
    }
}

/// Keeps jobs. Every change is durable when its call returns.
#[async_trait]
pub trait JobStore: Send + Sync {
    /// Random bytes that stay the same as long as the store exists: ids of keys without a name are derived from them, and
    /// the names of its audio.
    fn salt(&self) -> [u8; 16];

    /// Whether other nodes take jobs from it, too.
    fn is_shared(&self) -> bool {
        false
    }

    /// Removes what is left over, and restores what was lost. Called every ten seconds.
    async fn maintain(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Announces every change that this process makes or hears of, with a growing number.
    fn changes(&self) -> watch::Receiver<u64>;

    /// Adds the jobs of one request, all or none, unless the client has jobs with their idempotency key, or they exceed a
    /// limit. After [`StoreError::Unavailable`], they may be stored or not.
    async fn put(&self, jobs: Vec<Job>, limits: PutLimits) -> Result<Put, StoreError>;

    /// The client's jobs with this idempotency key, in the order of their files.
    async fn known(&self, client: &str, idempotency_key: &str) -> Result<Vec<Job>, StoreError>;

    /// A job.
    async fn get(&self, id: &str) -> Result<Option<Job>, StoreError>;

    /// All jobs of an owner.
    async fn list(&self, owner: &str) -> Result<Vec<Job>, StoreError>;

    /// How many queued jobs come before each of these; `None`: it is not queued.
    async fn places(&self, ids: &[&str]) -> Result<Vec<Option<usize>>, StoreError>;

    /// Jobs by state and the space of their audio, of all clients and of this one.
    async fn counts(&self, client: Option<&str>) -> Result<Counts, StoreError>;

    /// Takes the queued job that waits longest of those that do not rest, or one whose node died.
    async fn claim(&self) -> Result<Option<Claimed>, StoreError>;

    /// Extends the lease of a job. Returns whether this node still has it.
    async fn renew(&self, id: &str) -> Result<bool, StoreError>;

    /// Stores progress and newly finished work. Returns whether this node still has the job.
    async fn save(
        &self,
        id: &str,
        progress: Progress,
        parts: Vec<FinishedPart>,
    ) -> Result<bool, StoreError>;

    /// Stores the result, or why there is none, and ends the job. Returns whether this node still had it: only one
    /// node's end counts.
    async fn finish(
        &self,
        id: &str,
        end: Result<Transcript, Failure>,
    ) -> Result<Option<Job>, StoreError>;

    /// Puts a job back into the queue. With `blameless`, the attempt does not count.
    async fn release(&self, id: &str, blameless: bool, rest: Rest) -> Result<(), StoreError>;

    /// The result of a job that is done.
    async fn result(&self, id: &str) -> Result<Option<Transcript>, StoreError>;

    /// Removes everything of a job but its audio. Returns the job, if it was there.
    async fn remove(&self, id: &str) -> Result<Option<Job>, StoreError>;

    /// The jobs that expired before this time, in Unix seconds.
    async fn expired(&self, at: f64) -> Result<Vec<Job>, StoreError>;

    /// Takes at most this many jobs whose callback is due at this time, in Unix seconds: for [`CALLBACK_LEASE`] or until
    /// [`Self::set_callback`], they are due for nobody else. Also returns when the next one is due.
    async fn take_callbacks(
        &self,
        at: f64,
        most: usize,
    ) -> Result<(Vec<Job>, Option<f64>), StoreError>;

    /// Makes a callback that was taken due at this time, in Unix seconds.
    async fn postpone_callback(&self, id: &str, until: f64) -> Result<(), StoreError>;

    /// Stores the state of a callback.
    async fn set_callback(&self, id: &str, callback: Callback) -> Result<(), StoreError>;

    /// The names of all stored audio that is still needed.
    async fn audio_in_use(&self) -> Result<Vec<String>, StoreError>;
}
