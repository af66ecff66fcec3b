//! What each lane does, for people who look at the node. A lane keeps its entry through an account, which ends with it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::domain::ids::{LaneId, LaneKind, WorkerId, WorkerRole};
use crate::domain::job::WorkKind;
use crate::status::NodeStatus;
use crate::status::snapshot::HotState;

/// A lane at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct LaneSnapshot {
    /// The name of its worker, as in the log; of a hot lane without a worker: `hot`.
    pub name: Arc<str>,
    /// Hot or cold.
    pub kind: LaneKind,
    /// What it does.
    pub state: LaneState,
    /// For how long it has done that.
    pub since: Duration,
    /// The process of its engine, once that is loaded and if it has one.
    pub process_id: Option<u32>,
}

/// What a lane does.
#[derive(Clone, Debug, PartialEq)]
pub enum LaneState {
    /// It loads its model.
    Loading,
    /// It transcribes a chunk.
    Busy(LaneWork),
    /// It waits for a chunk.
    Idle {
        /// When it ends if no chunk comes; `None`: never.
        ends_in: Option<Duration>,
    },
    /// The hot lane unloaded its model after `HOT_IDLE_TIMEOUT`; the next request loads it again.
    Asleep,
    /// The hot lane's engine ended, and is being started again.
    Restarting {
        /// How it ended.
        reason: String,
    },
    /// The hot lane's engine could not be started; this is tried again at long intervals.
    Failed {
        /// The error, for people.
        reason: String,
    },
}

impl LaneState {
    /// The state in reports and metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Loading => "loading",
            Self::Busy(_) => "busy",
            Self::Idle { .. } => "idle",
            Self::Asleep => "asleep",
            Self::Restarting { .. } => "restarting",
            Self::Failed { .. } => "failed",
        }
    }
}

/// The chunk that a lane works on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LaneWork {
    /// The kind of request that it belongs to.
    pub kind: WorkKind,
    /// Seconds of audio in it.
    pub audio_seconds: f64,
}

/// Waiting chunks, by the kind of request that they belong to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WaitingChunks {
    /// Of live speech.
    pub live: usize,
    /// Of requests of one chunk.
    pub short: usize,
    /// Of longer requests.
    pub long: usize,
    /// Of jobs.
    pub job: usize,
    /// Of work that may never be needed.
    pub spare: usize,
}

impl WaitingChunks {
    /// Chunks of short requests only.
    #[cfg(test)]
    pub(crate) fn of_short(short: usize) -> Self {
        Self {
            short,
            ..Self::default()
        }
    }

    /// Counts a chunk.
    pub(crate) fn add(&mut self, kind: WorkKind) {
        let count = match kind {
            WorkKind::Live => &mut self.live,
            WorkKind::Short => &mut self.short,
            WorkKind::Long => &mut self.long,
            WorkKind::Job => &mut self.job,
            WorkKind::Spare => &mut self.spare,
        };
        *count += 1;
    }

    /// Those that a client waits for: all without those of jobs and the spare ones.
    pub fn needed(self) -> usize {
        self.live + self.short + self.long
    }
}

#[derive(Clone, Copy, Debug)]
enum Activity {
    Loading,
    Busy(LaneWork),
    Idle { ends: Option<Instant> },
}

#[derive(Debug)]
struct Entry {
    worker: WorkerId,
    activity: Activity,
    since: Instant,
    /// Whether the engine is loaded.
    loaded: bool,
    /// The process of the loaded engine, if it has one.
    process_id: Option<u32>,
}

impl Entry {
    fn snapshot(&self, now: Instant) -> LaneSnapshot {
        LaneSnapshot {
            name: self.worker.name(),
            kind: self.worker.kind(),
            state: match self.activity {
                Activity::Loading => LaneState::Loading,
                Activity::Busy(work) => LaneState::Busy(work),
                Activity::Idle { ends } => LaneState::Idle {
                    ends_in: ends.map(|ends| ends.saturating_duration_since(now)),
                },
            },
            since: now.saturating_duration_since(self.since),
            process_id: self.process_id,
        }
    }
}

/// The lanes that exist.
#[derive(Debug, Default)]
pub(crate) struct Lanes(Mutex<BTreeMap<LaneId, Entry>>);

impl Lanes {
    /// Number of loaded engines, and the ids of their processes.
    pub(crate) fn engines(&self) -> (usize, Vec<u32>) {
        let lanes = self.lock();
        let loaded = || lanes.values().filter(|lane| lane.loaded);
        let processes = loaded().filter_map(|lane| lane.process_id);
        (loaded().count(), processes.collect())
    }

    /// The processes of the loaded engines, with what they are for.
    pub(crate) fn processes(&self) -> Vec<(WorkerRole, u32)> {
        let lanes = self.lock();
        let processes = lanes
            .values()
            .filter_map(|lane| Some((lane.worker.role(), lane.process_id?)));
        processes.collect()
    }

    /// All lanes, the hot one first and then the oldest. The hot one is there even without a worker. `hot_for`: for
    /// how long it has been in this state.
    pub(crate) fn snapshot(&self, hot: HotState, hot_for: Duration) -> Vec<LaneSnapshot> {
        let now = Instant::now();
        let lanes = self.lock();
        let of = |kind| {
            let lanes = lanes
                .values()
                .filter(move |lane| lane.worker.kind() == kind);
            lanes.map(move |lane| lane.snapshot(now))
        };
        let worker = of(LaneKind::Hot).next_back();
        let mut all = vec![hot_lane(worker, hot, hot_for)];
        all.extend(of(LaneKind::Cold));
        all
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<LaneId, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The hot lane, from its worker and from what the Supervisor knows.
fn hot_lane(worker: Option<LaneSnapshot>, hot: HotState, hot_for: Duration) -> LaneSnapshot {
    let (process_id, name) = worker.as_ref().map_or_else(
        || (None, Arc::from("hot")),
        |worker| (worker.process_id, Arc::clone(&worker.name)),
    );
    let supervised = |state| LaneSnapshot {
        name,
        kind: LaneKind::Hot,
        state,
        since: hot_for,
        process_id,
    };
    match (hot, worker) {
        // A worker that loads is another try of the same restart.
        (HotState::Restarting { reason }, _) => supervised(LaneState::Restarting { reason }),
        (HotState::Failed { reason }, _) => supervised(LaneState::Failed { reason }),
        (_, Some(worker)) => worker,
        (HotState::Asleep(_), None) => supervised(LaneState::Asleep),
        (HotState::Starting, None) => supervised(LaneState::Loading),
        // It has just ended, and the Supervisor does not know yet.
        (HotState::Ready(_), None) => LaneSnapshot {
            since: Duration::ZERO,
            ..supervised(LaneState::Loading)
        },
    }
}

/// A lane's entry in the status, which ends when this is dropped, however the lane ends.
#[derive(Debug)]
pub(crate) struct LaneAccount {
    status: Arc<NodeStatus>,
    lane: LaneId,
}

impl LaneAccount {
    /// The entry of a lane that loads its engine.
    pub(crate) fn open(status: &Arc<NodeStatus>, lane: LaneId, worker: WorkerId) -> Self {
        let entry = Entry {
            worker,
            activity: Activity::Loading,
            since: Instant::now(),
            loaded: false,
            process_id: None,
        };
        status.lanes.lock().insert(lane, entry);
        Self {
            status: Arc::clone(status),
            lane,
        }
    }

    /// The engine is loaded.
    pub(crate) fn engine_up(&self, process_id: Option<u32>) {
        self.change(|entry| {
            entry.loaded = true;
            entry.process_id = process_id;
        });
    }

    /// The lane works on a chunk from now on.
    pub(crate) fn busy(&self, work: LaneWork) {
        self.change(|entry| {
            entry.activity = Activity::Busy(work);
            entry.since = Instant::now();
        });
    }

    /// The request of the lane's chunk is of this kind from now on.
    pub(crate) fn work_is(&self, kind: WorkKind) {
        self.change(|entry| {
            if let Activity::Busy(work) = &mut entry.activity {
                work.kind = kind;
            }
        });
    }

    /// The lane is idle, and ends after this time if no chunk comes; `None`: never.
    pub(crate) fn idle(&self, ends_in: Option<Duration>) {
        let now = Instant::now();
        let ends = ends_in.and_then(|ends_in| now.checked_add(ends_in));
        self.change(|entry| {
            if !matches!(entry.activity, Activity::Idle { .. }) {
                entry.since = now;
            }
            entry.activity = Activity::Idle { ends };
        });
    }

    fn change(&self, change: impl FnOnce(&mut Entry)) {
        if let Some(entry) = self.status.lanes.lock().get_mut(&self.lane) {
            change(entry);
        }
    }
}

impl Drop for LaneAccount {
    fn drop(&mut self) {
        self.status.lanes.lock().remove(&self.lane);
    }
}
