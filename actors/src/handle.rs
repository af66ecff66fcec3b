//! The handle: the only thing that the server's edges know of the tree.
//!
//! It hides every actor reference and turns every failure of an actor into a typed error.

use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorRef, RpcReplyPort};
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::config::{Ports, TreeConfig};
use crate::error::SttError;
use crate::job::{Event, Job};
use crate::ports::EngineInfo;
use crate::status::{HotState, NodeStatus, Snapshot};
use crate::supervisor::{Supervisor, SupervisorArguments, SupervisorMessage};
use crate::transcript::Transcript;
use crate::transcription::TranscriptionMessage;

/// How long the tree may take to start a transcription. It takes microseconds; this bounds what a
/// client waits if it never answers.
const SUBMIT_TIMEOUT: Duration = Duration::from_secs(5);

/// Requests in the tree at once. Each costs little; this bounds what a flood of them does.
const MOST_REQUESTS: usize = 512;

/// The longest Retry-After that is ever given: clients ignore longer ones.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(120);

/// The tree could not be started.
#[derive(Debug, Error)]
#[error("the supervision tree could not be started: {0}")]
pub struct StartError(String);

/// The running tree, for as many users as there are.
#[derive(Clone)]
pub struct Stt {
    pub(crate) supervisor: ActorRef<SupervisorMessage>,
    pub(crate) status: Arc<NodeStatus>,
    config: TreeConfig,
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
        let status = Arc::new(NodeStatus::default());
        let arguments = SupervisorArguments {
            ports,
            config: config.clone(),
            status: Arc::clone(&status),
        };
        let (supervisor, join) = Supervisor::spawn(None, Supervisor, arguments)
            .await
            .map_err(|error| StartError(error.to_string()))?;
        let stt = Self {
            supervisor,
            status,
            config,
        };
        Ok((stt, TreeEnded(join)))
    }

    /// Whether a request would be taken now: for refusing before its body is read. Asks no actor.
    pub fn admit(&self) -> Result<(), SttError> {
        let snapshot = self.snapshot();
        if snapshot.draining {
            return Err(SttError::Draining);
        }
        match snapshot.hot {
            HotState::Ready(_) | HotState::Restarting { .. } => {}
            HotState::Starting => return Err(self.not_ready("the model is loading")),
            HotState::Failed { reason } => return Err(self.not_ready(&reason)),
        }
        let estimate = snapshot.drain_estimate();
        if estimate > self.config.max_queue || snapshot.active_requests >= MOST_REQUESTS {
            return Err(SttError::Overloaded {
                retry_after: estimate
                    .saturating_sub(self.config.max_queue)
                    .clamp(Duration::from_secs(1), LONGEST_RETRY_AFTER),
            });
        }
        Ok(())
    }

    /// Starts a transcription and gives its events. Dropping the stream ends it.
    pub async fn submit(&self, job: Job) -> Result<TranscriptStream, SttError> {
        self.admit()?;
        let (events, receiver) = mpsc::unbounded_channel();
        let (reply, accepted) = tokio::sync::oneshot::channel();
        let message = SupervisorMessage::Submit {
            job,
            events,
            reply: RpcReplyPort::from(reply),
        };
        (self.supervisor.cast(message))
            .map_err(|_gone| SttError::Internal("the tree has ended"))?;
        let transcription = tokio::time::timeout(SUBMIT_TIMEOUT, accepted)
            .await
            .map_err(|_elapsed| SttError::Internal("the tree gave no answer in time"))?
            .map_err(|_dropped| SttError::Internal("the request was lost in a restart"))??;
        Ok(TranscriptStream {
            events: receiver,
            transcription,
            ended: false,
        })
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
                HotState::Ready(info) => return Ok(info.clone()),
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

    fn not_ready(&self, reason: &str) -> SttError {
        SttError::NotReady {
            reason: reason.to_owned(),
            retry_after: self.config.start_estimate.min(LONGEST_RETRY_AFTER),
        }
    }
}

/// A running transcription's events. Dropping it cancels what is left of the work.
pub struct TranscriptStream {
    events: mpsc::UnboundedReceiver<Result<Event, SttError>>,
    transcription: ActorRef<TranscriptionMessage>,
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
            // Nobody hears the reason; the actor may be gone already.
            let cancel = TranscriptionMessage::Cancel(SttError::Internal("the client has left"));
            let _ = self.transcription.cast(cancel);
        }
    }
}
