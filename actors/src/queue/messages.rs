//! The messages between the Dispatcher and the lanes, and what travels in them.

use std::fmt;
use std::sync::Arc;

use ractor::{ActorRef, RpcReplyPort};
use tracing::Span;

use crate::domain::error::{EngineError, EngineExit, LaunchError, SttError};
use crate::domain::ids::{ChunkIndex, JobId, LaneId, LaneKind, LeaseId};
use crate::domain::job::{SchedulingKey, Urgency, WorkKind};
use crate::domain::transcript::{ChunkDone, ChunkTranscript};
use crate::ports::{ChunkRequest, DetectedLanguage, Engine};

/// Messages that the Dispatcher handles.
#[derive(Debug)]
pub enum DispatcherMessage {
    /// From a Transcription or the FallbackModel: queue a chunk.
    Enqueue {
        /// The request.
        job: JobId,
        /// The chunk and the options.
        request: ChunkRequest,
        /// Decides when it is its turn.
        scheduling: SchedulingKey,
        /// Receives the result.
        owner: ChunkOwner,
    },
    /// The request ended or its client left: drop its chunks.
    Cancel(JobId),
    /// From a Transcription: its last client left, and may return. Its waiting chunks are withdrawn. A chunk that a
    /// lane works on continues until other work waits for the lane.
    Unattended(JobId),
    /// From a Transcription: a client is back.
    Attended(JobId),
    /// From a Transcription: its chunks have this urgency from now on.
    SetUrgency(JobId, Urgency),
    /// From the Supervisor: the Transcriptions failed, so every request has ended.
    CancelAll,
    /// From a lane: its engine is loaded, or a new Dispatcher took over.
    LaneReady {
        /// The lane.
        lane: LaneId,
        /// Its kind.
        kind: LaneKind,
        /// Receives the leases.
        actor: ActorRef<LaneMessage>,
    },
    /// From a lane: its engine detected the language of the chunk.
    LanguageDetected {
        /// The lane.
        lane: LaneId,
        /// The lease.
        lease: LeaseId,
        /// The language.
        language: DetectedLanguage,
    },
    /// From a lane: the answer to a lease.
    LeaseEnded {
        /// The lane.
        lane: LaneId,
        /// The lease.
        lease: LeaseId,
        /// The text or the error.
        outcome: Result<ChunkTranscript, EngineError>,
    },
    /// From its supervisor: the lane ended.
    LaneGone(LaneId),
    /// From the Supervisor: the ColdPool failed, and its lanes ended with it.
    ColdLanesGone {
        /// A number above those of all these lanes.
        up_to: LaneId,
    },
    /// From a lane that wants to end: [`LaneMessage::Retired`] follows when it may.
    Retire {
        /// The lane.
        lane: LaneId,
        /// When.
        when: Retire,
        /// Receives the answer.
        actor: ActorRef<LaneMessage>,
    },
    /// From the Supervisor: the hot lane will not be ready soon. Until it is, waiting work is discarded with this
    /// error while there is no other lane.
    HotLaneLost(SttError),
    /// From the ColdPool: no lane will be ready soon. Discards the work that waits now with this error.
    DiscardWaiting(SttError),
    /// From the Transcriptions: answer, to show that this actor handles its messages.
    Ping(RpcReplyPort<()>),
}

/// Messages that a lane handles.
#[derive(Debug)]
pub enum LaneMessage {
    /// From the launch task: the engine, or why it did not start.
    Launched(Result<LaunchedEngine, LaunchError>),
    /// From the Dispatcher: transcribe a chunk.
    Run(Lease),
    /// From the Dispatcher: the request of this lease was cancelled.
    Abort(LeaseId),
    /// From the Dispatcher: the request of this lease is of this kind from now on.
    WorkIs(LeaseId, WorkKind),
    /// From the Dispatcher: work waits for this lane while it runs a cancelled chunk.
    WorkWaits(LeaseId),
    /// From the chunk's task: the engine detected the language.
    LanguageDetected(LeaseId, DetectedLanguage),
    /// From the chunk's task: the text or the error.
    Finished(LeaseId, Result<ChunkTranscript, EngineError>),
    /// From the task that watches the engine: it ended.
    EngineExited(EngineExit),
    /// From its own alarm: check whether the lane has been idle for too long.
    CheckIdle,
    /// From the Dispatcher: no more leases follow; the lane may end.
    Retired,
    /// From its supervisor: a new Dispatcher took over.
    DispatcherReplaced(ActorRef<DispatcherMessage>),
    /// From its supervisor: stop the engine, then the lane.
    Stop,
}

/// A report on a chunk.
#[derive(Clone, Debug)]
pub enum ChunkNews {
    /// The engine detected its language.
    LanguageDetected(DetectedLanguage),
    /// No lane works on it any more, because no client waits for it. Its owner may enqueue it again.
    Withdrawn,
    /// The last report: the text with its origin, or the error.
    Ended(Result<ChunkDone, SttError>),
}

/// Receives the reports on a request's chunks.
#[derive(Clone)]
pub struct ChunkOwner {
    tell: Arc<dyn Fn(ChunkIndex, ChunkNews) + Send + Sync>,
    /// The span of the request.
    pub span: Span,
}

impl ChunkOwner {
    /// `tell` is called with the number of the chunk. If the owner has ended, its [`DispatcherMessage::Cancel`]
    /// is on the way.
    pub fn new(tell: impl Fn(ChunkIndex, ChunkNews) + Send + Sync + 'static) -> Self {
        Self {
            tell: Arc::new(tell),
            span: Span::none(),
        }
    }

    /// The span of the request, in which its chunks have theirs.
    #[must_use]
    pub fn traced_in(mut self, span: Span) -> Self {
        self.span = span;
        self
    }

    pub(crate) fn tell(&self, index: ChunkIndex, news: ChunkNews) {
        (self.tell)(index, news);
    }
}

impl fmt::Debug for ChunkOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ChunkOwner")
    }
}

/// A chunk that is given to a lane.
#[derive(Clone, Debug)]
pub struct Lease {
    /// Identifies the lease.
    pub id: LeaseId,
    /// The work.
    pub request: ChunkRequest,
    /// The kind of request that it belongs to.
    pub kind: WorkKind,
}

/// When a lane wants to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retire {
    /// Now, if it is idle: it reached its idle limit.
    IfIdle,
    /// After its current lease: it is to be replaced.
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
