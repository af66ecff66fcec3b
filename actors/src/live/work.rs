//! The transcription of one part of a turn, as a job of its own.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use tracing::info_span;

use crate::domain::chunk::AudioChunk;
use crate::domain::error::SttError;
use crate::domain::job::{Client, Event, Job, JobAudio, Options, Urgency};
use crate::domain::live::LiveClient;
use crate::domain::trace::{SPANS, Trace};
use crate::domain::transcript::Transcript;
use crate::request::stream::{Submission, submit};
use crate::status::NodeStatus;
use crate::status::admission::{self, AdmissionRequest, AdmissionSlot};
use crate::status::load::Ahead;
use crate::task::{caught, spawn};

/// How long a turn that is over waits for a model that loads.
const READY_LIMIT: Duration = Duration::from_secs(60);

/// Where the jobs of all sessions go.
#[derive(Clone)]
pub struct LiveWork {
    /// Passes a job on to the Transcriptions; returns whether that was possible.
    pub submit: Arc<dyn Fn(Submission) -> bool + Send + Sync>,
    /// Lets the hot model load, if it was unloaded.
    pub wake: Arc<dyn Fn() + Send + Sync>,
    /// Whether a fallback can transcribe while this node cannot.
    pub has_fallback: bool,
    /// The node's status.
    pub status: Arc<NodeStatus>,
}

/// A running job. Dropping it cancels the job.
#[derive(Debug)]
pub struct Running {
    urgency: watch::Sender<Urgency>,
    _task: AbortOnDropHandle<()>,
}

impl Running {
    /// The turn is over: its text is awaited.
    pub fn hurry(&self) {
        self.urgency.send_replace(Urgency::Live);
    }
}

impl LiveWork {
    /// Transcribes a part. `report` gets the result.
    pub fn start(
        &self,
        client: &LiveClient,
        options: Options,
        audio: AudioChunk,
        urgency: Urgency,
        report: impl FnOnce(Result<Transcript, SttError>) + Send + 'static,
    ) -> Running {
        let (work, client) = (self.clone(), client.clone());
        let (sender, receiver) = watch::channel(urgency);
        let job = Job {
            request_id: Arc::clone(&client.session_id),
            audio: JobAudio::Decoded(audio),
            options,
            identity: None,
            escalates: true,
            streamed: false,
            urgency,
            finished: None,
            // A live session has no end in sight; each of its parts is a trace.
            trace: Trace {
                span: info_span!(target: SPANS, parent: None, "live part", session = %client.session_id),
                context: None,
            },
        };
        let task = spawn(async move {
            let outcome = caught(work.transcribe(client, job, receiver)).await;
            report(outcome.unwrap_or(Err(SttError::Internal("a live transcription failed"))));
        });
        Running {
            urgency: sender,
            _task: task,
        }
    }

    async fn transcribe(
        &self,
        client: LiveClient,
        mut job: Job,
        mut urgency: watch::Receiver<Urgency>,
    ) -> Result<Transcript, SttError> {
        let slot = self.admit(client, job.urgency).await?;
        job.urgency = *urgency.borrow_and_update();
        let mut events = submit(&self.status, job, slot, |submission| {
            (self.submit)(submission)
        })
        .await?;
        loop {
            tokio::select! {
                event = events.next() => match event {
                    Some(Ok(Event::Done(transcript))) => return Ok(transcript),
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return Err(error),
                    None => return Err(SttError::Internal("a live transcription was lost")),
                },
                Ok(()) = urgency.changed() => events.set_urgency(*urgency.borrow_and_update()),
            }
        }
    }

    /// Takes an admission slot. Live work is before all waiting work, so nothing is ahead of it. Waits for a model that
    /// loads, if the text is awaited.
    async fn admit(&self, client: LiveClient, urgency: Urgency) -> Result<AdmissionSlot, SttError> {
        let deadline = Instant::now() + READY_LIMIT;
        let mut hot = self.status.subscribe_hot();
        let slot = self.status.take_slot(AdmissionRequest {
            client: Client::new(client.session_id),
            priority: client.priority,
            body_bytes: None,
            background: false,
        });
        loop {
            hot.mark_unchanged();
            let mut snapshot = self.status.snapshot();
            // The Transcriptions take the turns that are open when a drain begins, and reject later ones.
            snapshot.draining = false;
            match admission::reject_if_unable(&snapshot, self.has_fallback) {
                Ok(()) => {
                    let longest = self.status.max_queue();
                    admission::decide(&snapshot, Ahead::default(), longest)?;
                    return Ok(slot);
                }
                Err(error @ SttError::NotReady { .. }) if urgency == Urgency::Live => {
                    let changed = tokio::time::timeout_at(deadline, hot.changed());
                    if !matches!(changed.await, Ok(Ok(()))) {
                        return Err(error);
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }
}
