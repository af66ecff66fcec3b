//! Admission: how much work the node has accepted, and how long a new request would wait.
//!
//! A request holds an [`AdmissionSlot`] from before its body is read until it ends. Dropping the slot removes
//! the request's work from the accounts, so no error path can leave them wrong. Pool sizing, the load score,
//! Retry-After and wait estimates all read these accounts.
//!
//! The work ahead of a request follows the order of [`crate::queue::waiting`]. Ahead of a request of one chunk
//! are its client's earlier short requests, as many requests of every other client plus one, and the chunks of
//! long files that lanes already work on. Ahead of a long file are all short requests, one chunk of every
//! other client's long file, and its own client's earlier long files whole.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::domain::error::SttError;
use crate::domain::job::{Client, Priority, SchedulingKey, Urgency, is_long};
use crate::status::load::{Ahead, Left, Load, WaitEstimate};
use crate::status::snapshot::{HotState, Snapshot};

/// Requests that the node accepts at once. Each costs little; this limits what a flood of them costs.
const MOST_REQUESTS: usize = 512;
/// The shortest Retry-After: the header counts whole seconds.
pub(crate) const SHORTEST_RETRY_AFTER: Duration = Duration::from_secs(1);
/// The longest Retry-After: clients ignore longer ones.
pub(crate) const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(120);
/// Open chunks that a request may have beyond one for each lane: one that waits, and one that is being cut.
const CHUNKS_BEYOND_LANES: usize = 2;

/// A larger body is certainly longer than one chunk: 30 s of a phone's best video have this size.
const BYTES_OF_A_LONG_FILE: u64 = 200_000_000;

/// The maximum number of a request's chunks that are decoded and not finished: enough for all lanes, and few
/// enough that other requests do not wait long behind them.
pub fn outstanding_chunks(lanes: usize) -> usize {
    lanes.max(1) + CHUNKS_BEYOND_LANES
}

/// A request that asks for admission.
#[derive(Clone, Debug)]
pub struct AdmissionRequest {
    /// The client that sent it.
    pub client: Client,
    /// The priority of that client's work.
    pub priority: Priority,
    /// Bytes of the body, if the request says so.
    pub body_bytes: Option<u64>,
    /// It is a job, which counts neither as load nor as waiting work of the node.
    pub background: bool,
}

impl AdmissionRequest {
    /// A request with a body of unknown length.
    pub fn of(client: Client) -> Self {
        Self {
            client,
            priority: Priority::default(),
            body_bytes: None,
            background: false,
        }
    }

    /// Whether its audio is longer than a chunk in any usual format, video included. An hour of compressed
    /// speech may be smaller.
    fn is_surely_long(&self) -> bool {
        self.body_bytes
            .is_some_and(|bytes| bytes > BYTES_OF_A_LONG_FILE)
    }
}

/// Decides on a request with this work ahead of it, from one snapshot of the node. `max_queue` is the longest
/// acceptable wait.
///
/// # Errors
/// The estimated wait is too long, or the node holds too many requests.
pub(crate) fn decide(
    snapshot: &Snapshot,
    ahead: Ahead,
    max_queue: Duration,
) -> Result<WaitEstimate, SttError> {
    let estimate = snapshot.wait_estimate(ahead);
    reject_long_wait(snapshot, estimate, max_queue)?;
    if snapshot.requests > MOST_REQUESTS {
        return Err(overloaded(next_end(snapshot, estimate)));
    }
    Ok(estimate)
}

/// Rejects requests while no lane will be ready soon and there is no fallback.
pub(crate) fn reject_if_unable(snapshot: &Snapshot, has_fallback: bool) -> Result<(), SttError> {
    if snapshot.draining {
        return Err(snapshot.draining_refusal());
    }
    match &snapshot.hot {
        HotState::Ready(_) | HotState::Asleep(_) | HotState::Restarting { .. } => Ok(()),
        // Cold workers that are ready continue without the hot lane.
        HotState::Failed { .. } if snapshot.lanes() > 0 || has_fallback => Ok(()),
        HotState::Starting => Err(not_ready("the model is loading", snapshot.ready_in())),
        HotState::Failed { reason } => Err(not_ready(reason, snapshot.start_time())),
    }
}

fn not_ready(reason: &str, ready_in: Duration) -> SttError {
    SttError::NotReady {
        reason: reason.to_owned(),
        retry_after: ready_in.clamp(SHORTEST_RETRY_AFTER, LONGEST_RETRY_AFTER),
    }
}

/// Rejects a request whose estimated wait exceeds `max_queue`.
pub(crate) fn reject_long_wait(
    snapshot: &Snapshot,
    estimate: WaitEstimate,
    max_queue: Duration,
) -> Result<(), SttError> {
    let excess = estimate.wait.saturating_sub(max_queue);
    if excess.is_zero() {
        return Ok(());
    }
    Err(overloaded(excess.max(next_end(snapshot, estimate))))
}

/// The estimated time until one of the node's requests ends.
fn next_end(snapshot: &Snapshot, estimate: WaitEstimate) -> Duration {
    estimate.wait / snapshot.requests.max(1) as u32
}

fn overloaded(retry_after: Duration) -> SttError {
    SttError::Overloaded {
        retry_after: retry_after.clamp(SHORTEST_RETRY_AFTER, LONGEST_RETRY_AFTER),
    }
}

/// The accounts of one slot.
#[derive(Clone, Debug)]
struct Entry {
    client: Client,
    long: bool,
    /// A job: no request waits for its work.
    background: bool,
    /// Chunks that are decoded and not done.
    open: Load,
    /// All remaining work, including the open chunks.
    remaining: Load,
}

/// The slots of all requests, in the order in which they were taken.
#[derive(Debug)]
pub struct AdmissionSlots {
    entries: Mutex<BTreeMap<SlotId, Entry>>,
    /// Announces every change, because it may change whether the node accepts requests.
    changed: watch::Sender<()>,
    /// Uploads that are not complete.
    uploads: TaskTracker,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct SlotId(u64);

impl AdmissionSlots {
    /// No slot is taken. Every change is announced through `changed`.
    pub(crate) fn new(changed: watch::Sender<()>) -> Self {
        Self {
            entries: Mutex::default(),
            changed,
            uploads: TaskTracker::new(),
        }
    }

    /// Takes a slot for a request whose length is not known yet. `expected_seconds` is what it counts for until
    /// then, at most one chunk: anything more would let one long file speak for every command after it.
    pub(crate) fn take(
        self: &Arc<Self>,
        request: AdmissionRequest,
        expected_seconds: f64,
    ) -> AdmissionSlot {
        let entry = Entry {
            client: request.client.clone(),
            long: request.is_surely_long(),
            background: request.background,
            open: Load::default(),
            remaining: Load {
                audio_millis: (expected_seconds * 1000.0) as u64,
                chunks: 1,
            },
        };
        let mut entries = self.lock();
        // Slots are numbered in the order in which they are taken.
        let id = entries.last_key_value().map_or(0, |(last, _)| last.0 + 1);
        let id = SlotId(id);
        entries.insert(id, entry);
        drop(entries);
        self.changed.send_replace(());
        AdmissionSlot {
            upload: (!request.background).then(|| self.uploads.token()),
            slots: Arc::clone(self),
            id,
            client: request.client,
            priority: request.priority,
        }
    }

    /// Uploads that are not complete.
    pub(crate) fn uploads(&self) -> &TaskTracker {
        &self.uploads
    }

    /// How many slots are taken, without those of jobs.
    pub fn held(&self) -> usize {
        self.lock()
            .values()
            .filter(|entry| !entry.background)
            .count()
    }

    /// Audio of requests that is not transcribed yet, including the undecoded rest of long files.
    pub fn remaining(&self) -> Load {
        let entries = self.lock();
        let all = entries.values().filter(|entry| !entry.background);
        all.map(|entry| entry.remaining)
            .fold(Load::default(), Load::plus)
    }

    /// The same of jobs.
    pub fn background(&self) -> Load {
        let entries = self.lock();
        let jobs = entries.values().filter(|entry| entry.background);
        jobs.map(|entry| entry.remaining)
            .fold(Load::default(), Load::plus)
    }

    /// The work ahead of the request in a slot.
    fn ahead_of(&self, id: SlotId) -> Ahead {
        let entries = self.lock();
        let mut ahead = Ahead::default();
        let Some(own) = entries.get(&id) else {
            return ahead;
        };
        // A request without work waits for another request's, or is about to end.
        let works = |other: &Entry| !other.background && other.remaining != Load::default();
        let is_earlier_own = |other_id: SlotId, other: &Entry| {
            other_id < id && other.client == own.client && other.long == own.long && works(other)
        };
        let earlier_own = entries
            .iter()
            .filter(|(id, other)| is_earlier_own(**id, other));
        let turns = earlier_own.count() + 1;
        let mut taken: BTreeMap<&Client, usize> = BTreeMap::new();
        let others = entries.iter().filter(|(other_id, _)| **other_id != id);
        for (&other_id, other) in others.filter(|(_, other)| works(other)) {
            let of_own_client = other.client == own.client;
            match (own.long, other.long) {
                (false, false) if of_own_client => {
                    if other_id < id {
                        ahead.add(other.remaining);
                    }
                }
                (false, false) => {
                    let taken = taken.entry(&other.client).or_default();
                    *taken += 1;
                    if *taken <= turns {
                        ahead.add(other.remaining);
                    }
                }
                (false, true) => ahead.long_in_hand += other.open.chunks as usize,
                (true, false) => ahead.add(other.remaining),
                (true, true) if !of_own_client => ahead.add(other.remaining.first_chunk()),
                (true, true) => {
                    if other_id < id {
                        ahead.add(other.remaining);
                    }
                }
            }
        }
        ahead
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<SlotId, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One request's slot. Dropping it frees it.
#[derive(Debug)]
pub struct AdmissionSlot {
    slots: Arc<AdmissionSlots>,
    id: SlotId,
    client: Client,
    priority: Priority,
    /// `None`: the Transcriptions have the request, or it is a job, whose audio is stored.
    upload: Option<TaskTrackerToken>,
}

impl AdmissionSlot {
    /// The work ahead of this request.
    pub(crate) fn ahead(&self) -> Ahead {
        self.slots.ahead_of(self.id)
    }

    /// The values that decide the order of this request's chunks.
    pub(crate) fn scheduling_key(
        &self,
        urgency: Urgency,
        total_seconds: f64,
        remaining_seconds: f64,
    ) -> SchedulingKey {
        SchedulingKey {
            client: self.client.clone(),
            priority: self.priority,
            urgency,
            total_seconds,
            remaining_seconds,
        }
    }

    /// Sets the remaining work. Audio that is not cut yet counts in chunks of `chunk_length`.
    pub(crate) fn update(&mut self, left: Left, chunk_length: Duration) {
        let open = Load {
            audio_millis: (left.open_seconds.max(0.0) * 1000.0) as u64,
            chunks: left.open as u64,
        };
        if let Some(entry) = self.slots.lock().get_mut(&self.id) {
            entry.long = is_long(left.total_seconds);
            entry.open = open;
            entry.remaining = open.plus(Load::uncut(left.undecoded_seconds, chunk_length));
        }
        self.slots.changed.send_replace(());
    }

    /// The Transcriptions have the request: a drain waits for its text now.
    pub(crate) fn uploaded(&mut self) {
        self.upload = None;
    }

    /// Sets the remaining work to none: another request's work answers this one.
    pub(crate) fn clear(&mut self) {
        self.update(Left::default(), Duration::from_secs(1));
    }
}

impl Drop for AdmissionSlot {
    fn drop(&mut self) {
        self.slots.lock().remove(&self.id);
        self.slots.changed.send_replace(());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::status::NodeStatus;
    use crate::status::chunk_length::LONGEST_TARGET;
    use crate::status::lanes::WaitingChunks;

    fn no_slots() -> Arc<AdmissionSlots> {
        Arc::new(AdmissionSlots::new(watch::Sender::new(())))
    }

    fn take(slots: &Arc<AdmissionSlots>, client: &str) -> AdmissionSlot {
        slots.take(admission_request(client), 10.0)
    }

    fn update(slot: &mut AdmissionSlot, left: Left) {
        slot.update(left, LONGEST_TARGET);
    }

    fn admission_request(client: &str) -> AdmissionRequest {
        AdmissionRequest::of(Client::new(client))
    }

    fn left(open: usize, open_seconds: f64, undecoded_seconds: f64) -> Left {
        Left {
            open,
            open_seconds,
            undecoded_seconds,
            total_seconds: open_seconds + undecoded_seconds,
        }
    }

    #[test]
    fn a_command_waits_only_for_the_chunks_of_a_long_file_that_lanes_work_on() {
        let slots = no_slots();
        let mut long = take(&slots, "a");
        update(&mut long, left(1, 25.0, 1775.0));
        assert!((slots.remaining().audio_seconds() - 1800.0).abs() < 1e-6);
        assert_eq!(slots.remaining().chunks, 1 + 64);
        let command = take(&slots, "a");
        let expected = Ahead {
            long_in_hand: 1,
            ..Ahead::default()
        };
        assert_eq!(command.ahead(), expected);
        update(&mut long, left(0, 0.0, 0.0));
        drop(command);
        assert_eq!(slots.remaining(), Load::default());
        assert_eq!(slots.held(), 1);
    }

    #[test]
    fn a_long_file_waits_for_its_clients_earlier_files_and_a_chunk_of_others() {
        let slots = no_slots();
        let take_long = |client, seconds: f64| {
            let mut slot = take(&slots, client);
            update(&mut slot, left(0, 0.0, seconds));
            slot
        };
        let _short = take_long("b", 10.0);
        let _own = take_long("a", 100.0);
        let _other = take_long("b", 1000.0);
        let long = take_long("a", 500.0);
        let _later = take_long("a", 250.0);
        let ahead = long.ahead();
        // 10 s, 100 s in four chunks, and one of 36 of the other client's.
        let expected = 10.0 + 100.0 + 1000.0 / 36.0;
        assert!(
            (ahead.load.audio_seconds() - expected).abs() < 0.01,
            "{ahead:?}"
        );
        assert_eq!((ahead.load.chunks, ahead.requests), (6, 3));
    }

    #[test]
    fn a_client_with_one_command_waits_for_one_request_of_a_greedy_client() {
        let slots = no_slots();
        let take_short = |client| {
            let mut slot = take(&slots, client);
            update(&mut slot, left(1, 5.0, 0.0));
            slot
        };
        let greedy: Vec<AdmissionSlot> = (0..50).map(|_| take_short("greedy")).collect();
        let modest = [take_short("modest"), take_short("modest")];
        assert_eq!(modest[0].ahead().requests, 1);
        // Its own first one and two of the other client.
        assert_eq!(modest[1].ahead().requests, 3);
        assert_eq!(greedy[49].ahead().requests, 49 + 2);
    }

    #[test]
    fn a_large_body_counts_as_a_long_file_before_it_is_read() {
        let slots = no_slots();
        let mut own = take(&slots, "a");
        update(&mut own, left(0, 0.0, 5000.0));
        let large = AdmissionRequest {
            body_bytes: Some(500_000_000),
            background: false,
            ..admission_request("a")
        };
        let slot = slots.take(large, 10.0);
        assert!((slot.ahead().load.audio_seconds() - 5000.0).abs() < 1e-6);
    }

    /// A snapshot of a node with this many requests and one lane.
    fn snapshot(requests: usize) -> Snapshot {
        let status = Arc::new(NodeStatus::default());
        status.set_queue(WaitingChunks::of_short(0), 1, 0);
        Snapshot {
            requests,
            live_sessions: 0,
            ..status.snapshot()
        }
    }

    /// A command with this many seconds of audio ahead of it, which take as long on the unmeasured lane.
    fn ahead(seconds: u64) -> Ahead {
        Ahead {
            load: Load {
                audio_millis: seconds * 1000,
                chunks: 1,
            },
            requests: 1,
            long_in_hand: 0,
        }
    }

    #[test]
    fn one_snapshot_decides_and_its_estimate_is_the_one_that_is_returned() {
        let (node, max_queue) = (snapshot(2), Duration::from_secs(60));
        let admitted = decide(&node, ahead(50), max_queue).expect("admitted");
        assert_eq!(admitted, node.wait_estimate(ahead(50)));
        assert_eq!(admitted.wait, Duration::from_secs(50));
        // Half of the wait is a request's average: longer than the excess of 10 s.
        let rejected = decide(&node, ahead(70), max_queue).expect_err("too long");
        assert_eq!(rejected, overloaded(Duration::from_secs(35)));
        let rejected = decide(&node, ahead(200), max_queue).expect_err("too long");
        assert_eq!(rejected, overloaded(LONGEST_RETRY_AFTER));
    }

    #[test]
    fn more_requests_than_the_limit_are_rejected_until_the_next_one_ends() {
        let max_queue = Duration::from_secs(600);
        assert!(decide(&snapshot(MOST_REQUESTS), ahead(513), max_queue).is_ok());
        let full = snapshot(MOST_REQUESTS + 1);
        let rejected = decide(&full, ahead(513), max_queue).expect_err("full");
        assert_eq!(rejected, overloaded(Duration::from_secs(1)));
    }

    #[test]
    fn every_change_of_a_slot_is_announced() {
        let changed = watch::Sender::new(());
        let slots = Arc::new(AdmissionSlots::new(changed.clone()));
        let mut seen = changed.subscribe();
        let mut is_announced = move || {
            let announced = seen.has_changed().expect("the sender lives");
            seen.mark_unchanged();
            announced
        };
        let mut slot = take(&slots, "a");
        assert!(is_announced());
        update(&mut slot, left(1, 5.0, 0.0));
        assert!(is_announced());
        drop(slot);
        assert!(is_announced() && !is_announced());
    }

    proptest! {
        #[test]
        fn when_every_slot_is_free_no_work_is_left(
            updates in prop::collection::vec((0_usize..6, 0_usize..4, 0.0_f64..100.0, 0.0_f64..5000.0), 0..60),
        ) {
            let slots = no_slots();
            let mut taken: Vec<Option<AdmissionSlot>> =
                (0..6).map(|which| Some(take(&slots, &which.to_string()))).collect();
            for (which, open, open_seconds, undecoded) in updates {
                if undecoded < 100.0 {
                    taken[which] = None;
                } else if let Some(slot) = &mut taken[which] {
                    update(slot, left(open, open_seconds, undecoded));
                }
            }
            prop_assert_eq!(slots.held(), taken.iter().flatten().count());
            drop(taken);
            prop_assert_eq!(slots.held(), 0);
            prop_assert_eq!(slots.remaining(), Load::default());
        }
    }
}
