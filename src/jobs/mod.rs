//! Jobs: transcriptions that no client waits for.
//!
//! A job is one audio file with what the client asked for. [`store`] keeps jobs, their audio, their finished chunks and
//! their results, so that they survive the end of the process. [`runner`] takes one job after the other and submits it
//! to the actor tree, below all other work. [`callback`] reports finished jobs to the URLs that clients gave, and
//! [`upkeep`] removes what has expired. The [`Jobs`] handle is what the HTTP routes use.
//!
//! Work is done at least once: a job whose node dies is taken again, and goes on from its last finished chunk. Its result
//! is stored once, with its state.

pub mod audio;
pub mod callback;
mod courtesy;
pub mod record;
pub mod report;
pub mod runner;
pub mod store;
pub mod upkeep;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use stt_actors::domain::transcript::Transcript;
use thiserror::Error;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::metrics::jobs::{self as metrics, Outcome};
use crate::settings::Settings;
use audio::AudioStore;
use record::{Job, State, StoredAudio};
use store::{Counts, Exceeded, JobStore, Put, PutLimits, StoreError};

/// Jobs that are kept at most, of all clients.
const MOST_JOBS: usize = 10_000;

/// Jobs of one owner that are listed at most.
const MOST_LISTED: usize = 1000;

/// How long a call waits until audio is removed that no job needs. The removal then goes on without it.
const REMOVAL_WAIT: Duration = Duration::from_secs(2);

/// Limits of jobs, from the settings.
#[derive(Clone, Debug)]
pub struct JobLimits {
    /// The folder for audio and, without Redis, for the database.
    pub folder: PathBuf,
    /// How long a job is kept after its end.
    pub time_to_live: Duration,
    /// Most jobs of one client that are kept, in whatever state.
    pub per_client: usize,
    /// Most bytes of stored audio of all jobs.
    pub storage_bytes: u64,
    /// Most bytes of stored audio of one client's jobs.
    pub client_bytes: u64,
    /// How many jobs run at the same time.
    pub concurrency: usize,
}

impl JobLimits {
    /// The limits in the settings.
    pub fn of(settings: &Settings) -> Self {
        let jobs = &settings.jobs;
        Self {
            folder: jobs.folder.clone(),
            time_to_live: jobs.time_to_live,
            per_client: jobs.per_client,
            storage_bytes: jobs.storage_bytes,
            client_bytes: jobs.client_bytes,
            concurrency: jobs.concurrency,
        }
    }

    fn of_store(&self) -> PutLimits {
        PutLimits {
            jobs: MOST_JOBS,
            bytes: self.storage_bytes,
            client_jobs: self.per_client,
            client_bytes: self.client_bytes,
        }
    }

    /// Checks a request by itself.
    fn check_size(&self, files: usize, bytes: u64) -> Result<(), TooLarge> {
        // Without any, the client has too many already.
        if files > self.per_client.max(1) {
            return Err(TooLarge::Files(files, self.per_client));
        }
        let limits = [
            (self.client_bytes, "JOB_STORAGE_PER_CLIENT_MB"),
            (self.storage_bytes, "JOB_STORAGE_MB"),
        ];
        match limits.into_iter().find(|(limit, _)| bytes > *limit) {
            Some((limit, setting)) => Err(TooLarge::Audio(bytes, limit, setting)),
            None => Ok(()),
        }
    }

    fn error(&self, exceeded: Exceeded) -> JobError {
        match exceeded {
            Exceeded::ClientJobs(kept) => JobError::TooMany(kept, self.per_client),
            Exceeded::ClientBytes => JobError::ClientFull,
            Exceeded::Jobs => JobError::Full,
            Exceeded::Bytes => JobError::StorageFull,
        }
    }
}

/// Why a job cannot be stored or read.
#[derive(Debug, Error)]
pub enum JobError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The client would have too many jobs. Its number of jobs, and the limit.
    #[error(
        "this client has {0} jobs, and may have {1} (MAX_JOBS_PER_CLIENT); delete some, or wait until they expire"
    )]
    TooMany(usize, usize),
    /// The audio of the client's jobs would take too much space.
    #[error(
        "with this request, the audio of this client's jobs would take more space than it may (JOB_STORAGE_PER_CLIENT_MB); wait until some are done"
    )]
    ClientFull,
    /// The audio of all jobs would take too much space.
    #[error(
        "with this request, the audio of all jobs would take more space than it may (JOB_STORAGE_MB)"
    )]
    StorageFull,
    /// There would be too many jobs of all clients.
    #[error("the server keeps at most ten thousand jobs, and has no place for these")]
    Full,
    /// The request would exceed a limit even if there were no other jobs.
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
}

/// A request that exceeds a limit whatever else is stored.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum TooLarge {
    /// It has too many files.
    #[error("the request has {0} files, and a client may have {1} jobs (MAX_JOBS_PER_CLIENT)")]
    Files(usize, usize),
    /// Its audio takes too much space. In bytes, and the setting.
    #[error("the audio of the request has at least {0} bytes; the limit is {1} ({2})")]
    Audio(u64, u64, &'static str),
}

/// The jobs of this node. Clones refer to the same jobs.
#[derive(Clone)]
pub struct Jobs(Arc<Inner>);

struct Inner {
    limits: JobLimits,
    store: Arc<dyn JobStore>,
    audio: Arc<dyn AudioStore>,
    /// Cancels the jobs that run here.
    running: Mutex<HashMap<String, CancellationToken>>,
    /// Whether jobs may be accepted.
    accepting: watch::Sender<bool>,
}

impl Jobs {
    /// The jobs in this store.
    pub fn new(limits: JobLimits, store: Arc<dyn JobStore>, audio: Arc<dyn AudioStore>) -> Self {
        Self(Arc::new(Inner {
            limits,
            store,
            audio,
            running: Mutex::default(),
            accepting: watch::Sender::new(true),
        }))
    }

    /// Where audio of jobs is stored.
    pub fn audio(&self) -> &dyn AudioStore {
        &*self.0.audio
    }

    /// The store.
    pub fn store(&self) -> &dyn JobStore {
        &*self.0.store
    }

    /// The limits.
    pub fn limits(&self) -> &JobLimits {
        &self.0.limits
    }

    /// Announces every change of a job that this process makes or hears of.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.store.changes()
    }

    /// Checks, before a body is read, whether a client may submit a job. `bytes`: the least size of its audio.
    ///
    /// # Errors
    /// There are too many jobs, their audio takes too much space, or the store failed.
    pub async fn check_room(&self, client: &str, bytes: u64) -> Result<(), JobError> {
        self.0.limits.check_size(1, bytes)?;
        let counts = self.store().counts(Some(client)).await?;
        let exceeded = self.0.limits.of_store().exceeded_by(&counts, 1, bytes);
        exceeded.map_or(Ok(()), |exceeded| Err(self.0.limits.error(exceeded)))
    }

    /// Stores the audio of a job that is not stored yet.
    ///
    /// # Errors
    /// It cannot be stored.
    pub async fn store_audio(&self, file: &Path) -> Result<StoredAudio, StoreError> {
        let key = audio::new_key(&self.store().salt());
        let bytes = self.audio().store(file, &key).await?;
        Ok(StoredAudio { key, bytes })
    }

    /// Stores jobs whose audio is stored already. Jobs of an earlier request with the same idempotency key are returned
    /// instead, and the new audio is removed.
    ///
    /// # Errors
    /// As [`Self::check_room`]. The audio is removed then, too, unless the jobs may be stored nevertheless.
    pub async fn submit(&self, jobs: Vec<Job>) -> Result<Vec<Job>, JobError> {
        let keys: Vec<String> = jobs.iter().map(|job| job.audio.key.clone()).collect();
        let bytes = jobs.iter().map(|job| job.audio.bytes).sum();
        if let Err(error) = self.0.limits.check_size(jobs.len(), bytes) {
            self.remove_audio(keys).await;
            return Err(error.into());
        }
        let put = self.store().put(jobs, self.0.limits.of_store()).await;
        // Of a store that did not answer, it is unknown what it did. Audio that no job needs is removed later.
        if !matches!(put, Ok(Put::Added(_)) | Err(StoreError::Unavailable(_))) {
            self.remove_audio(keys).await;
        }
        match put? {
            Put::Added(jobs) | Put::Known(jobs) => Ok(jobs),
            Put::Exceeded(exceeded) => Err(self.0.limits.error(exceeded)),
        }
    }

    /// Removes audio that no job needs. A store that is slow or away does not delay the caller by more than seconds; what
    /// cannot be removed is removed later.
    pub async fn remove_audio(&self, keys: Vec<String>) {
        let audio = Arc::clone(&self.0.audio);
        let removal = tokio::spawn(async move {
            let removals = keys.iter().map(|key| audio.remove(key));
            futures::future::join_all(removals).await;
        });
        let _ = timeout(REMOVAL_WAIT, removal).await;
    }

    /// A job of this owner.
    pub async fn get(&self, owner: &str, id: &str) -> Result<Option<Job>, StoreError> {
        let job = self.store().get(id).await?;
        Ok(job.filter(|job| job.owner == owner))
    }

    /// The owner's jobs, the latest first; with `batch`: those of one request, in the order of their files.
    pub async fn list(&self, owner: &str, batch: Option<&str>) -> Result<Vec<Job>, StoreError> {
        let mut jobs = self.store().list(owner).await?;
        jobs.retain(|job| batch.is_none_or(|batch| job.batch == batch));
        jobs.sort_by(|a, b| {
            (a.created, a.number)
                .partial_cmp(&(b.created, b.number))
                .unwrap_or(std::cmp::Ordering::Equal)
        });
        if batch.is_none() {
            jobs.reverse();
        }
        jobs.truncate(MOST_LISTED);
        Ok(jobs)
    }

    /// The result of a job that is done.
    pub async fn result(&self, id: &str) -> Result<Option<Transcript>, StoreError> {
        self.store().result(id).await
    }

    /// Cancels a job if it is not over, and removes everything of it. Returns it as it was.
    pub async fn remove(&self, job: &Job) -> Result<Option<Job>, StoreError> {
        let Some(removed) = self.store().remove(&job.id).await? else {
            return Ok(None);
        };
        if let Some(running) = self.running().get(&job.id) {
            running.cancel();
        }
        // That of a job that is over was removed at its end.
        if !removed.state.is_over() {
            metrics::record_end(Outcome::Cancelled);
            self.remove_audio(vec![removed.audio.key.clone()]).await;
        }
        Ok(Some(removed))
    }

    /// Jobs by state, and the space of their audio.
    pub async fn counts(&self) -> Result<Counts, StoreError> {
        self.store().counts(None).await
    }

    /// How many queued jobs are before each of these; `None`: it is not queued.
    pub async fn places(&self, jobs: &[Job]) -> Result<Vec<Option<usize>>, StoreError> {
        if jobs.iter().all(|job| job.state != State::Queued) {
            return Ok(vec![None; jobs.len()]);
        }
        let ids: Vec<&str> = jobs.iter().map(|job| &*job.id).collect();
        self.store().places(&ids).await
    }

    /// Whether jobs are accepted: not while the server is shutting down.
    pub fn is_accepting(&self) -> bool {
        *self.0.accepting.borrow()
    }

    /// The server is shutting down: streams of events end, and no job is accepted.
    pub fn close(&self) {
        self.0.accepting.send_replace(false);
    }

    /// Waits for [`Self::close`].
    pub async fn closed(&self) {
        let mut accepting = self.0.accepting.subscribe();
        // The sender lives as long as this handle.
        let _ = accepting.wait_for(|accepting| !accepting).await;
    }

    fn running(&self) -> std::sync::MutexGuard<'_, HashMap<String, CancellationToken>> {
        self.0
            .running
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
