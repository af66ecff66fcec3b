//! A lane's slow work, in tasks beside its actor.

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

/// A chunk that runs. Dropping it gives up waiting for the answer.
pub(crate) struct Running {
    pub(crate) lease: LeaseId,
    pub(crate) audio_seconds: f64,
    began: Instant,
    /// Set before the engine is told, for a task that has not asked it yet.
    aborted: Arc<AtomicBool>,
    _task: AbortOnDropHandle<()>,
}

impl Running {
    /// Has the engine do it; the answer arrives as [`LaneMessage::Finished`]. `limits`: how long the
    /// engine may be silent, and how long a killed one may take to end.
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
        let told = Arc::clone(&aborted);
        let listener = lane.clone();
        let heard: LanguageHeard = Box::new(move |language| {
            let _ = listener.cast(LaneMessage::LanguageHeard(id, language));
        });
        let task = spawn(async move {
            let outcome = if told.load(Ordering::Acquire) {
                Err(EngineError::Aborted)
            } else {
                caught(transcribe(engine.as_ref(), request, heard, limits))
                    .await
                    .unwrap_or_else(|| Err(EngineError::Failed("a panic".to_owned())))
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

    /// Whether it was told that nobody waits for it.
    pub(crate) fn is_aborted(&self) -> bool {
        self.aborted.load(Ordering::Acquire)
    }

    /// How long the engine has been at it.
    pub(crate) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// Nobody waits for it any more.
    pub(crate) fn abort(&self, engine: &dyn Engine) {
        self.aborted.store(true, Ordering::Release);
        engine.abort();
    }
}

/// Runs one chunk with a bound on the engine's silence. After the bound the engine is told to die
/// and the answer is its death, which [`LaneMessage::EngineExited`] reports as well: whichever
/// comes first gives the chunk back.
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
            // A process that a driver holds cannot be killed; it is not waited for.
            let exit = tokio::time::timeout(grace, engine.exited()).await;
            Err(EngineError::Exited(exit.unwrap_or(EngineExit::TimedOut)))
        }
    }
}
