//! The queue's promises: nothing lost, nothing twice, in order, and a bound on tries.

use std::collections::BTreeSet;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::ports::AudioChunk;
use crate::transcript::Task;

const HOT: LaneId = LaneId(1);

fn request(index: usize) -> ChunkRequest {
    ChunkRequest {
        request_id: Arc::from("test"),
        audio: AudioChunk {
            index,
            start_sample: 0,
            samples: Arc::from(vec![0_i16; 16_000]),
        },
        task: Task::Transcribe,
        language: None,
        prompt: None,
        temperature: 0.0,
    }
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

/// A queue with one chunk; each call of the closure runs it on a fresh lane and answers so.
fn one_chunk() -> (WorkQueue, impl FnMut(&mut WorkQueue, EngineError) -> Ended) {
    let mut queue = WorkQueue::new(0);
    queue.enqueue(JobId::next(), request(0));
    let mut lane = 0;
    let run = move |queue: &mut WorkQueue, error: EngineError| {
        lane += 1;
        queue.lane_ready(LaneId(lane), LaneKind::Hot);
        let (id, lease) = queue.assign().expect("a chunk waits and a lane is idle");
        queue.lease_ended(id, lease.id, Err(error))
    };
    (queue, run)
}

#[test]
fn the_second_crash_makes_a_chunk_poison() {
    let (mut queue, mut run) = one_chunk();
    assert!(matches!(run(&mut queue, crash()), Ended::Requeued(_)));
    let Ended::Refused { error, .. } = run(&mut queue, crash()) else {
        panic!("not refused")
    };
    assert!(matches!(error, SttError::Poison { .. }));
    assert_eq!(queue.depth(), 0);
}

#[test]
fn the_second_silence_is_a_timeout() {
    let (mut queue, mut run) = one_chunk();
    let silence = || EngineError::Exited(EngineExit::TimedOut);
    assert!(matches!(run(&mut queue, silence()), Ended::Requeued(_)));
    let ended = run(&mut queue, silence());
    assert!(matches!(
        ended,
        Ended::Refused {
            error: SttError::Timeout,
            ..
        }
    ));
}

#[test]
fn five_deaths_from_outside_are_forgiven_and_the_sixth_is_not() {
    let (mut queue, mut run) = one_chunk();
    for _ in 0..5 {
        assert!(matches!(run(&mut queue, killed()), Ended::Requeued(_)));
    }
    let Ended::Refused { error, .. } = run(&mut queue, killed()) else {
        panic!("not refused")
    };
    assert!(matches!(error, SttError::WorkerLost { deaths: 6, .. }));
}

#[test]
fn a_failure_of_a_living_engine_is_tried_once_more() {
    let (mut queue, mut run) = one_chunk();
    let failure = || EngineError::Failed("no".to_owned());
    assert!(matches!(run(&mut queue, failure()), Ended::Requeued(_)));
    assert!(matches!(
        run(&mut queue, failure()),
        Ended::Refused {
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
    queue.enqueue(JobId::next(), request(0));
    assert_eq!(queue.assign().map(|(lane, _)| lane), Some(LaneId(2)));
}

#[test]
fn an_answer_to_a_lost_queue_is_stale_in_the_next_one() {
    let mut old = WorkQueue::new(1);
    old.lane_ready(HOT, LaneKind::Hot);
    old.enqueue(JobId::next(), request(0));
    let (_, lease) = old.assign().expect("assigned");
    let mut new = WorkQueue::new(2);
    new.lane_ready(HOT, LaneKind::Hot);
    new.enqueue(JobId::next(), request(0));
    let (_, current) = new.assign().expect("assigned");
    assert_eq!(new.lease_ended(HOT, lease.id, Err(killed())), Ended::Stale);
    let done = new.lease_ended(HOT, current.id, Ok(ChunkTranscript::default()));
    assert!(matches!(done, Ended::Done { .. }));
}

#[test]
fn a_withdrawn_request_frees_its_lane_only_when_the_lane_answers() {
    let mut queue = WorkQueue::new(0);
    let (leaver, stayer) = (JobId::next(), JobId::next());
    queue.lane_ready(HOT, LaneKind::Hot);
    queue.enqueue(leaver, request(0));
    queue.enqueue(leaver, request(1));
    queue.enqueue(stayer, request(0));
    let (_, lease) = queue.assign().expect("assigned");
    assert_eq!(queue.withdraw(leaver), [(HOT, lease.id)]);
    assert_eq!(queue.depth(), 1);
    assert_eq!(queue.audio(), Duration::from_secs(1));
    assert!(queue.assign().is_none());
    let late = queue.lease_ended(HOT, lease.id, Err(EngineError::Aborted));
    assert_eq!(late, Ended::Stale);
    assert_eq!(queue.assign().map(|(lane, _)| lane), Some(HOT));
}

/// What may happen to a queue, in any order.
#[derive(Clone, Debug)]
enum Step {
    Enqueue { job: usize },
    LaneReady(u64),
    Answer { lane: u64, how: u8 },
    LaneGone(u64),
    Withdraw { job: usize },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..4_usize).prop_map(|job| Step::Enqueue { job }),
        2 => (0..3_u64).prop_map(Step::LaneReady),
        4 => (0..3_u64, 0..5_u8).prop_map(|(lane, how)| Step::Answer { lane, how }),
        1 => (0..3_u64).prop_map(Step::LaneGone),
        1 => (0..4_usize).prop_map(|job| Step::Withdraw { job }),
    ]
}

proptest! {
    /// Every chunk that was put in is, in the end, exactly one of: done, refused, withdrawn, still
    /// waiting or still in a lane; and the accounted audio is that of the last two.
    #[test]
    fn nothing_is_lost_and_nothing_is_done_twice(steps in prop::collection::vec(step(), 0..120)) {
        let jobs: Vec<JobId> = (0..4).map(|_| JobId::next()).collect();
        let mut next_index = 0;
        let mut queue = WorkQueue::new(0);
        let mut open: BTreeSet<ChunkKey> = BTreeSet::new();
        let mut leases: std::collections::BTreeMap<u64, LeaseId> = std::collections::BTreeMap::new();
        for step in steps {
            let ended = match step {
                Step::Enqueue { job } => {
                    queue.enqueue(jobs[job], request(next_index));
                    open.insert(ChunkKey { job: jobs[job], index: next_index });
                    next_index += 1;
                    Ended::Stale
                }
                Step::LaneReady(lane) => {
                    queue.lane_ready(LaneId(lane), LaneKind::Hot);
                    Ended::Stale
                }
                Step::Answer { lane, how } => match leases.remove(&lane) {
                    None => Ended::Stale,
                    Some(lease) => {
                        let outcome = match how {
                            0 => Err(crash()),
                            1 => Err(killed()),
                            2 => Err(EngineError::Failed("no".to_owned())),
                            _ => Ok(ChunkTranscript::default()),
                        };
                        let ended = queue.lease_ended(LaneId(lane), lease, outcome);
                        // The same answer once more changes nothing.
                        let again = queue.lease_ended(LaneId(lane), lease, Err(killed()));
                        prop_assert_eq!(again, Ended::Stale);
                        ended
                    }
                },
                Step::LaneGone(lane) => {
                    leases.remove(&lane);
                    queue.lane_gone(LaneId(lane), EngineExit::Stopped)
                }
                Step::Withdraw { job } => {
                    queue.withdraw(jobs[job]);
                    open.retain(|key| key.job != jobs[job]);
                    Ended::Stale
                }
            };
            match ended {
                Ended::Done { key, .. } | Ended::Refused { key, .. } => prop_assert!(open.remove(&key)),
                Ended::Requeued(key) => prop_assert!(open.contains(&key)),
                Ended::Stale => {}
            }
            while let Some((lane, lease)) = queue.assign() {
                prop_assert!(leases.insert(lane.0, lease.id).is_none(), "a lane got two leases");
            }
            prop_assert_eq!(queue.audio(), Duration::from_secs(open.len() as u64));
        }
        // Whatever is still open comes out when a lane that never fails serves the queue.
        for lane in leases.keys() {
            if let Ended::Refused { key, .. } = queue.lane_gone(LaneId(*lane), EngineExit::Stopped) {
                prop_assert!(open.remove(&key));
            }
        }
        for lane in 100.. {
            queue.lane_ready(LaneId(lane), LaneKind::Hot);
            let Some((lane, lease)) = queue.assign() else { break };
            let ended = queue.lease_ended(lane, lease.id, Ok(ChunkTranscript::default()));
            let Ended::Done { key, .. } = ended else { panic!("{ended:?}") };
            prop_assert!(open.remove(&key));
        }
        prop_assert!(open.is_empty(), "lost: {open:?}");
    }
}
