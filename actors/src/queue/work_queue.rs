//! The decisions of the shared queue, without an actor around them: which lane takes which chunk,
//! what a lane's answer means, what is tried again and what is refused. The order in which chunks
//! wait is [`crate::queue::waiting`]'s.
//!
//! A chunk in a lane is a *lease*. Every lease has a number of its own, so an answer that comes
//! after its lease was taken back (the lane was declared gone, the client left) is recognised and
//! ignored, whoever sends it.

use std::collections::BTreeMap;

use tokio::time::Instant;

use crate::domain::error::{EngineError, EngineExit, SttError};
use crate::domain::ids::{ChunkKey, JobId, LaneId, LaneKind, LeaseId};
use crate::domain::job::SchedulingKey;
use crate::domain::transcript::ChunkTranscript;
use crate::ports::ChunkRequest;
use crate::queue::messages::{Lease, Retire};
use crate::queue::waiting::Waiting;

/// Deaths by crash or silence after which a chunk is poison.
const DEATHS_THAT_CONDEMN: u32 = 2;
/// Deaths from outside, which say nothing about the chunk, after which it is given up.
const DEATHS_FROM_OUTSIDE: u32 = 5;
/// Failures of an engine that lives.
const ENGINE_FAILURES: u32 = 2;

/// What the end of a lease means.
#[derive(Debug, PartialEq)]
pub enum Ended {
    /// The chunk is done.
    Done {
        /// Which.
        key: ChunkKey,
        /// Its text.
        transcript: ChunkTranscript,
        /// Who did it.
        lane: LaneKind,
        /// A cold lane had failed on it before.
        cold_failed: bool,
    },
    /// The chunk waits again, before those that were not tried yet.
    Requeued(ChunkKey),
    /// The chunk will not be tried again.
    Discarded {
        /// Which.
        key: ChunkKey,
        /// Why.
        error: SttError,
    },
    /// Nobody waits for this answer any more.
    Stale,
}

/// A chunk and what it has been through.
#[derive(Debug)]
pub(crate) struct Work {
    pub(crate) key: ChunkKey,
    request: ChunkRequest,
    condemning_deaths: u32,
    outside_deaths: u32,
    engine_failures: u32,
    /// A cold lane failed on it: it is the hot lane's now, as long as there is one.
    cold_failed: bool,
}

impl Work {
    /// A chunk that nobody has tried yet.
    pub(crate) fn new(job: JobId, request: ChunkRequest) -> Self {
        Self {
            key: ChunkKey {
                job,
                index: request.audio.index,
            },
            request,
            condemning_deaths: 0,
            outside_deaths: 0,
            engine_failures: 0,
            cold_failed: false,
        }
    }

    fn is_for(&self, kind: LaneKind, hot_is_up: bool) -> bool {
        kind == LaneKind::Hot || !self.cold_failed || !hot_is_up
    }
}

#[derive(Debug)]
enum LaneState {
    Idle,
    Busy {
        lease: LeaseId,
        /// `None` once the request was withdrawn: the lane still works, for nobody.
        work: Option<Work>,
        /// The lane goes when this lease ends.
        last: bool,
        /// It was told that work waits for it.
        hurried: bool,
    },
}

/// What becomes of a lane that wants to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retirement {
    /// It gets nothing more.
    Granted,
    /// It has a chunk, and goes when that is done.
    AfterLease,
    /// It has a chunk, perhaps one that it does not know of yet, and stays.
    Denied,
}

#[derive(Debug)]
struct Lane {
    kind: LaneKind,
    state: LaneState,
}

/// The queue and the lanes that it feeds.
#[derive(Debug)]
pub struct WorkQueue {
    waiting: Waiting,
    lanes: BTreeMap<LaneId, Lane>,
    next_lease: u64,
}

impl WorkQueue {
    /// An empty queue. Lease numbers of different `generation`s never meet, so that answers to a
    /// queue that was lost are stale to the one that replaces it.
    pub fn new(generation: u32) -> Self {
        Self {
            waiting: Waiting::new(),
            lanes: BTreeMap::new(),
            next_lease: u64::from(generation) << 32,
        }
    }

    /// Adds a chunk.
    pub fn enqueue(
        &mut self,
        job: JobId,
        request: ChunkRequest,
        scheduling: SchedulingKey,
        now: Instant,
    ) {
        self.waiting.push(Work::new(job, request), scheduling, now);
    }

    /// A lane offers itself. One that is known already is left as it is.
    pub fn lane_ready(&mut self, lane: LaneId, kind: LaneKind) {
        self.lanes.entry(lane).or_insert(Lane {
            kind,
            state: LaneState::Idle,
        });
    }

    /// Hands the next chunk to an idle lane: the hot one first, then the cold one that is up
    /// longest, so that the younger ones become idle. To be called until it gives nothing.
    pub fn assign(&mut self, now: Instant) -> Option<(LaneId, Lease)> {
        let hot_is_up = self.lanes.values().any(|lane| lane.kind == LaneKind::Hot);
        let mut idle: Vec<(LaneKind, LaneId)> = (self.lanes.iter())
            .filter(|(_, lane)| matches!(lane.state, LaneState::Idle))
            .map(|(&id, lane)| (lane.kind, id))
            .collect();
        idle.sort_unstable();
        for (kind, id) in idle {
            let fitting = |work: &Work| work.is_for(kind, hot_is_up);
            let Some(lane) = self.lanes.get_mut(&id) else {
                continue;
            };
            let Some(work) = self.waiting.take(fitting, now) else {
                continue;
            };
            let lease = LeaseId(self.next_lease);
            self.next_lease += 1;
            let request = work.request.clone();
            lane.state = LaneState::Busy {
                lease,
                work: Some(work),
                last: false,
                hurried: false,
            };
            return Some((id, Lease { id: lease, request }));
        }
        None
    }

    /// A lane wants to go. One that is not known has nothing that could be lost.
    pub fn retire(&mut self, lane: LaneId, when: Retire) -> Retirement {
        match self.lanes.get_mut(&lane).map(|lane| &mut lane.state) {
            Some(LaneState::Busy { last, .. }) if when == Retire::AfterLease => {
                *last = true;
                Retirement::AfterLease
            }
            Some(LaneState::Busy { .. }) => Retirement::Denied,
            Some(LaneState::Idle) | None => {
                self.lanes.remove(&lane);
                Retirement::Granted
            }
        }
    }

    /// A lane's answer. The lane is idle again unless its engine ended or it wanted to go: see
    /// [`Self::knows`].
    pub fn lease_ended(
        &mut self,
        lane: LaneId,
        lease: LeaseId,
        outcome: Result<ChunkTranscript, EngineError>,
    ) -> Ended {
        let Some((kind, work, last)) = self.take_lease(lane, lease) else {
            return Ended::Stale;
        };
        if last || matches!(outcome, Err(EngineError::Exited(_))) {
            self.lanes.remove(&lane);
        }
        let Some(work) = work else {
            return Ended::Stale;
        };
        match outcome {
            Ok(transcript) => Ended::Done {
                key: work.key,
                transcript,
                lane: kind,
                cold_failed: work.cold_failed,
            },
            // Nobody of ours aborts work that somebody waits for; try it again.
            Err(EngineError::Aborted) => self.engine_failed(kind, work, "aborted".to_owned()),
            Err(EngineError::Failed(reason)) => self.engine_failed(kind, work, reason),
            Err(EngineError::Exited(exit)) => self.engine_died(kind, work, exit),
        }
    }

    /// A lane is no more, for whatever reason; its chunk, if any, was lost with `exit`.
    pub fn lane_gone(&mut self, lane: LaneId, exit: EngineExit) -> Ended {
        let Some(lane) = self.lanes.remove(&lane) else {
            return Ended::Stale;
        };
        match lane.state {
            LaneState::Busy {
                work: Some(work), ..
            } => self.engine_died(lane.kind, work, exit),
            LaneState::Busy { work: None, .. } | LaneState::Idle => Ended::Stale,
        }
    }

    /// Whether a lane of this number may get work.
    pub fn knows(&self, lane: LaneId) -> bool {
        self.lanes.contains_key(&lane)
    }

    /// The lanes of this kind.
    pub fn lanes_of(&self, kind: LaneKind) -> Vec<LaneId> {
        let lanes = self.lanes.iter().filter(|(_, lane)| lane.kind == kind);
        lanes.map(|(&id, _)| id).collect()
    }

    /// How many lanes work on a chunk, and how many could take one.
    pub fn busy_and_idle(&self) -> (usize, usize) {
        let idle = self.lanes.values();
        let idle = idle.filter(|lane| matches!(lane.state, LaneState::Idle));
        let idle = idle.count();
        (self.lanes.len() - idle, idle)
    }

    /// Takes a request out: its waiting chunks are gone, and what lanes still do for it is for
    /// nobody. Returns those lanes, so that they can be told.
    pub fn cancel(&mut self, job: JobId) -> Vec<(LaneId, LeaseId)> {
        self.waiting.cancel(job);
        let mut running = Vec::new();
        for (&id, lane) in &mut self.lanes {
            if let LaneState::Busy { lease, work, .. } = &mut lane.state
                && work.as_ref().is_some_and(|work| work.key.job == job)
            {
                *work = None;
                running.push((id, *lease));
            }
        }
        running
    }

    /// Empties the queue of all that waits, for the caller to refuse. Running work goes on.
    pub fn take_waiting(&mut self) -> Vec<ChunkKey> {
        self.waiting.take_all()
    }

    /// Chunks that wait.
    pub fn depth(&self) -> usize {
        self.waiting.len()
    }

    /// Which chunk this lease is, if the lane still has it and somebody waits for it.
    pub fn chunk_of(&self, lane: LaneId, lease: LeaseId) -> Option<ChunkKey> {
        match &self.lanes.get(&lane)?.state {
            LaneState::Busy {
                lease: held,
                work: Some(work),
                ..
            } if *held == lease => Some(work.key),
            LaneState::Busy { .. } | LaneState::Idle => None,
        }
    }

    /// Lanes that work for nobody while work waits for them; as many as there are chunks, each told
    /// once. To be asked after [`Self::assign`] gives nothing: then no idle lane can take it.
    pub fn held_up(&mut self) -> Vec<(LaneId, LeaseId)> {
        let hot_is_up = self.lanes.values().any(|lane| lane.kind == LaneKind::Hot);
        let mut held_up = Vec::new();
        for (&id, lane) in &mut self.lanes {
            if let LaneState::Busy {
                lease,
                work: None,
                hurried,
                ..
            } = &mut lane.state
                && held_up.len() < self.waiting.count(|work| work.is_for(lane.kind, hot_is_up))
                && !std::mem::replace(hurried, true)
            {
                held_up.push((id, *lease));
            }
        }
        held_up
    }

    /// The work of a lease, if it is the one that the lane has, and whether it was the lane's last;
    /// the lane is idle afterwards.
    fn take_lease(
        &mut self,
        lane: LaneId,
        lease: LeaseId,
    ) -> Option<(LaneKind, Option<Work>, bool)> {
        let lane = self.lanes.get_mut(&lane)?;
        match &mut lane.state {
            LaneState::Busy {
                lease: held,
                work,
                last,
                ..
            } if *held == lease => {
                let (work, last) = (work.take(), *last);
                lane.state = LaneState::Idle;
                Some((lane.kind, work, last))
            }
            LaneState::Busy { .. } | LaneState::Idle => None,
        }
    }

    fn engine_failed(&mut self, kind: LaneKind, mut work: Work, reason: String) -> Ended {
        work.engine_failures += 1;
        work.cold_failed |= kind == LaneKind::Cold;
        if work.engine_failures >= ENGINE_FAILURES {
            return Ended::Discarded {
                key: work.key,
                error: SttError::Engine(reason),
            };
        }
        self.requeue(work)
    }

    fn engine_died(&mut self, kind: LaneKind, mut work: Work, exit: EngineExit) -> Ended {
        work.cold_failed |= kind == LaneKind::Cold;
        if exit.counts_against_chunk() {
            work.condemning_deaths += 1;
        } else {
            work.outside_deaths += 1;
        }
        let error = if work.condemning_deaths >= DEATHS_THAT_CONDEMN {
            match exit {
                EngineExit::TimedOut => SttError::Timeout,
                last => SttError::Poison { last },
            }
        } else if work.outside_deaths > DEATHS_FROM_OUTSIDE {
            SttError::WorkerLost {
                deaths: work.outside_deaths,
                last: exit,
            }
        } else {
            return self.requeue(work);
        };
        Ended::Discarded {
            key: work.key,
            error,
        }
    }

    fn requeue(&mut self, work: Work) -> Ended {
        let key = work.key;
        self.waiting.push_retry(work);
        Ended::Requeued(key)
    }
}
