//! The handle: the only thing that the server's edges know of the tree.
//!
//! It hides every actor reference and turns every failure of an actor into a typed error.

use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorRef, RpcReplyPort};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::config::{Ports, TreeConfig};
use crate::domain::error::{SttError, TranslationError};
use crate::domain::job::{Event, Job};
use crate::domain::transcript::Transcript;
use crate::domain::translation::TranslationJob;
use crate::ports::EngineInfo;
use crate::request::transcription::TranscriptionMessage;
use crate::status::NodeStatus;
use crate::status::admission::{self, LONGEST_RETRY_AFTER};
use crate::status::admission::{AdmissionRequest, AdmissionSlot};
use crate::status::load::WaitEstimate;
use crate::status::snapshot::{HotState, Snapshot};
use crate::supervisor::{Supervisor, SupervisorArguments, SupervisorMessage};

/// How long the tree may take to start a transcription. It takes microseconds; this bounds what a
/// client waits if it never answers.
const SUBMIT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a client waits for a translation beyond its time limit, in case that the tree does not
/// answer.
const TRANSLATION_MARGIN: Duration = Duration::from_secs(5);

/// The tree could not be started.
#[derive(Debug, Error)]
#[error("the supervision tree could not be started: {0}")]
pub struct StartError(String);

/// The running tree, for as many users as there are.
#[derive(Clone)]
pub struct Stt {
    pub(crate) supervisor: ActorRef<SupervisorMessage>,
    pub(crate) status: Arc<NodeStatus>,
    /// Somebody else does what this node's model cannot.
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

/// Resolves when the tree has ended.
pub struct TreeEnded(JoinHandle<()>);

impl TreeEnded {
    /// Waits for the end: after [`Stt::drain`], or if the Supervisor itself failed.
    pub async fn wait(&mut self) {
        // A panic of the Supervisor is an end as well.
        let _ = (&mut self.0).await;
    }
}

impl Stt {
    /// Starts the tree. It is up at once; the model loads meanwhile: see [`Self::ready`].
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

    /// Takes a place for a request, or refuses it: before its body is read, so that refused work
    /// costs nothing. Asks no actor. The place is given back when it is dropped.
    pub fn admit(&self, admission_request: AdmissionRequest) -> Result<Admission, SttError> {
        // Taken first and looked at then: many that come at once cannot all see the last one free.
        let slot = self.status.take_slot(admission_request);
        let snapshot = self.snapshot();
        refuse_unable(&snapshot, self.has_fallback)?;
        let wait_estimate = admission::decide(&snapshot, slot.ahead(), self.status.max_queue())?;
        if matches!(snapshot.hot, HotState::Asleep(_)) {
            // The model loads while the upload comes. A tree that has ended says so at submit.
            let _ = self.supervisor.cast(SupervisorMessage::Wake);
        }
        Ok(Admission {
            slot,
            wait_estimate,
        })
    }

    /// Starts a transcription in its place and gives its events. Dropping the stream ends it.
    pub async fn submit(
        &self,
        admission: Admission,
        job: Job,
    ) -> Result<TranscriptStream, SttError> {
        let slot = admission.slot;
        let (events, receiver) = mpsc::unbounded_channel();
        let (reply, accepted) = tokio::sync::oneshot::channel();
        let message = SupervisorMessage::Submit {
            job: Box::new(job),
            slot,
            events,
            reply: RpcReplyPort::from(reply),
        };
        (self.supervisor.cast(message)).map_err(|_gone| self.lost("the tree has ended"))?;
        let transcription = tokio::time::timeout(SUBMIT_TIMEOUT, accepted)
            .await
            .map_err(|_elapsed| self.lost("the tree gave no answer in time"))?
            .map_err(|_dropped| self.lost("the request was lost in a restart"))??;
        Ok(TranscriptStream {
            events: receiver,
            transcription,
            ended: false,
        })
    }

    /// Why the tree did not take a request: it is leaving, or something is wrong.
    fn lost(&self, what: &'static str) -> SttError {
        let snapshot = self.snapshot();
        if snapshot.draining {
            return snapshot.draining_refusal();
        }
        SttError::Internal(what)
    }

    /// The tree's state, now. Asks no actor.
    pub fn snapshot(&self) -> Snapshot {
        self.status.snapshot()
    }

    /// Waits until the first engine is up, or is known not to come up: then the reason.
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

    /// Takes nothing new, lets what runs finish within `grace`, ends the rest, then stops the tree:
    /// [`TreeEnded`] tells when. A second call cuts the grace short.
    pub fn drain(&self, grace: Duration) {
        // A tree that has ended needs no draining.
        let _ = self.supervisor.cast(SupervisorMessage::Drain { grace });
    }
}

/// Refuses while no lane can do anything soon, and nobody else does it.
fn refuse_unable(snapshot: &Snapshot, has_fallback: bool) -> Result<(), SttError> {
    if snapshot.draining {
        return Err(snapshot.draining_refusal());
    }
    match &snapshot.hot {
        HotState::Ready(_) | HotState::Asleep(_) | HotState::Restarting { .. } => Ok(()),
        // Cold workers that are up go on without it.
        HotState::Failed { .. } if snapshot.lanes() > 0 || has_fallback => Ok(()),
        HotState::Starting => Err(not_ready(snapshot, "the model is loading")),
        HotState::Failed { reason } => Err(not_ready(snapshot, reason)),
    }
}

fn not_ready(snapshot: &Snapshot, reason: &str) -> SttError {
    SttError::NotReady {
        reason: reason.to_owned(),
        retry_after: snapshot.start_time().min(LONGEST_RETRY_AFTER),
    }
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

/// A request's place in the queue: to be given with the request, or dropped.
#[derive(Debug)]
pub struct Admission {
    slot: AdmissionSlot,
    wait_estimate: WaitEstimate,
}

impl Admission {
    /// What was before it at its admission.
    pub fn wait_estimate(&self) -> WaitEstimate {
        self.wait_estimate
    }
}

/// A transcription's events. Dropping it cancels what is left of the work, unless somebody
/// else waits for the same.
pub struct TranscriptStream {
    events: mpsc::UnboundedReceiver<Result<Event, SttError>>,
    /// `None`: there is nothing to cancel.
    transcription: Option<ActorRef<TranscriptionMessage>>,
    ended: bool,
}

impl TranscriptStream {
    /// The next event. The last one is [`Event::Done`] or an error; then `None`.
    pub async fn next(&mut self) -> Option<Result<Event, SttError>> {
        if self.ended {
            return None;
        }
        let event = (self.events.recv().await)
            .unwrap_or(Err(SttError::Internal("the transcription failed")));
        self.ended = matches!(event, Err(_) | Ok(Event::Done(_)));
        Some(event)
    }

    /// Waits for the whole transcript.
    pub async fn transcript(mut self) -> Result<Transcript, SttError> {
        while let Some(event) = self.next().await {
            if let Event::Done(transcript) = event? {
                return Ok(transcript);
            }
        }
        Err(SttError::Internal("the transcription ended without an end"))
    }
}

impl Drop for TranscriptStream {
    fn drop(&mut self) {
        if !self.ended {
            // Seen as gone by whoever looks, before the word of it arrives.
            self.events.close();
            if let Some(transcription) = &self.transcription {
                // It may be gone already.
                let _ = transcription.cast(TranscriptionMessage::ListenerLeft);
            }
        }
    }
}
