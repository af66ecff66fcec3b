//! The task that runs one chunk on an engine, so that the mailbox of the lane keeps moving.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ractor::ActorRef;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::domain::error::{EngineError, EngineExit};
use crate::domain::ids::LeaseId;
use crate::domain::transcript::ChunkTranscript;
use crate::ports::{ChunkRequest, Engine, LanguageHeard};
use crate::queue::messages::{LaneMessage, Lease};
use crate::task::{caught, spawn};

/// A chunk on an engine. Dropping it abandons the answer.
pub(crate) struct Running {
    pub(crate) lease: LeaseId,
    pub(crate) audio_seconds: f64,
    began: Instant,
    /// Set together with the abort of the engine, so that a task skips a chunk that it has not started yet.
    aborted: Arc<AtomicBool>,
    _task: AbortOnDropHandle<()>,
}

impl Running {
    /// Starts the chunk; the answer arrives as [`LaneMessage::Finished`]. `limits`: time limit for the chunk,
    /// and the time that a killed engine may take to end.
    pub(crate) fn begin(
        engine: &Arc<dyn Engine>,
        lane: &ActorRef<LaneMessage>,
        lease: Lease,
        limits: (Duration, Duration),
    ) -> Self {
        let audio_seconds = lease.request.audio.duration_seconds();
        let aborted = Arc::new(AtomicBool::new(false));
        let (engine, lane) = (Arc::clone(engine), lane.clone());
        let (id, request) = (lease.id, lease.request);
        let is_aborted = Arc::clone(&aborted);
        let listener = lane.clone();
        let heard: LanguageHeard = Box::new(move |language| {
            let _ = listener.cast(LaneMessage::LanguageDetected(id, language));
        });
        let task = spawn(async move {
            let outcome = if is_aborted.load(Ordering::Acquire) {
                Err(EngineError::Aborted)
            } else {
                caught(transcribe(engine.as_ref(), request, heard, limits))
                    .await
                    .unwrap_or_else(|| Err(EngineError::Failed("the engine panicked".to_owned())))
            };
            let _ = lane.cast(LaneMessage::Finished(id, outcome));
        });
        Self {
            lease: id,
            audio_seconds,
            began: Instant::now(),
            aborted,
            _task: task,
        }
    }

    /// Whether [`Self::abort`] was called.
    pub(crate) fn is_aborted(&self) -> bool {
        self.aborted.load(Ordering::Acquire)
    }

    /// Time since the start of the chunk.
    pub(crate) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// Asks the engine to end the chunk early, because its request was cancelled.
    pub(crate) fn abort(&self, engine: &dyn Engine) {
        self.aborted.store(true, Ordering::Release);
        engine.abort();
    }
}

/// Runs one chunk within `limit`. After that the engine is killed and the answer is its exit, which
/// [`LaneMessage::EngineExited`] reports as well: whichever arrives first returns the chunk to the queue.
async fn transcribe(
    engine: &dyn Engine,
    request: ChunkRequest,
    heard: LanguageHeard,
    (limit, grace): (Duration, Duration),
) -> Result<ChunkTranscript, EngineError> {
    match tokio::time::timeout(limit, engine.transcribe(request, heard)).await {
        Ok(outcome) => outcome,
        Err(_elapsed) => {
            engine.kill_timed_out();
            // A process that hangs in a driver cannot be killed: do not wait for it any longer.
            let exit = tokio::time::timeout(grace, engine.exited()).await;
            Err(EngineError::Exited(exit.unwrap_or(EngineExit::TimedOut)))
        }
    }
}
