//! The decisions of the shared queue, as pure logic: which lane gets which chunk, what a lane's answer means,
//! what is retried and what is discarded. [`crate::queue::waiting`] decides the order of waiting chunks.
//!
//! A chunk in a lane is a *lease*. Every lease has a number of its own, so that an answer to a lease that was
//! revoked (the lane ended, the client left) is recognised and ignored.

use std::collections::BTreeMap;

use tokio::time::Instant;

use crate::domain::error::{EngineError, EngineExit, SttError};
use crate::domain::ids::{ChunkKey, JobId, LaneId, LaneKind, LeaseId};
use crate::domain::job::{SchedulingKey, Urgency, WorkKind};
use crate::domain::transcript::ChunkTranscript;
use crate::ports::ChunkRequest;
use crate::queue::messages::{Lease, Retire};
use crate::queue::waiting::Waiting;
use crate::status::lanes::WaitingChunks;

/// Crashes and timeouts of engines after which the chunk counts as poison.
const MOST_CRASHES: u32 = 2;
/// Engines that were ended from outside, which says nothing about the chunk, before the chunk is discarded.
const MOST_KILLS: u32 = 5;
/// Errors of engines that keep running, after which the chunk is discarded.
const ENGINE_FAILURES: u32 = 2;

/// The outcome of a lease.
#[derive(Debug, PartialEq)]
pub enum Ended {
    /// The chunk is transcribed.
    Done {
        /// The chunk.
        key: ChunkKey,
        /// Its text.
        transcript: ChunkTranscript,
        /// The kind of lane that transcribed it.
        lane: LaneKind,
        /// Whether a cold lane failed on it before.
        cold_failed: bool,
    },
    /// The chunk waits for a retry, ahead of chunks that were not tried yet.
    Requeued(ChunkKey),
    /// The chunk failed while no client waits for it, and is not retried until one does.
    Withdrawn(ChunkKey),
    /// The chunk failed too often and is not retried.
    Discarded {
        /// The chunk.
        key: ChunkKey,
        /// The reason.
        error: SttError,
    },
    /// The lease was revoked before: ignore the answer.
    Stale,
}

/// A chunk with the failures so far.
#[derive(Debug)]
pub(crate) struct Work {
    pub(crate) key: ChunkKey,
    request: ChunkRequest,
    crashes: u32,
    kills: u32,
    engine_failures: u32,
    /// A cold lane failed on it: only the hot lane may retry it, while there is one.
    cold_failed: bool,
    /// No client waits for it: it yields the lane to any other work.
    unattended: bool,
    pub(crate) urgency: Urgency,
    /// Its request is longer than one chunk.
    is_long: bool,
}

impl Work {
    /// A chunk that was not tried yet.
    pub(crate) fn new(job: JobId, request: ChunkRequest, scheduling: &SchedulingKey) -> Self {
        Self {
            key: ChunkKey {
                job,
                index: request.audio.index,
            },
            request,
            crashes: 0,
            kills: 0,
            engine_failures: 0,
            cold_failed: false,
            unattended: false,
            urgency: scheduling.urgency,
            is_long: scheduling.is_long(),
        }
    }

    /// The kind of its request.
    pub(crate) fn kind(&self) -> WorkKind {
        WorkKind::of(self.urgency, self.is_long)
    }

    /// Whether lanes must not be kept from it.
    pub(crate) fn is_needed(&self) -> bool {
        self.urgency != Urgency::Spare
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
        /// `None` once the request is cancelled, while the lane still works on the chunk.
        work: Option<Box<Work>>,
        /// Whether the lane ends with this lease.
        last: bool,
        /// Whether the lane knows that other work waits for it.
        hurried: bool,
    },
}

/// The answer to a lane that wants to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retirement {
    /// It gets no more leases and may end.
    Granted,
    /// It may end after its current lease.
    AfterLease,
    /// It has a lease, which may still be on the way, and stays.
    Denied,
}

#[derive(Debug)]
struct Lane {
    kind: LaneKind,
    state: LaneState,
}

/// A chunk that was cancelled for other work.
#[derive(Debug, PartialEq, Eq)]
pub struct Yielded {
    /// The lane that works on it until it is aborted.
    pub lane: LaneId,
    /// Its lease there.
    pub lease: LeaseId,
    /// The chunk.
    pub key: ChunkKey,
    /// Whether it left the queue, because no client waits for it. Otherwise it waits again.
    pub withdrawn: bool,
}

/// The chunks of a request that was cancelled.
#[derive(Debug, PartialEq, Eq)]
pub struct Cancelled {
    /// Number of chunks that waited.
    pub waiting: usize,
    /// The lanes that still work on others.
    pub running: Vec<(LaneId, LeaseId)>,
}

/// The queue and its lanes.
#[derive(Debug)]
pub struct WorkQueue {
    waiting: Waiting,
    lanes: BTreeMap<LaneId, Lane>,
    next_lease: u64,
}

impl WorkQueue {
    /// An empty queue. Queues of different `generation`s use different lease numbers, so that answers to a lost
    /// queue are stale in its successor.
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
        let work = Work::new(job, request, &scheduling);
        self.waiting.push(work, scheduling, now);
    }

    /// Adds an idle lane; does nothing if the lane is known.
    pub fn lane_ready(&mut self, lane: LaneId, kind: LaneKind) {
        self.lanes.entry(lane).or_insert(Lane {
            kind,
            state: LaneState::Idle,
        });
    }

    /// Assigns the next chunk to an idle lane: to the hot one first, then to the oldest cold one, so that younger
    /// ones become idle. Call it until it returns `None`.
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
            let (request, kind) = (work.request.clone(), work.kind());
            lane.state = LaneState::Busy {
                lease,
                work: Some(Box::new(work)),
                last: false,
                hurried: false,
            };
            let lease = Lease {
                id: lease,
                request,
                kind,
            };
            return Some((id, lease));
        }
        None
    }

    /// Answers a lane that wants to end. An unknown lane has no chunk and may end.
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

    /// Takes a lane's answer. The lane is idle afterwards, unless its engine ended or it wanted to end: then
    /// [`Self::knows`] is false.
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
        let Some(work) = work.map(|work| *work) else {
            return Ended::Stale;
        };
        match outcome {
            Ok(transcript) => Ended::Done {
                key: work.key,
                transcript,
                lane: kind,
                cold_failed: work.cold_failed,
            },
            Err(_) if work.unattended => Ended::Withdrawn(work.key),
            // The engine aborted without being asked to.
            Err(EngineError::Aborted) => self.engine_failed(kind, work, "aborted".to_owned()),
            Err(EngineError::Failed(reason)) => self.engine_failed(kind, work, reason),
            Err(EngineError::Exited(exit)) => self.engine_died(kind, work, exit),
        }
    }

    /// Removes a lane that ended; `exit` counts for its chunk, if it had one.
    pub fn lane_gone(&mut self, lane: LaneId, exit: EngineExit) -> Ended {
        let Some(lane) = self.lanes.remove(&lane) else {
            return Ended::Stale;
        };
        match lane.state {
            LaneState::Busy {
                work: Some(work), ..
            } if work.unattended => Ended::Withdrawn(work.key),
            LaneState::Busy {
                work: Some(work), ..
            } => self.engine_died(lane.kind, *work, exit),
            LaneState::Busy { work: None, .. } | LaneState::Idle => Ended::Stale,
        }
    }

    /// Whether this lane may get work.
    pub fn knows(&self, lane: LaneId) -> bool {
        self.lanes.contains_key(&lane)
    }

    /// The lanes of this kind.
    pub fn lanes_of(&self, kind: LaneKind) -> Vec<LaneId> {
        let lanes = self.lanes.iter().filter(|(_, lane)| lane.kind == kind);
        lanes.map(|(&id, _)| id).collect()
    }

    /// Numbers of busy and of idle lanes.
    pub fn busy_and_idle(&self) -> (usize, usize) {
        let idle = self.lanes.values();
        let idle = idle.filter(|lane| matches!(lane.state, LaneState::Idle));
        let idle = idle.count();
        (self.lanes.len() - idle, idle)
    }

    /// Cancels a request: removes its waiting chunks. Lanes may still work on others.
    pub fn cancel(&mut self, job: JobId) -> Cancelled {
        let waiting = self.waiting.remove(job).len();
        let mut running = Vec::new();
        for (&id, lane) in &mut self.lanes {
            if let LaneState::Busy { lease, work, .. } = &mut lane.state
                && work.as_ref().is_some_and(|work| work.key.job == job)
            {
                *work = None;
                running.push((id, *lease));
            }
        }
        Cancelled { waiting, running }
    }

    /// The last client of a request left, and may return: removes and returns its waiting chunks. Those that lanes
    /// work on continue until other work waits ([`Self::yield_lanes`]).
    pub fn leave_unattended(&mut self, job: JobId) -> Vec<ChunkKey> {
        self.set_unattended(job, true);
        self.waiting.remove(job)
    }

    /// A client of the request is back: its chunks keep their lanes.
    pub fn attend(&mut self, job: JobId) {
        self.set_unattended(job, false);
    }

    fn set_unattended(&mut self, job: JobId, unattended: bool) {
        for lane in self.lanes.values_mut() {
            if let LaneState::Busy {
                work: Some(work), ..
            } = &mut lane.state
                && work.key.job == job
            {
                work.unattended = unattended;
            }
        }
    }

    /// Sets the urgency of a request's chunks, those that lanes work on included: these are returned, with their
    /// new kind.
    pub fn set_urgency(
        &mut self,
        job: JobId,
        urgency: Urgency,
    ) -> Vec<(LaneId, LeaseId, WorkKind)> {
        self.waiting.set_urgency(job, urgency);
        let mut running = Vec::new();
        for (&id, lane) in &mut self.lanes {
            if let LaneState::Busy {
                lease,
                work: Some(work),
                ..
            } = &mut lane.state
                && work.key.job == job
            {
                work.urgency = urgency;
                running.push((id, *lease, work.kind()));
            }
        }
        running
    }

    /// Cancels unattended and spare chunks, as many as lanes are missing for the waiting ones, and returns them. Spare
    /// ones wait again. Call it after [`Self::assign`] returned `None`, when no idle lane can take the work.
    pub fn yield_lanes(&mut self) -> Vec<Yielded> {
        let hot_is_up = self.lanes.values().any(|lane| lane.kind == LaneKind::Hot);
        let is_cancelled = |lane: &&Lane| matches!(lane.state, LaneState::Busy { work: None, .. });
        let mut soon_free = self.lanes.values().filter(is_cancelled).count();
        let mut yielded = Vec::new();
        for (&id, lane) in &mut self.lanes {
            let LaneState::Busy { lease, work, .. } = &mut lane.state else {
                continue;
            };
            let waiting =
                (self.waiting).count(|work| work.is_needed() && work.is_for(lane.kind, hot_is_up));
            if soon_free < waiting
                && let Some(work) = work.take_if(|work| work.unattended || !work.is_needed())
            {
                soon_free += 1;
                yielded.push(Yielded {
                    lane: id,
                    lease: *lease,
                    key: work.key,
                    withdrawn: work.unattended,
                });
                if !work.unattended {
                    self.waiting.push_retry(*work);
                }
            }
        }
        yielded
    }

    /// Removes and returns all waiting chunks. Running chunks continue.
    pub fn take_waiting(&mut self) -> Vec<ChunkKey> {
        self.waiting.take_all()
    }

    /// The waiting chunks, by the kind of their requests.
    pub fn waiting(&self) -> WaitingChunks {
        self.waiting.by_kind()
    }

    /// The chunk of this lease, unless the lease was revoked.
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

    /// Lanes that run a cancelled chunk while work waits for them: at most one per waiting chunk, and each lane
    /// only once. Call it after [`Self::assign`] returned `None`, when no idle lane can take the work.
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
                && held_up.len()
                    < (self.waiting)
                        .count(|work| work.is_needed() && work.is_for(lane.kind, hot_is_up))
                && !std::mem::replace(hurried, true)
            {
                held_up.push((id, *lease));
            }
        }
        held_up
    }

    /// Ends the lease, if the lane has it: returns its work and whether it is the lane's last. The lane is idle
    /// afterwards.
    fn take_lease(
        &mut self,
        lane: LaneId,
        lease: LeaseId,
    ) -> Option<(LaneKind, Option<Box<Work>>, bool)> {
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
            work.crashes += 1;
        } else {
            work.kills += 1;
        }
        let error = if work.crashes >= MOST_CRASHES {
            match exit {
                EngineExit::TimedOut => SttError::Timeout,
                last => SttError::Poison { last },
            }
        } else if work.kills > MOST_KILLS {
            SttError::WorkerLost {
                deaths: work.kills,
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
