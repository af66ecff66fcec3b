//! The handle: the only part of the tree that the rest of the server knows.
//!
//! It hides every actor reference and turns every failure of an actor into a typed error.

use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorRef, RpcReplyPort};
use thiserror::Error;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::config::{Ports, TreeConfig};
use crate::domain::error::{LiveError, SttError, TranslationError};
use crate::domain::ids::WorkerRole;
use crate::domain::job::{Client, Job, Priority};
use crate::domain::live::{LiveClient, LiveOptions};
use crate::domain::transcript::Transcript;
use crate::domain::translation::TranslationJob;
use crate::live::sessions::{LiveEvents, LiveInput};
use crate::ports::EngineInfo;
use crate::request::{self, stream::TranscriptStream};
use crate::status::NodeStatus;
use crate::status::admission::{self, AdmissionRequest, AdmissionSlot};
use crate::status::drain::DrainPlan;
use crate::status::lanes::LaneSnapshot;
use crate::status::load::WaitEstimate;
use crate::status::snapshot::{HotState, Snapshot};
use crate::supervisor::{Supervisor, SupervisorArguments, SupervisorMessage};

/// Time limit for opening a live session, which takes microseconds.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);

/// How much longer than its time limit a translation is awaited, in case the tree does not answer.
const TRANSLATION_MARGIN: Duration = Duration::from_secs(5);

/// The tree could not be started.
#[derive(Debug, Error)]
#[error("the supervision tree could not be started: {0}")]
pub struct StartError(String);

/// The running tree. Clones refer to the same tree.
#[derive(Clone)]
pub struct Stt {
    pub(crate) supervisor: ActorRef<SupervisorMessage>,
    pub(crate) status: Arc<NodeStatus>,
    /// Whether a fallback can transcribe while this node cannot.
    has_fallback: bool,
    /// `None`: no translator is configured.
    translations: Option<Translations>,
}

#[derive(Clone)]
struct Translations {
    /// The translator's time limit.
    limit: Duration,
    pending: TaskTracker,
}

/// The end of the tree.
pub struct TreeEnded(JoinHandle<()>);

impl TreeEnded {
    /// Waits for the end: after [`Stt::drain`], or if the Supervisor itself failed.
    pub async fn wait(&mut self) {
        // A panic of the Supervisor is an end as well.
        let _ = (&mut self.0).await;
    }
}

impl Stt {
    /// Starts the tree. It returns before the model is loaded: see [`Self::ready`].
    pub async fn start(ports: Ports, config: TreeConfig) -> Result<(Self, TreeEnded), StartError> {
        let status = NodeStatus::new(config.drain_cap, config.start_estimate, config.max_queue);
        let status = Arc::new(status);
        let has_fallback = ports.fallback.is_some();
        let pending = TaskTracker::new();
        let translations = ports.translator.is_some().then(|| Translations {
            limit: config.translation_limit,
            pending: pending.clone(),
        });
        let arguments = SupervisorArguments {
            ports,
            config,
            status: Arc::clone(&status),
            pending_translations: pending,
        };
        let (supervisor, join) = Supervisor::spawn(None, Supervisor, arguments)
            .await
            .map_err(|error| StartError(error.to_string()))?;
        let stt = Self {
            supervisor,
            status,
            has_fallback,
            translations,
        };
        Ok((stt, TreeEnded(join)))
    }

    /// Whether a translator is configured.
    pub fn has_translator(&self) -> bool {
        self.translations.is_some()
    }

    /// Announces that a request's transcript will be translated; `None` without a translator.
    pub fn expect_translation(&self) -> Option<PendingTranslation> {
        let translations = self.translations.as_ref()?;
        Some(PendingTranslation {
            supervisor: self.supervisor.clone(),
            limit: translations.limit,
            _pending: translations.pending.token(),
        })
    }

    /// Admits a request, or rejects it before its body is read, so that a rejected request costs nothing. Sends no
    /// message that is awaited. Dropping the admission frees its slot.
    pub fn admit(&self, admission_request: AdmissionRequest) -> Result<Admission, SttError> {
        // The slot is taken before the check, so that concurrent requests cannot all see the last one free.
        let slot = self.status.take_slot(admission_request);
        let snapshot = self.snapshot();
        admission::reject_if_unable(&snapshot, self.has_fallback)?;
        let wait_estimate = admission::decide(&snapshot, slot.ahead(), self.status.max_queue())?;
        if matches!(snapshot.hot, HotState::Asleep(_)) {
            // The model loads during the upload. If the tree has ended, `submit` reports it.
            let _ = self.supervisor.cast(SupervisorMessage::Wake);
        }
        Ok(Admission {
            slot,
            wait_estimate,
        })
    }

    /// Admits a job. It waits for all other work, so that neither the length of the queue nor the number of requests
    /// rejects it.
    ///
    /// # Errors
    /// The node cannot work now: the model is loading or failed, or the server is shutting down.
    pub fn admit_job(&self, client: Client, priority: Priority) -> Result<Admission, SttError> {
        let slot = self.status.take_slot(AdmissionRequest {
            priority,
            background: true,
            ..AdmissionRequest::of(client)
        });
        let snapshot = self.snapshot();
        admission::reject_if_unable(&snapshot, self.has_fallback)?;
        if matches!(snapshot.hot, HotState::Asleep(_)) {
            let _ = self.supervisor.cast(SupervisorMessage::Wake);
        }
        Ok(Admission {
            wait_estimate: snapshot.wait_estimate(slot.ahead()),
            slot,
        })
    }

    /// Announces audio that a client begins to send without an [`Admission`]: a drain waits until the upload is
    /// dropped, within its grace.
    pub fn expect_upload(&self) -> PendingUpload {
        PendingUpload {
            _pending: self.status.uploads().token(),
        }
    }

    /// Starts a transcription and returns its events. Dropping the stream cancels it.
    pub async fn submit(
        &self,
        admission: Admission,
        job: Job,
    ) -> Result<TranscriptStream, SttError> {
        request::stream::submit(&self.status, job, admission.slot, |submission| {
            (self.supervisor)
                .cast(SupervisorMessage::Submit(submission))
                .is_ok()
        })
        .await
    }

    /// Opens a live session. The halves belong to one connection.
    ///
    /// # Errors
    /// Too many sessions are open, the format is none, or the server is shutting down.
    pub async fn open_live(
        &self,
        client: LiveClient,
        options: LiveOptions,
    ) -> Result<(LiveInput, LiveEvents), LiveError> {
        if self.status.is_draining() {
            return Err(LiveError::Draining);
        }
        let (reply, opened) = oneshot::channel();
        let open = SupervisorMessage::OpenLive {
            client,
            options: Box::new(options),
            reply: RpcReplyPort::from(reply),
        };
        (self.supervisor.cast(open)).map_err(|_ended| LiveError::Lost)?;
        let opened = tokio::time::timeout(OPEN_TIMEOUT, opened).await;
        opened
            .map_err(|_elapsed| LiveError::Lost)?
            .map_err(|_dropped| LiveError::Lost)?
    }

    /// The current status of the node. Asks no actor.
    pub fn snapshot(&self) -> Snapshot {
        self.status.snapshot()
    }

    /// What each lane does now: the hot one, then the cold ones from the oldest. Asks no actor.
    pub fn lanes(&self) -> Vec<LaneSnapshot> {
        self.status.lanes_snapshot()
    }

    /// The processes of all loaded engines, with what they are for. Asks no actor.
    pub fn worker_processes(&self) -> Vec<(WorkerRole, u32)> {
        self.status.worker_processes()
    }

    /// Waits until the first engine is loaded. The error says why it cannot be.
    pub async fn ready(&self) -> Result<EngineInfo, String> {
        let mut hot = self.status.subscribe_hot();
        loop {
            match &*hot.borrow_and_update() {
                HotState::Ready(info) | HotState::Asleep(info) => return Ok(info.clone()),
                HotState::Failed { reason } => return Err(reason.clone()),
                HotState::Starting | HotState::Restarting { .. } => {}
            }
            if hot.changed().await.is_err() {
                // The status lives as long as this handle.
                return Err("the tree has ended".to_owned());
            }
        }
    }

    /// Whether the actors that every request needs (Supervisor, Transcriptions, Dispatcher) handle their messages
    /// within `limit`. One that is being replaced counts as unresponsive until its successor runs.
    pub async fn is_responsive(&self, limit: Duration) -> bool {
        let (reply, answer) = oneshot::channel();
        let asked = (self.supervisor).cast(SupervisorMessage::Ping(RpcReplyPort::from(reply)));
        asked.is_ok() && matches!(tokio::time::timeout(limit, answer).await, Ok(Ok(())))
    }

    /// The state of the hot lane, now and at each change.
    pub fn hot_states(&self) -> watch::Receiver<HotState> {
        self.status.subscribe_hot()
    }

    /// Announces the end of the node, which no longer accepts requests for routers but still serves them for the
    /// plan's delay. Then removes its record, rejects new requests, lets uploads and running requests finish within the
    /// grace, cancels the rest, and stops the tree: await [`TreeEnded`]. A second call cuts delay and grace short.
    pub fn drain(&self, plan: impl Into<DrainPlan>) {
        let plan = plan.into();
        // If the tree has ended, there is nothing to drain.
        let _ = self.supervisor.cast(SupervisorMessage::Drain { plan });
    }

    /// Waits until a drain begins.
    pub async fn until_draining(&self) {
        self.until(NodeStatus::has_announced_drain).await;
    }

    /// Waits until new requests are rejected: the delay of a drain is over.
    pub async fn until_rejecting(&self) {
        self.until(NodeStatus::is_draining).await;
    }

    /// Waits until running requests are cancelled: the grace of a drain is over. Returns the error for a request whose
    /// upload is not complete.
    pub async fn until_cancelling(&self) -> SttError {
        self.status.grace_over().cancelled().await;
        self.snapshot().draining_refusal()
    }

    /// Whether a drain has begun.
    pub fn is_draining(&self) -> bool {
        self.status.has_announced_drain()
    }

    /// Waits for a fact about routing.
    async fn until(&self, fact: impl Fn(&NodeStatus) -> bool) {
        let mut changes = self.status.subscribe_routing();
        while !fact(&self.status) {
            if changes.changed().await.is_err() {
                // The status lives as long as this handle.
                return;
            }
        }
    }
}

/// An upload that is not complete. While it exists, a drain waits for it, within its grace.
#[derive(Debug)]
pub struct PendingUpload {
    _pending: TaskTrackerToken,
}

/// A translation that a request will need. While it exists, a drain waits for it, within its grace.
pub struct PendingTranslation {
    supervisor: ActorRef<SupervisorMessage>,
    limit: Duration,
    _pending: TaskTrackerToken,
}

impl PendingTranslation {
    /// Translates a transcript. Its language becomes the target language. The translator is called
    /// only if there is text in another language. Dropping the future cancels the call.
    ///
    /// # Errors
    /// The translator failed or exceeded its time limit, or the tree has ended.
    pub async fn translate(self, job: TranslationJob) -> Result<Transcript, TranslationError> {
        let (reply, translated) = oneshot::channel();
        let message = SupervisorMessage::Translate {
            job: Box::new(job),
            reply,
        };
        (self.supervisor.cast(message))
            .map_err(|_ended| TranslationError::Lost("the server has shut down"))?;
        tokio::time::timeout(self.limit + TRANSLATION_MARGIN, translated)
            .await
            .map_err(|_elapsed| TranslationError::Lost("the tree gave no answer in time"))?
            .map_err(|_dropped| TranslationError::Lost("a restart or shutdown interrupted it"))?
    }
}

/// An admitted request: pass it to [`Stt::submit`], or drop it.
#[derive(Debug)]
pub struct Admission {
    slot: AdmissionSlot,
    wait_estimate: WaitEstimate,
}

impl Admission {
    /// The wait that was estimated at the admission.
    pub fn wait_estimate(&self) -> WaitEstimate {
        self.wait_estimate
    }
}
