//! The messages between the Dispatcher and the lanes, and what travels in them.

use std::fmt;
use std::sync::Arc;

use ractor::ActorRef;

use crate::domain::error::{EngineError, EngineExit, LaunchError, SttError};
use crate::domain::ids::{ChunkIndex, JobId, LaneId, LaneKind, LeaseId};
use crate::domain::job::SchedulingKey;
use crate::domain::transcript::{ChunkDone, ChunkTranscript};
use crate::ports::{ChunkRequest, DetectedLanguage, Engine};

/// What the Dispatcher hears.
#[derive(Debug)]
pub enum DispatcherMessage {
    /// A transcription brings a chunk.
    Enqueue {
        /// The request.
        job: JobId,
        /// The chunk and how to do it.
        request: ChunkRequest,
        /// What its turn depends on.
        scheduling: SchedulingKey,
        /// Who hears the result.
        owner: ChunkOwner,
    },
    /// A request is over or its client is gone: nobody waits for its chunks.
    Cancel(JobId),
    /// The Transcriptions are gone, and with them everyone who waits.
    CancelAll,
    /// A lane's engine is up, or the lane offers itself to a new Dispatcher.
    LaneReady {
        /// The lane.
        lane: LaneId,
        /// Its kind.
        kind: LaneKind,
        /// Where leases go.
        actor: ActorRef<LaneMessage>,
    },
    /// A lane has heard the language of its chunk.
    LanguageHeard {
        /// The lane.
        lane: LaneId,
        /// Which handing-out.
        lease: LeaseId,
        /// The language.
        language: DetectedLanguage,
    },
    /// A lane answers.
    LeaseEnded {
        /// The lane.
        lane: LaneId,
        /// Which handing-out.
        lease: LeaseId,
        /// The text, or why there is none.
        outcome: Result<ChunkTranscript, EngineError>,
    },
    /// A lane is no more.
    LaneGone(LaneId),
    /// The cold lanes with a number up to this are no more: their supervisor failed.
    ColdLanesGone {
        /// Given after the last of them.
        up_to: LaneId,
    },
    /// A lane wants to go: it hears [`LaneMessage::Retired`] when it may.
    Retire {
        /// The lane.
        lane: LaneId,
        /// When.
        when: Retire,
        /// Who wants to go.
        actor: ActorRef<LaneMessage>,
    },
    /// The hot lane will not come back soon. Whatever waits while there is no other lane is refused
    /// with this; until the hot lane is ready again.
    HotLaneLost(SttError),
    /// What waits now is refused with this: no lane will come soon. What comes later is not.
    DiscardWaiting(SttError),
}

/// What a lane hears.
#[derive(Debug)]
pub enum LaneMessage {
    /// From the launch task.
    Launched(Result<LaunchedEngine, LaunchError>),
    /// From the Dispatcher: do this.
    Run(Lease),
    /// From the Dispatcher: nobody waits for this one any more.
    Abort(LeaseId),
    /// From the Dispatcher: this one runs for nobody, and work waits for the lane.
    WorkWaits(LeaseId),
    /// From the lease's task: the language is known.
    LanguageHeard(LeaseId, DetectedLanguage),
    /// From the lease's task.
    Finished(LeaseId, Result<ChunkTranscript, EngineError>),
    /// From the task that watches the engine.
    EngineExited(EngineExit),
    /// From its own timer: look whether it has been idle for too long.
    CheckIdle,
    /// From the Dispatcher: nothing more comes; the lane may go, as it wanted.
    Retired,
    /// From the Supervisor: a new Dispatcher took over.
    DispatcherReplaced(ActorRef<DispatcherMessage>),
    /// From the Supervisor: end the engine, then the lane.
    Stop,
}

/// What becomes of a chunk.
#[derive(Clone, Debug)]
pub enum ChunkNews {
    /// A lane has heard its language.
    LanguageHeard(DetectedLanguage),
    /// The text and how it came about, or why there is none. Nothing follows.
    Ended(Result<ChunkDone, SttError>),
}

/// Who waits for a request's chunks, and how they are told.
#[derive(Clone)]
pub struct ChunkOwner(Arc<dyn Fn(ChunkIndex, ChunkNews) + Send + Sync>);

impl ChunkOwner {
    /// `tell` hears of each chunk by its number. An owner that is gone has its Withdraw on the way.
    pub fn new(tell: impl Fn(ChunkIndex, ChunkNews) + Send + Sync + 'static) -> Self {
        Self(Arc::new(tell))
    }

    pub(crate) fn tell(&self, index: ChunkIndex, news: ChunkNews) {
        (self.0)(index, news);
    }
}

impl fmt::Debug for ChunkOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ChunkOwner")
    }
}

/// A chunk, handed to a lane.
#[derive(Clone, Debug)]
pub struct Lease {
    /// Names this handing-out.
    pub id: LeaseId,
    /// The work.
    pub request: ChunkRequest,
}

/// When a lane wants to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retire {
    /// If it has nothing to do: it has been idle for long.
    IfIdle,
    /// After what it does now: it shall be replaced.
    AfterLease,
}

/// An engine on its way from the launch task to its lane.
pub struct LaunchedEngine(pub(crate) Arc<dyn Engine>);

impl fmt::Debug for LaunchedEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LaunchedEngine")
            .field(self.0.info())
            .finish()
    }
}
