//! Submitting a job to the Transcriptions, and the events of its transcription.

use std::time::Duration;

use ractor::{ActorRef, RpcReplyPort};
use tokio::sync::{mpsc, oneshot};

use crate::domain::error::SttError;
use crate::domain::job::{Event, Job, Urgency};
use crate::domain::transcript::Transcript;
use crate::request::subscribers::EventSender;
use crate::request::transcription::TranscriptionMessage;
use crate::request::transcriptions::Accepted;
use crate::status::NodeStatus;
use crate::status::admission::AdmissionSlot;

/// Time limit for starting a transcription. It takes microseconds; the limit bounds how long a client waits if
/// the tree does not answer.
const SUBMIT_TIMEOUT: Duration = Duration::from_secs(5);

/// A job on its way to the Transcriptions.
#[derive(Debug)]
pub struct Submission {
    /// The job.
    pub job: Box<Job>,
    /// Its admission slot.
    pub slot: AdmissionSlot,
    /// Receives its events.
    pub events: EventSender,
    /// Receives whether it started.
    pub reply: RpcReplyPort<Accepted>,
}

/// Starts a transcription and returns its events. `send` passes the submission on, and returns whether it could.
///
/// # Errors
/// The Transcriptions rejected the job, or were lost.
pub(crate) async fn submit(
    status: &NodeStatus,
    job: Job,
    slot: AdmissionSlot,
    send: impl FnOnce(Submission) -> bool,
) -> Result<TranscriptStream, SttError> {
    // Why the tree did not start a request: it is shutting down, or it failed.
    let lost = |what: &'static str| {
        let snapshot = status.snapshot();
        if snapshot.draining {
            return snapshot.draining_refusal();
        }
        SttError::Internal(what)
    };
    let (events, receiver) = mpsc::unbounded_channel();
    let (reply, accepted) = oneshot::channel();
    let submission = Submission {
        job: Box::new(job),
        slot,
        events,
        reply: RpcReplyPort::from(reply),
    };
    if !send(submission) {
        return Err(lost("the tree has ended"));
    }
    let transcription = tokio::time::timeout(SUBMIT_TIMEOUT, accepted)
        .await
        .map_err(|_elapsed| lost("the tree gave no answer in time"))?
        .map_err(|_dropped| lost("the request was lost in a restart"))??;
    Ok(TranscriptStream {
        events: receiver,
        transcription,
        ended: false,
    })
}

/// The events of a transcription. Dropping the stream cancels the transcription, unless another client waits for
/// the same one.
pub struct TranscriptStream {
    events: mpsc::UnboundedReceiver<Result<Event, SttError>>,
    /// `None`: the result was cached, and there is nothing to cancel.
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
        Err(SttError::Internal(
            "the transcription ended without a result",
        ))
    }

    /// Sets the urgency of the chunks that have no text yet.
    pub(crate) fn set_urgency(&self, urgency: Urgency) {
        self.tell(TranscriptionMessage::SetUrgency(urgency));
    }

    fn tell(&self, message: TranscriptionMessage) {
        if let Some(transcription) = &self.transcription {
            // It may have ended already.
            let _ = transcription.cast(message);
        }
    }
}

impl Drop for TranscriptStream {
    fn drop(&mut self) {
        if !self.ended {
            // Closed first: the transcription may check for listeners before the message arrives.
            self.events.close();
            self.tell(TranscriptionMessage::SubscribersChanged);
        }
    }
}
