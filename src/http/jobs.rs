//! The jobs of this node, for the routes. The store is opened when it is needed first: a server without jobs makes no
//! folder.

use std::sync::Arc;
use std::time::Duration;

use stt_actors::domain::transcript::{Task, Transcript};
use stt_actors::{Stt, SttError};
use tokio::runtime::Handle;
use tokio::sync::{Mutex, SetOnce};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::{info, warn};

use crate::http::Limits;
use crate::http::body::upload::UploadStore;
use crate::http::caller::Caller;
use crate::http::reply::error::ApiError;
use crate::jobs::audio::AudioStore;
use crate::jobs::audio::folder::AudioFolder;
use crate::jobs::audio::s3::S3Audio;
use crate::jobs::callback;
use crate::jobs::callback::policy::CallbackPolicy;
use crate::jobs::record::{Failure, Job};
use crate::jobs::runner::{self, Hooks};
use crate::jobs::store::embedded::EmbeddedStore;
use crate::jobs::store::shared::SharedStore;
use crate::jobs::store::{JobStore, StoreError};
use crate::jobs::{JobLimits, Jobs, upkeep};
use crate::keys::Keyring;
use crate::metrics::{Endpoint, Exporter, Transcribed, record_timings};
use crate::settings::{S3Settings, Secret, Settings};
use crate::tls::redis::RedisFiles;

/// How long the end of the server waits until running jobs are back in the queue.
const STOP_LIMIT: Duration = Duration::from_secs(3);

/// How long a call waits for a shared store that is not open yet.
const OPEN_WAIT: Duration = Duration::from_secs(2);

/// The pause before a shared store that could not be opened is tried again.
const REOPEN_PAUSE: Duration = Duration::from_secs(5);

/// The jobs of this node. Clones refer to the same jobs.
#[derive(Clone)]
pub struct JobService(Arc<Inner>);

struct Inner {
    limits: JobLimits,
    callbacks: CallbackPolicy,
    /// Where several nodes share their jobs.
    shared: Option<SharedJobs>,
    s3: S3Settings,
    max_upload_bytes: u64,
    stt: Stt,
    hooks: Hooks,
    runtime: Handle,
    open: SetOnce<OpenJobs>,
    /// One call at a time opens the store.
    opening: Mutex<()>,
}

/// Jobs that several nodes share in Redis.
struct SharedJobs {
    url: Secret,
    certificates: RedisFiles,
    /// The name of this node, for people who look into Redis.
    node: String,
}

/// An open store, and what works on its jobs.
struct OpenJobs {
    jobs: Jobs,
    uploads: UploadStore,
    runner: std::sync::Mutex<Option<JoinHandle<()>>>,
}

/// Who is charged for jobs, and where they are counted.
#[derive(Clone)]
pub struct Accounts {
    /// The limits on audio per client.
    pub limits: Limits,
    /// The keys in force.
    pub keys: Keyring,
    /// Records metrics.
    pub metrics: Exporter,
}

impl JobService {
    /// The jobs that the settings describe. `node_id`: the name of this node in Redis, if it has one. Call it in the
    /// runtime in which jobs shall run.
    pub fn new(settings: &Settings, node_id: Option<&str>, stt: Stt, accounts: Accounts) -> Self {
        let limits = JobLimits::of(settings);
        let record = accounts.metrics.clone();
        let done = move |job: &Job, transcript: &Transcript| {
            record_timings(transcript);
            record.record_transcript(&Transcribed {
                task: Task::Transcribe,
                by_libretranslate: false,
                endpoint: Endpoint::Jobs,
                format: job.form.format,
                route: transcript.route,
                audio_seconds: transcript.duration,
            });
        };
        let charge = move |job: &Job, seconds: f64| {
            let keys = accounts.keys.now();
            let id = job.submitter.key.as_deref();
            let key = id.and_then(|id| keys.with_durable_id(id, &job.submitter.salt));
            let caller = Caller::of_job(key, job.submitter.address);
            accounts.limits.charge(&caller, seconds);
            accounts.metrics.record_key_audio(&caller.name(), seconds);
        };
        Self(Arc::new(Inner {
            limits,
            callbacks: CallbackPolicy {
                secret: settings.jobs.callback_secret.clone(),
                hosts: settings.jobs.callback_hosts.clone(),
            },
            shared: shared(settings, node_id),
            s3: settings.jobs.s3.clone(),
            max_upload_bytes: settings.max_upload_bytes,
            stt,
            hooks: Hooks {
                failure,
                done: Arc::new(done),
                charge: Arc::new(charge),
            },
            runtime: Handle::current(),
            open: SetOnce::new(),
            opening: Mutex::new(()),
        }))
    }

    /// Goes on with the jobs of the last run, if there are any.
    pub async fn resume(&self) {
        if self.0.shared.is_some() {
            // Redis may come later than this node.
            let service = self.clone();
            self.0.runtime.spawn(async move {
                while let Err(error) = service.open_now().await {
                    warn!(%error, "jobs cannot be used (JOBS_SHARED)");
                    tokio::time::sleep(REOPEN_PAUSE).await;
                }
            });
        } else if EmbeddedStore::exists(&self.0.limits.folder)
            && let Err(error) = self.get().await
        {
            warn!(%error, "jobs cannot be used (JOBS_DIR)");
        }
    }

    /// The jobs.
    ///
    /// # Errors
    /// The store cannot be opened. The next call tries it again.
    pub async fn get(&self) -> Result<&Jobs, StoreError> {
        Ok(&self.open().await?.jobs)
    }

    /// The folder for uploads of jobs: on the same file system as their audio.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn uploads(&self) -> Result<&UploadStore, StoreError> {
        Ok(&self.open().await?.uploads)
    }

    /// Whether several nodes share their jobs.
    pub fn are_shared(&self) -> bool {
        self.0.shared.is_some()
    }

    /// Which callbacks are accepted.
    pub fn callbacks(&self) -> &CallbackPolicy {
        &self.0.callbacks
    }

    /// Waits until running jobs are back in the queue, after the tree has begun to drain, and removes uploads.
    pub async fn stopped(&self) {
        let Some(open) = self.0.open.get() else {
            return;
        };
        let runner = open.runner.lock().ok().and_then(|mut runner| runner.take());
        if let Some(runner) = runner
            && timeout(STOP_LIMIT, runner).await.is_err()
        {
            warn!("running jobs were not put back into the queue in time; the next start does it");
        }
        open.uploads.close();
    }

    async fn open(&self) -> Result<&OpenJobs, StoreError> {
        if let Some(open) = self.0.open.get() {
            return Ok(open);
        }
        if self.0.shared.is_none() {
            return self.open_now().await;
        }
        // Redis may be away for long, and calls that each tried to reach it would wait for each other.
        let opened = timeout(OPEN_WAIT, self.0.open.wait()).await;
        opened.map_err(|_elapsed| StoreError::Unavailable("it is not open yet".to_owned()))
    }

    async fn open_now(&self) -> Result<&OpenJobs, StoreError> {
        let _one = self.0.opening.lock().await;
        if self.0.open.get().is_none() {
            // It is empty: the lock is held.
            let _ = self.0.open.set(self.start().await?);
        }
        let open = self.0.open.get();
        open.ok_or_else(|| StoreError::Unavailable("it is closed".to_owned()))
    }

    /// Charges for what was transcribed of a job that was deleted while it waited.
    pub fn charge_deleted(&self, job: &Job) {
        if job.progress.seconds_done > 0.0 {
            (self.0.hooks.charge)(job, job.progress.seconds_done);
        }
    }

    /// Opens the store and starts what works on its jobs.
    async fn start(&self) -> Result<OpenJobs, StoreError> {
        let (limits, largest) = (self.0.limits.clone(), self.0.max_upload_bytes);
        let s3 = self.0.s3.clone();
        let is_shared = self.0.shared.is_some();
        let opening = tokio::task::spawn_blocking(move || {
            let unusable = |error: std::io::Error| {
                StoreError::Unavailable(format!("{}: {error}", limits.folder.display()))
            };
            let uploads = limits.folder.join("uploads");
            let uploads = UploadStore::open(&uploads, largest).map_err(unusable)?;
            let audio: Arc<dyn AudioStore> = if s3.is_used() {
                let failed = |error| StoreError::Unavailable(format!("JOB_AUDIO_URL: {error}"));
                Arc::new(S3Audio::new(&s3, uploads.folder().to_owned()).map_err(failed)?)
            } else {
                Arc::new(AudioFolder::open(&limits.folder).map_err(unusable)?)
            };
            let embedded = if is_shared {
                None
            } else {
                Some(EmbeddedStore::open(&limits.folder, limits.time_to_live)?)
            };
            Ok((audio, uploads, embedded))
        });
        let opened = opening.await;
        let (audio, uploads, embedded) =
            opened.unwrap_or_else(|panic| Err(StoreError::Unavailable(panic.to_string())))?;
        let limits = self.0.limits.clone();
        let store: Arc<dyn JobStore> = match (embedded, &self.0.shared) {
            (None, Some(shared)) => {
                let pem = shared.certificates.read();
                let pem = pem.map_err(|error| StoreError::Unavailable(error.to_string()))?;
                let keep = limits.time_to_live;
                Arc::new(SharedStore::open(&shared.url, &pem, &shared.node, keep).await?)
            }
            (Some(embedded), _) => Arc::new(embedded),
            (None, None) => return Err(StoreError::Unavailable("there is none".to_owned())),
        };
        let jobs = Jobs::new(limits, store, audio);
        info!(folder = %self.0.limits.folder.display(), "the store of jobs is open");
        let (stt, hooks) = (self.0.stt.clone(), self.0.hooks.clone());
        let runner = self.0.runtime.spawn(runner::run(jobs.clone(), stt, hooks));
        let (stt, policy) = (self.0.stt.clone(), self.0.callbacks.clone());
        let upkeep = upkeep::run(jobs.clone(), stt.clone());
        self.0.runtime.spawn(upkeep);
        let callbacks = callback::run(jobs.clone(), stt, policy);
        self.0.runtime.spawn(callbacks);
        Ok(OpenJobs {
            jobs,
            uploads,
            runner: std::sync::Mutex::new(Some(runner)),
        })
    }
}

/// Where several nodes share their jobs, if the settings say so.
fn shared(settings: &Settings, node_id: Option<&str>) -> Option<SharedJobs> {
    let url = settings
        .redis_url
        .clone()
        .filter(|_| settings.jobs.shared)?;
    Some(SharedJobs {
        url,
        certificates: RedisFiles::of(&settings.redis_tls),
        node: node_id.unwrap_or("node").to_owned(),
    })
}

/// The error of a failed job, as other replies report it.
fn failure(error: SttError) -> Failure {
    ApiError::from(error).into()
}
