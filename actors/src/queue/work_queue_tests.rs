//! Properties of the queue: no chunk is lost or done twice, the order, and the limit on retries.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;

use super::work_queue::*;
use crate::domain::chunk::AudioChunk;
use crate::domain::error::{EngineError, EngineExit, SttError};
use crate::domain::ids::{ChunkIndex, ChunkKey, JobId, LaneId, LaneKind};
use crate::domain::job::{Client, Priority, SchedulingKey, Urgency};
use crate::domain::transcript::{ChunkTranscript, Task};
use crate::ports::ChunkRequest;
use crate::queue::messages::{Lease, Retire};
use tokio::time::Instant;

const HOT: LaneId = LaneId(1);

fn request(index: usize) -> ChunkRequest {
    ChunkRequest {
        request_id: Arc::from("test"),
        audio: AudioChunk::contiguous(index, 0, Arc::from(vec![0_i16; 16_000])),
        task: Task::Transcribe,
        language: None,
        languages: Vec::new(),
        likely_language: None,
        prompt: None,
        temperature: 0.0,
    }
}

/// Adds a chunk of a short request.
fn put(queue: &mut WorkQueue, job: JobId, index: usize) {
    put_as(queue, job, index, Urgency::Queued);
}

/// Adds a chunk of a short request with this urgency.
fn put_as(queue: &mut WorkQueue, job: JobId, index: usize, urgency: Urgency) {
    let scheduling = SchedulingKey {
        client: Client::new("client"),
        priority: Priority::Normal,
        urgency,
        total_seconds: 1.0,
        remaining_seconds: 1.0,
    };
    queue.enqueue(job, request(index), scheduling, Instant::now());
}

fn crash() -> EngineError {
    EngineError::Exited(EngineExit::Crashed {
        signal: "SIGABRT".to_owned(),
    })
}

fn killed() -> EngineError {
    EngineError::Exited(EngineExit::Killed {
        signal: "SIGKILL".to_owned(),
    })
}

/// A queue with one chunk; each call of the closure runs it on a new lane with this answer.
fn one_chunk() -> (WorkQueue, impl FnMut(&mut WorkQueue, EngineError) -> Ended) {
    let mut queue = WorkQueue::new(0);
    put(&mut queue, JobId::next(), 0);
    let mut lane = 0;
    let run = move |queue: &mut WorkQueue, error: EngineError| {
        lane += 1;
        queue.lane_ready(LaneId(lane), LaneKind::Hot);
        let (id, lease) = queue
            .assign(Instant::now())
            .expect("a chunk waits and a lane is idle");
        queue.lease_ended(id, lease.id, Err(error))
    };
    (queue, run)
}

#[test]
fn the_second_crash_makes_a_chunk_poison() {
    let (mut queue, mut run) = one_chunk();
    assert!(matches!(run(&mut queue, crash()), Ended::Requeued(_)));
    let Ended::Discarded { error, .. } = run(&mut queue, crash()) else {
        panic!("not refused")
    };
    assert!(matches!(error, SttError::Poison { .. }));
    assert_eq!(queue.waiting().needed(), 0);
}

#[test]
fn a_second_hang_is_a_timeout() {
    let (mut queue, mut run) = one_chunk();
    let silence = || EngineError::Exited(EngineExit::TimedOut);
    assert!(matches!(run(&mut queue, silence()), Ended::Requeued(_)));
    let ended = run(&mut queue, silence());
    assert!(matches!(
        ended,
        Ended::Discarded {
            error: SttError::Timeout,
            ..
        }
    ));
}

#[test]
fn five_kills_from_outside_are_retried_and_the_sixth_is_not() {
    let (mut queue, mut run) = one_chunk();
    for _ in 0..5 {
        assert!(matches!(run(&mut queue, killed()), Ended::Requeued(_)));
    }
    let Ended::Discarded { error, .. } = run(&mut queue, killed()) else {
        panic!("not refused")
    };
    assert!(matches!(error, SttError::WorkerLost { deaths: 6, .. }));
}

#[test]
fn a_failure_of_a_running_engine_is_retried_once() {
    let (mut queue, mut run) = one_chunk();
    let failure = || EngineError::Failed("no".to_owned());
    assert!(matches!(run(&mut queue, failure()), Ended::Requeued(_)));
    assert!(matches!(
        run(&mut queue, failure()),
        Ended::Discarded {
            error: SttError::Engine(_),
            ..
        }
    ));
}

#[test]
fn the_hot_lane_is_served_before_cold_ones() {
    let mut queue = WorkQueue::new(0);
    queue.lane_ready(LaneId(1), LaneKind::Cold);
    queue.lane_ready(LaneId(2), LaneKind::Hot);
    put(&mut queue, JobId::next(), 0);
    assert_eq!(
        queue.assign(Instant::now()).map(|(lane, _)| lane),
        Some(LaneId(2))
    );
}

#[test]
fn an_answer_to_a_lost_queue_is_stale_in_the_next_one() {
    let mut old = WorkQueue::new(1);
    old.lane_ready(HOT, LaneKind::Hot);
    put(&mut old, JobId::next(), 0);
    let (_, lease) = old.assign(Instant::now()).expect("assigned");
    let mut new = WorkQueue::new(2);
    new.lane_ready(HOT, LaneKind::Hot);
    put(&mut new, JobId::next(), 0);
    let (_, current) = new.assign(Instant::now()).expect("assigned");
    assert_eq!(new.lease_ended(HOT, lease.id, Err(killed())), Ended::Stale);
    let done = new.lease_ended(HOT, current.id, Ok(ChunkTranscript::default()));
    assert!(matches!(done, Ended::Done { .. }));
}

#[test]
fn a_cancelled_request_frees_its_lane_only_when_the_lane_answers() {
    let mut queue = WorkQueue::new(0);
    let (leaver, stayer) = (JobId::next(), JobId::next());
    queue.lane_ready(HOT, LaneKind::Hot);
    put(&mut queue, leaver, 0);
    put(&mut queue, leaver, 1);
    put(&mut queue, stayer, 0);
    let (_, lease) = queue.assign(Instant::now()).expect("assigned");
    assert_eq!(queue.cancel(leaver).running, [(HOT, lease.id)]);
    assert_eq!(
        (queue.waiting().needed(), queue.busy_and_idle()),
        (1, (1, 0))
    );
    assert!(queue.assign(Instant::now()).is_none());
    let late = queue.lease_ended(HOT, lease.id, Err(EngineError::Aborted));
    assert_eq!(late, Ended::Stale);
    assert_eq!(
        queue.assign(Instant::now()).map(|(lane, _)| lane),
        Some(HOT)
    );
}

#[test]
fn a_lane_with_a_cancelled_chunk_gets_one_notice_that_work_waits() {
    let mut queue = WorkQueue::new(0);
    let leaver = JobId::next();
    queue.lane_ready(HOT, LaneKind::Hot);
    put(&mut queue, leaver, 0);
    let (_, lease) = queue.assign(Instant::now()).expect("assigned");
    assert_eq!(
        queue.chunk_of(HOT, lease.id).map(|key| key.job),
        Some(leaver)
    );
    queue.cancel(leaver);
    assert_eq!(queue.chunk_of(HOT, lease.id), None);
    assert_eq!(queue.held_up(), []);
    put(&mut queue, JobId::next(), 0);
    assert_eq!(queue.held_up(), [(HOT, lease.id)]);
    assert_eq!(queue.held_up(), []);
    // Two lanes run cancelled chunks, and one chunk waits: one notice is enough.
    let mut queue = WorkQueue::new(0);
    queue.lane_ready(HOT, LaneKind::Hot);
    queue.lane_ready(LaneId(2), LaneKind::Cold);
    put(&mut queue, leaver, 0);
    put(&mut queue, leaver, 1);
    while queue.assign(Instant::now()).is_some() {}
    queue.cancel(leaver);
    put(&mut queue, JobId::next(), 0);
    assert_eq!(queue.held_up().len(), 1);
}

#[test]
fn unattended_chunks_yield_as_many_lanes_as_other_work_needs_and_keep_them_when_attended() {
    let mut queue = WorkQueue::new(0);
    let (leaver, other) = (JobId::next(), JobId::next());
    for lane in 0..3 {
        queue.lane_ready(LaneId(lane), kind(lane));
    }
    for index in 0..5 {
        put(&mut queue, leaver, index);
    }
    let leases: Vec<_> = std::iter::from_fn(|| queue.assign(Instant::now())).collect();
    let withdrawn = queue.leave_unattended(leaver);
    let withdrawn: Vec<_> = withdrawn.iter().map(|key| key.index.number()).collect();
    assert_eq!((withdrawn, queue.waiting().needed()), (vec![3, 4], 0));
    assert_eq!(queue.yield_lanes(), [], "no other work waits");
    put(&mut queue, other, 0);
    let yielded = queue.yield_lanes();
    assert_eq!(yielded.len(), 1);
    assert_eq!(queue.yield_lanes(), [], "the lane is free soon");
    let Yielded {
        lane, lease, key, ..
    } = yielded[0];
    assert_eq!(
        (lane, lease, key.index),
        (leases[0].0, leases[0].1.id, ChunkIndex::Whole(0))
    );
    // A failure is no reason to try again.
    let failed = queue.lease_ended(leases[1].0, leases[1].1.id, Err(crash()));
    assert!(matches!(failed, Ended::Withdrawn(key) if key.index == ChunkIndex::Whole(1)));
    queue.attend(leaver);
    put(&mut queue, other, 1);
    put(&mut queue, other, 2);
    assert_eq!(queue.yield_lanes(), [], "a client waits for it again");
    let done = queue.lease_ended(leases[2].0, leases[2].1.id, Ok(ChunkTranscript::default()));
    assert!(matches!(done, Ended::Done { .. }));
}

#[test]
fn live_work_is_first_and_spare_work_last_also_after_a_failure() {
    let mut queue = WorkQueue::new(0);
    let [spare, queued, live, failed] = std::array::from_fn(|_| JobId::next());
    // A spare chunk that failed does not pass the others.
    queue.lane_ready(HOT, LaneKind::Hot);
    put_as(&mut queue, failed, 0, Urgency::Spare);
    let (_, lease) = queue.assign(Instant::now()).expect("assigned");
    let error = EngineError::Failed("scripted".to_owned());
    queue.lease_ended(HOT, lease.id, Err(error));
    put_as(&mut queue, spare, 0, Urgency::Spare);
    put(&mut queue, queued, 0);
    put_as(&mut queue, live, 0, Urgency::Live);
    assert_eq!(
        queue.waiting().needed(),
        2,
        "no lane is started for spare work"
    );
    let mut order = Vec::new();
    while let Some((lane, lease)) = queue.assign(Instant::now()) {
        order.push(queue.chunk_of(lane, lease.id).expect("its chunk").job);
        queue.lease_ended(lane, lease.id, Ok(ChunkTranscript::default()));
    }
    assert_eq!(order, [live, queued, failed, spare]);
}

#[test]
fn spare_work_yields_its_lane_and_waits_again_and_is_kept_once_it_is_live() {
    let mut queue = WorkQueue::new(0);
    let (spare, other) = (JobId::next(), JobId::next());
    queue.lane_ready(HOT, LaneKind::Hot);
    put_as(&mut queue, spare, 0, Urgency::Spare);
    put_as(&mut queue, spare, 1, Urgency::Spare);
    let (_, first) = queue.assign(Instant::now()).expect("assigned");
    assert_eq!(
        queue.yield_lanes(),
        [],
        "spare work does not yield to spare work"
    );
    put(&mut queue, other, 0);
    let yielded = queue.yield_lanes();
    assert_eq!((yielded.len(), yielded[0].lease), (1, first.id));
    assert!(!yielded[0].withdrawn);
    assert_eq!(queue.yield_lanes(), [], "the lane is free soon");
    let aborted = queue.lease_ended(HOT, first.id, Err(EngineError::Aborted));
    assert_eq!(aborted, Ended::Stale, "it waits again, without a failure");
    let (_, lease) = queue.assign(Instant::now()).expect("assigned");
    let key = queue.chunk_of(HOT, lease.id).expect("its chunk");
    assert_eq!(key.job, other);
    queue.lease_ended(HOT, lease.id, Ok(ChunkTranscript::default()));
    // Its turn ends while it runs.
    queue.assign(Instant::now()).expect("assigned");
    queue.set_urgency(spare, Urgency::Live);
    put(&mut queue, other, 1);
    assert_eq!(queue.yield_lanes(), []);
    assert_eq!(
        queue.waiting().needed(),
        2,
        "its second chunk is needed as well"
    );
}

#[test]
fn a_chunk_that_a_cold_lane_failed_on_waits_for_the_hot_one() {
    let mut queue = WorkQueue::new(0);
    let (first_cold, second_cold) = (LaneId(7), LaneId(8));
    queue.lane_ready(HOT, LaneKind::Hot);
    queue.lane_ready(first_cold, LaneKind::Cold);
    queue.lane_ready(second_cold, LaneKind::Cold);
    let job = JobId::next();
    for index in 0..3 {
        put(&mut queue, job, index);
    }
    let leases: Vec<_> = std::iter::from_fn(|| queue.assign(Instant::now())).collect();
    let lanes: Vec<_> = leases.iter().map(|(lane, _)| *lane).collect();
    assert_eq!(lanes, [HOT, first_cold, second_cold]);
    let ended = queue.lease_ended(first_cold, leases[1].1.id, Err(killed()));
    assert!(matches!(ended, Ended::Requeued(key) if key.index == ChunkIndex::Whole(1)));
    let done = queue.lease_ended(second_cold, leases[2].1.id, Ok(ChunkTranscript::default()));
    assert!(matches!(
        done,
        Ended::Done {
            cold_failed: false,
            ..
        }
    ));
    // The second cold lane is idle, but must not take the chunk.
    assert!(queue.assign(Instant::now()).is_none());
    queue.lease_ended(HOT, leases[0].1.id, Ok(ChunkTranscript::default()));
    let (lane, lease) = queue.assign(Instant::now()).expect("the hot lane takes it");
    assert_eq!(
        (lane, lease.request.audio.index),
        (HOT, ChunkIndex::Whole(1))
    );
    let done = queue.lease_ended(HOT, lease.id, Ok(ChunkTranscript::default()));
    assert!(matches!(
        done,
        Ended::Done {
            cold_failed: true,
            lane: LaneKind::Hot,
            ..
        }
    ));
}

#[test]
fn while_the_hot_lane_is_down_a_cold_one_retries_and_others_pass_the_chunks_that_wait_for_it() {
    let mut queue = WorkQueue::new(0);
    let (first, second) = (LaneId(7), LaneId(8));
    queue.lane_ready(first, LaneKind::Cold);
    queue.lane_ready(second, LaneKind::Cold);
    put(&mut queue, JobId::next(), 0);
    let (_, lease) = queue.assign(Instant::now()).expect("assigned");
    queue.lease_ended(first, lease.id, Err(killed()));
    let (lane, again) = queue.assign(Instant::now()).expect("hot is down");
    assert_eq!(lane, second);
    // Meanwhile the hot lane starts and is busy at once; chunks on which cold lanes failed wait for it, and later
    // ones do not.
    queue.lease_ended(second, again.id, Err(EngineError::Failed("no".to_owned())));
    queue.lane_ready(HOT, LaneKind::Hot);
    let (lane, _) = queue.assign(Instant::now()).expect("the hot lane");
    assert_eq!(lane, HOT);
    let job = JobId::next();
    put(&mut queue, job, 5);
    assert_eq!(
        queue.assign(Instant::now()).map(|(lane, _)| lane),
        Some(second)
    );
}

#[test]
fn a_lane_ends_only_when_no_chunk_is_lost_with_it() {
    let mut queue = WorkQueue::new(0);
    queue.lane_ready(HOT, LaneKind::Hot);
    put(&mut queue, JobId::next(), 0);
    put(&mut queue, JobId::next(), 1);
    let (_, lease) = queue.assign(Instant::now()).expect("assigned");
    // The lane considered itself idle, but a chunk was on its way.
    assert_eq!(queue.retire(HOT, Retire::IfIdle), Retirement::Denied);
    assert_eq!(
        queue.retire(HOT, Retire::AfterLease),
        Retirement::AfterLease
    );
    let done = queue.lease_ended(HOT, lease.id, Ok(ChunkTranscript::default()));
    assert!(matches!(done, Ended::Done { .. }));
    assert!(!queue.knows(HOT) && queue.assign(Instant::now()).is_none());
    assert_eq!(queue.waiting().needed(), 1);
    assert_eq!(queue.retire(HOT, Retire::IfIdle), Retirement::Granted);
    queue.lane_ready(LaneId(2), LaneKind::Cold);
    assert!(queue.assign(Instant::now()).is_some());
}

/// Events of a queue, in any order.
#[derive(Clone, Debug)]
enum Step {
    Enqueue { job: usize },
    LaneReady(u64),
    Answer { lane: u64, how: u8 },
    LaneGone(u64),
    Retire { lane: u64, when: Retire },
    Leave { job: usize },
    Return { job: usize },
    Withdraw { job: usize },
}

fn step() -> impl Strategy<Value = Step> {
    let when = prop_oneof![Just(Retire::IfIdle), Just(Retire::AfterLease)];
    prop_oneof![
        3 => (0..4_usize).prop_map(|job| Step::Enqueue { job }),
        2 => (0..4_u64).prop_map(Step::LaneReady),
        4 => (0..4_u64, 0..6_u8).prop_map(|(lane, how)| Step::Answer { lane, how }),
        1 => (0..4_u64).prop_map(Step::LaneGone),
        1 => (0..4_u64, when).prop_map(|(lane, when)| Step::Retire { lane, when }),
        1 => (0..4_usize).prop_map(|job| Step::Withdraw { job }),
        1 => (0..4_usize).prop_map(|job| Step::Leave { job }),
        1 => (0..4_usize).prop_map(|job| Step::Return { job }),
    ]
}

/// Lane 0 is hot.
fn kind(lane: u64) -> LaneKind {
    if lane == 0 {
        LaneKind::Hot
    } else {
        LaneKind::Cold
    }
}

/// A queue, and the expected state.
struct Model {
    queue: WorkQueue,
    jobs: Vec<JobId>,
    next_index: usize,
    /// The request of each chunk.
    job_of: BTreeMap<ChunkIndex, JobId>,
    /// Chunks that are neither done, discarded nor cancelled.
    open: BTreeSet<ChunkKey>,
    /// Chunks that were tried before: they may precede older ones.
    retried: BTreeSet<ChunkIndex>,
    leases: BTreeMap<u64, Lease>,
    tries: BTreeMap<ChunkIndex, usize>,
}

impl Model {
    fn take(&mut self, step: &Step) -> Ended {
        match *step {
            Step::Enqueue { job } => {
                let key = ChunkKey {
                    job: self.jobs[job],
                    index: ChunkIndex::Whole(self.next_index),
                };
                put(&mut self.queue, key.job, key.index.number());
                self.open.insert(key);
                self.job_of.insert(key.index, key.job);
                self.next_index += 1;
                Ended::Stale
            }
            Step::LaneReady(lane) => {
                self.queue.lane_ready(LaneId(lane), kind(lane));
                Ended::Stale
            }
            Step::Answer { lane, how } => self.answer(lane, how),
            Step::LaneGone(lane) => {
                self.leases.remove(&lane);
                self.queue.lane_gone(LaneId(lane), EngineExit::Stopped)
            }
            Step::Retire { lane, when } => {
                let granted = self.queue.retire(LaneId(lane), when);
                let busy = self.leases.contains_key(&lane);
                assert_eq!(granted == Retirement::Granted, !busy, "lost with its lane");
                Ended::Stale
            }
            Step::Withdraw { job } => {
                let job = self.jobs[job];
                self.queue.cancel(job);
                self.open.retain(|key| key.job != job);
                Ended::Stale
            }
            Step::Leave { job } => {
                for key in self.queue.leave_unattended(self.jobs[job]) {
                    assert!(self.open.remove(&key), "withdrawn twice");
                }
                Ended::Stale
            }
            Step::Return { job } => {
                self.queue.attend(self.jobs[job]);
                Ended::Stale
            }
        }
    }

    fn answer(&mut self, lane: u64, how: u8) -> Ended {
        let Some(lease) = self.leases.remove(&lane) else {
            return Ended::Stale;
        };
        let outcome = match how {
            0 => Err(crash()),
            1 => Err(killed()),
            2 => Err(EngineError::Failed("no".to_owned())),
            _ => Ok(ChunkTranscript::default()),
        };
        let ended = (self.queue).lease_ended(LaneId(lane), lease.id, outcome);
        // A repeated answer changes nothing.
        let again = (self.queue).lease_ended(LaneId(lane), lease.id, Err(killed()));
        assert_eq!(again, Ended::Stale);
        ended
    }

    fn settle(&mut self, ended: &Ended) {
        match ended {
            Ended::Done { key, .. } | Ended::Discarded { key, .. } | Ended::Withdrawn(key) => {
                assert!(self.open.remove(key), "done or refused twice");
            }
            Ended::Requeued(key) => {
                assert!(self.open.contains(key));
                self.retried.insert(key.index);
            }
            Ended::Stale => {}
        }
    }

    fn hand_out(&mut self) {
        let mut newest = BTreeMap::new();
        while let Some((lane, lease)) = self.queue.assign(Instant::now()) {
            let index = lease.request.audio.index;
            let tries = self.tries.entry(index).or_default();
            *tries += 1;
            // Two crashes, five kills from outside, two failures, and the success.
            assert!(*tries <= 10, "a chunk is tried for ever");
            if !self.retried.contains(&index) {
                let before = newest.insert(self.job_of[&index], index);
                assert!(before < Some(index), "out of order");
            }
            assert!(self.leases.insert(lane.0, lease).is_none(), "two leases");
        }
        for yielded in self.queue.yield_lanes() {
            let Yielded {
                lane, lease, key, ..
            } = yielded;
            assert_eq!(self.leases.get(&lane.0).map(|held| held.id), Some(lease));
            assert!(self.open.remove(&key), "yielded twice");
        }
        let (busy, _) = self.queue.busy_and_idle();
        assert_eq!(busy, self.leases.len());
    }
}

proptest! {
    /// In the end, every chunk is exactly one of: done, discarded, cancelled, waiting or in one lane. Chunks of a request
    /// that were not tried before are assigned in order. No chunk is retried forever.
    #[test]
    fn nothing_is_lost_and_nothing_is_done_twice(steps in prop::collection::vec(step(), 0..150)) {
        let mut model = Model {
            queue: WorkQueue::new(0),
            jobs: (0..4).map(|_| JobId::next()).collect(),
            next_index: 0,
            job_of: BTreeMap::new(),
            open: BTreeSet::new(),
            retried: BTreeSet::new(),
            leases: BTreeMap::default(),
            tries: BTreeMap::default(),
        };
        for step in steps {
            let ended = model.take(&step);
            model.settle(&ended);
            model.hand_out();
        }
        // A lane that never fails finishes all open chunks.
        for lane in std::mem::take(&mut model.leases).into_keys() {
            let ended = model.queue.lane_gone(LaneId(lane), EngineExit::Stopped);
            model.settle(&ended);
        }
        for lane in 0..4 {
            model.queue.retire(LaneId(lane), Retire::IfIdle);
        }
        for lane in 100.. {
            model.queue.lane_ready(LaneId(lane), LaneKind::Hot);
            let Some((lane, lease)) = model.queue.assign(Instant::now()) else { break };
            let ended = model.queue.lease_ended(lane, lease.id, Ok(ChunkTranscript::default()));
            model.settle(&ended);
        }
        prop_assert!(model.open.is_empty(), "lost: {:?}", model.open);
    }
}
