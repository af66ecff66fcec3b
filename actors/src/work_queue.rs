//! The decisions of the shared queue, without an actor around them: which lane takes which chunk,
//! what a lane's answer means, what is tried again and what is refused.
//!
//! A chunk in a lane is a *lease*. Every lease has a number of its own, so an answer that comes
//! after its lease was taken back (the lane was declared gone, the client left) is recognised and
//! ignored, whoever sends it.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::error::SttError;
use crate::job::JobId;
use crate::ports::{ChunkRequest, EngineError, EngineExit};
use crate::transcript::ChunkTranscript;

/// Deaths by crash or silence after which a chunk is poison.
const DEATHS_THAT_CONDEMN: u32 = 2;
/// Deaths from outside, which say nothing about the chunk, after which it is given up.
const DEATHS_FROM_OUTSIDE: u32 = 5;
/// Failures of an engine that lives.
const ENGINE_FAILURES: u32 = 2;

/// One lane, for as long as its engine lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LaneId(pub u64);

/// What kind of lane. The order is the order of preference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LaneKind {
    /// Always there.
    Hot,
    /// Started when work piles up.
    Cold,
}

/// The number of one handing-out of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LeaseId(u64);

/// A chunk, handed to a lane.
#[derive(Clone, Debug)]
pub struct Lease {
    /// Names this handing-out.
    pub id: LeaseId,
    /// The work.
    pub request: ChunkRequest,
}

/// A chunk's place: which request, which chunk of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChunkKey {
    /// The request.
    pub job: JobId,
    /// [`crate::ports::AudioChunk::index`].
    pub index: usize,
}

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
    },
    /// The chunk waits again, in front of all others.
    Requeued(ChunkKey),
    /// The chunk will not be tried again.
    Refused {
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
struct Work {
    key: ChunkKey,
    request: ChunkRequest,
    condemning_deaths: u32,
    outside_deaths: u32,
    engine_failures: u32,
}

impl Work {
    fn samples(&self) -> u64 {
        self.request.audio.samples.len() as u64
    }
}

#[derive(Debug)]
enum LaneState {
    Idle,
    Busy {
        lease: LeaseId,
        /// `None` once the request was withdrawn: the lane still works, for nobody.
        work: Option<Work>,
    },
}

#[derive(Debug)]
struct Lane {
    kind: LaneKind,
    state: LaneState,
}

/// The queue and the lanes that it feeds.
#[derive(Debug)]
pub struct WorkQueue {
    waiting: VecDeque<Work>,
    lanes: BTreeMap<LaneId, Lane>,
    next_lease: u64,
}

impl WorkQueue {
    /// An empty queue. Lease numbers of different `generation`s never meet, so that answers to a
    /// queue that was lost are stale to the one that replaces it.
    pub fn new(generation: u32) -> Self {
        Self {
            waiting: VecDeque::new(),
            lanes: BTreeMap::new(),
            next_lease: u64::from(generation) << 32,
        }
    }

    /// Adds a chunk at the end.
    pub fn enqueue(&mut self, job: JobId, request: ChunkRequest) {
        self.waiting.push_back(Work {
            key: ChunkKey {
                job,
                index: request.audio.index,
            },
            request,
            condemning_deaths: 0,
            outside_deaths: 0,
            engine_failures: 0,
        });
    }

    /// A lane offers itself. One that is known already is left as it is.
    pub fn lane_ready(&mut self, lane: LaneId, kind: LaneKind) {
        self.lanes.entry(lane).or_insert(Lane {
            kind,
            state: LaneState::Idle,
        });
    }

    /// Hands the next chunk to an idle lane, hot first. To be called until it gives nothing.
    pub fn assign(&mut self) -> Option<(LaneId, Lease)> {
        let (&id, lane) = self
            .lanes
            .iter_mut()
            .filter(|(_, lane)| matches!(lane.state, LaneState::Idle))
            .min_by_key(|(_, lane)| lane.kind)?;
        let work = self.waiting.pop_front()?;
        let lease = LeaseId(self.next_lease);
        self.next_lease += 1;
        let request = work.request.clone();
        lane.state = LaneState::Busy {
            lease,
            work: Some(work),
        };
        Some((id, Lease { id: lease, request }))
    }

    /// A lane's answer. The lane is idle again unless its engine ended.
    pub fn lease_ended(
        &mut self,
        lane: LaneId,
        lease: LeaseId,
        outcome: Result<ChunkTranscript, EngineError>,
    ) -> Ended {
        let Some((kind, work)) = self.take_lease(lane, lease) else {
            return Ended::Stale;
        };
        if matches!(outcome, Err(EngineError::Exited(_))) {
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
            },
            // Nobody of ours aborts work that somebody waits for; try it again.
            Err(EngineError::Aborted) => self.engine_failed(work, "aborted".to_owned()),
            Err(EngineError::Failed(reason)) => self.engine_failed(work, reason),
            Err(EngineError::Exited(exit)) => self.engine_died(work, exit),
        }
    }

    /// A lane is no more, for whatever reason; its chunk, if any, was lost with `exit`.
    pub fn lane_gone(&mut self, lane: LaneId, exit: EngineExit) -> Ended {
        match self.lanes.remove(&lane).map(|lane| lane.state) {
            Some(LaneState::Busy {
                work: Some(work), ..
            }) => self.engine_died(work, exit),
            Some(LaneState::Busy { work: None, .. } | LaneState::Idle) | None => Ended::Stale,
        }
    }

    /// Takes a request out: its waiting chunks are gone, and what lanes still do for it is for
    /// nobody. Returns those lanes, so that they can be told.
    pub fn withdraw(&mut self, job: JobId) -> Vec<(LaneId, LeaseId)> {
        self.waiting.retain(|work| work.key.job != job);
        let mut running = Vec::new();
        for (&id, lane) in &mut self.lanes {
            if let LaneState::Busy { lease, work } = &mut lane.state
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
        self.waiting.drain(..).map(|work| work.key).collect()
    }

    /// Chunks that wait.
    pub fn depth(&self) -> usize {
        self.waiting.len()
    }

    /// Audio in chunks that wait, or that a lane works on for somebody.
    pub fn audio(&self) -> Duration {
        let running = self.lanes.values().filter_map(|lane| match &lane.state {
            LaneState::Busy { work, .. } => work.as_ref(),
            LaneState::Idle => None,
        });
        let samples: u64 = self.waiting.iter().chain(running).map(Work::samples).sum();
        Duration::from_secs_f64(crate::ports::samples_to_seconds(samples))
    }

    /// The work of a lease, if it is the one that the lane has; the lane is idle afterwards.
    fn take_lease(&mut self, lane: LaneId, lease: LeaseId) -> Option<(LaneKind, Option<Work>)> {
        let lane = self.lanes.get_mut(&lane)?;
        match &mut lane.state {
            LaneState::Busy { lease: held, work } if *held == lease => {
                let work = work.take();
                lane.state = LaneState::Idle;
                Some((lane.kind, work))
            }
            LaneState::Busy { .. } | LaneState::Idle => None,
        }
    }

    fn engine_failed(&mut self, mut work: Work, reason: String) -> Ended {
        work.engine_failures += 1;
        if work.engine_failures >= ENGINE_FAILURES {
            return Ended::Refused {
                key: work.key,
                error: SttError::Engine(reason),
            };
        }
        self.requeue(work)
    }

    fn engine_died(&mut self, mut work: Work, exit: EngineExit) -> Ended {
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
        Ended::Refused {
            key: work.key,
            error,
        }
    }

    /// In front: it was admitted before all that waits.
    fn requeue(&mut self, work: Work) -> Ended {
        let key = work.key;
        self.waiting.push_front(work);
        Ended::Requeued(key)
    }
}

#[cfg(test)]
#[path = "work_queue_tests.rs"]
mod tests;
