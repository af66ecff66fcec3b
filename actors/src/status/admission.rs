//! Places in the queue: how much work the node has taken on, and what a newcomer would wait for.
//!
//! A request holds a [`AdmissionSlot`] from before its body is read until it is over, however it ends:
//! dropping the place takes all that it stood for out of the accounts. So no error path can leave
//! them wrong, and everybody reads the same numbers: sizing, load score, Retry-After and the
//! estimated wait.
//!
//! What comes before a request follows the order of [`crate::queue::waiting`]. Before one that is a single
//! chunk come its client's earlier ones, as many and one more of every other client, and of long
//! files what lanes have in hand. Before a long file come all that are a single chunk, a chunk of
//! every other client's long file, and its own client's earlier ones whole.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::domain::job::{Client, Priority, SchedulingKey, is_long};
use crate::status::NodeStatus;
use crate::status::chunk_length::target_length;
use crate::status::load::{Ahead, Left, Load};

/// Chunks of one request that are decoded and not yet done, at most, beyond one for each lane: one
/// that waits, one that is being cut.
const CHUNKS_BEYOND_LANES: usize = 2;

/// A body of so many bytes is longer than a chunk: 30 s of a telephone's best video.
const BYTES_OF_A_LONG_FILE: u64 = 200_000_000;

/// How many chunks one request may have decoded and not yet done: enough for all lanes, and few
/// enough that others do not wait long behind them.
pub fn outstanding_chunks(lanes: usize) -> usize {
    lanes.max(1) + CHUNKS_BEYOND_LANES
}

/// A request that asks for a place.
#[derive(Clone, Debug)]
pub struct AdmissionRequest {
    /// Whose it is.
    pub client: Client,
    /// How urgent that client's work is.
    pub priority: Priority,
    /// Bytes of its body, where it says so.
    pub body_bytes: Option<u64>,
}

impl AdmissionRequest {
    /// One of whose body nothing is known.
    pub fn of(client: Client) -> Self {
        Self {
            client,
            priority: Priority::default(),
            body_bytes: None,
        }
    }

    /// Whether its audio is longer than a chunk in any format that people send, video included: an
    /// hour of compressed speech may be smaller.
    fn is_surely_long(&self) -> bool {
        self.body_bytes
            .is_some_and(|bytes| bytes > BYTES_OF_A_LONG_FILE)
    }
}

/// What one place stands for.
#[derive(Clone, Debug)]
struct Entry {
    client: Client,
    long: bool,
    /// Chunks that are decoded and not done.
    open: Load,
    /// All that is left, the open chunks among it.
    remaining: Load,
}

/// What all places together stand for, in the order in which they were taken.
#[derive(Debug, Default)]
pub struct AdmissionSlots {
    entries: Mutex<BTreeMap<SlotId, Entry>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct SlotId(u64);

impl AdmissionSlots {
    /// Requests that hold a place.
    pub fn held(&self) -> usize {
        self.lock().len()
    }

    /// Audio that is still to be worked on, the undecoded rest of long files included.
    pub fn remaining(&self) -> Load {
        let entries = self.lock();
        let all = entries.values().map(|entry| entry.remaining);
        all.fold(Load::default(), Load::plus)
    }

    /// What comes before the request in a place.
    fn ahead_of(&self, id: SlotId) -> Ahead {
        let entries = self.lock();
        let mut ahead = Ahead::default();
        let Some(own) = entries.get(&id) else {
            return ahead;
        };
        // Those without work wait for that of others, or are about to end.
        let works = |other: &Entry| other.remaining != Load::default();
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

/// One request's place. Dropping it gives it back.
#[derive(Debug)]
pub struct AdmissionSlot {
    status: Arc<NodeStatus>,
    id: SlotId,
    client: Client,
    priority: Priority,
}

impl AdmissionSlot {
    /// Takes a place for a request whose length is not known yet.
    pub(crate) fn take(status: &Arc<NodeStatus>, admission_request: AdmissionRequest) -> Self {
        // One chunk, as long as those of other requests were: anything more would let one long file
        // speak for every command after it.
        let expected = Load {
            audio_millis: (status.typical_request_seconds() * 1000.0) as u64,
            chunks: 1,
        };
        let entry = Entry {
            client: admission_request.client.clone(),
            long: admission_request.is_surely_long(),
            open: Load::default(),
            remaining: expected,
        };
        let mut entries = status.slots().lock();
        // Places are taken in the order of their numbers.
        let id = entries.last_key_value().map_or(0, |(last, _)| last.0 + 1);
        let id = SlotId(id);
        entries.insert(id, entry);
        drop(entries);
        status.review_routing();
        Self {
            status: Arc::clone(status),
            id,
            client: admission_request.client,
            priority: admission_request.priority,
        }
    }

    /// What comes before this request.
    pub(crate) fn ahead(&self) -> Ahead {
        self.status.slots().ahead_of(self.id)
    }

    /// What the order of this request's chunks depends on.
    pub(crate) fn scheduling_key(
        &self,
        total_seconds: f64,
        remaining_seconds: f64,
    ) -> SchedulingKey {
        SchedulingKey {
            client: self.client.clone(),
            priority: self.priority,
            total_seconds,
            remaining_seconds,
        }
    }

    /// What is left of the request: `open` chunks with so many seconds of audio in the queue or in
    /// a lane, and `undecoded` seconds beyond, of `total` as far as it is known.
    pub(crate) fn update(&mut self, left: Left) {
        let open = Load {
            audio_millis: (left.open_seconds.max(0.0) * 1000.0) as u64,
            chunks: left.open as u64,
        };
        let chunk = target_length(self.status.cost());
        if let Some(entry) = self.status.slots().lock().get_mut(&self.id) {
            entry.long = is_long(left.total_seconds);
            entry.open = open;
            entry.remaining = open.plus(Load::uncut(left.undecoded_seconds, chunk));
        }
        self.status.review_routing();
    }
}

impl Drop for AdmissionSlot {
    fn drop(&mut self) {
        self.status.slots().lock().remove(&self.id);
        self.status.review_routing();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn node() -> Arc<NodeStatus> {
        Arc::new(NodeStatus::default())
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
    fn a_long_file_stands_before_a_command_with_what_lanes_have_in_hand_only() {
        let node = node();
        let mut long = AdmissionSlot::take(&node, admission_request("a"));
        long.update(left(1, 25.0, 1775.0));
        assert!((node.slots().remaining().audio_seconds() - 1800.0).abs() < 1e-6);
        assert_eq!(node.slots().remaining().chunks, 1 + 64);
        let command = AdmissionSlot::take(&node, admission_request("a"));
        let expected = Ahead {
            long_in_hand: 1,
            ..Ahead::default()
        };
        assert_eq!(command.ahead(), expected);
        long.update(left(0, 0.0, 0.0));
        drop(command);
        assert_eq!(node.slots().remaining(), Load::default());
        assert_eq!(node.slots().held(), 1);
    }

    #[test]
    fn before_a_long_file_come_its_clients_earlier_ones_whole_and_a_chunk_of_others() {
        let node = node();
        let take = |client, seconds: f64| {
            let mut slot = AdmissionSlot::take(&node, admission_request(client));
            slot.update(left(0, 0.0, seconds));
            slot
        };
        let _short = take("b", 10.0);
        let _own = take("a", 100.0);
        let _other = take("b", 1000.0);
        let long = take("a", 500.0);
        let _later = take("a", 250.0);
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
    fn a_client_with_one_command_waits_for_one_of_a_greedy_client_and_not_for_all() {
        let node = node();
        let take = |client| {
            let mut slot = AdmissionSlot::take(&node, admission_request(client));
            slot.update(left(1, 5.0, 0.0));
            slot
        };
        let greedy: Vec<AdmissionSlot> = (0..50).map(|_| take("greedy")).collect();
        let modest = [take("modest"), take("modest")];
        assert_eq!(modest[0].ahead().requests, 1);
        // Its first one, and two of the other client.
        assert_eq!(modest[1].ahead().requests, 3);
        assert_eq!(greedy[49].ahead().requests, 49 + 2);
    }

    #[test]
    fn a_large_body_is_taken_for_a_long_file_before_it_is_read() {
        let node = node();
        let mut own = AdmissionSlot::take(&node, admission_request("a"));
        own.update(left(0, 0.0, 5000.0));
        let large = AdmissionRequest {
            body_bytes: Some(500_000_000),
            ..admission_request("a")
        };
        let slot = AdmissionSlot::take(&node, large);
        assert!((slot.ahead().load.audio_seconds() - 5000.0).abs() < 1e-6);
    }

    proptest! {
        #[test]
        fn when_every_place_is_given_back_nothing_is_left(
            updates in prop::collection::vec((0_usize..6, 0_usize..4, 0.0_f64..100.0, 0.0_f64..5000.0), 0..60),
        ) {
            let node = node();
            let take = |which: usize| Some(AdmissionSlot::take(&node, admission_request(&which.to_string())));
            let mut slots: Vec<Option<AdmissionSlot>> = (0..6).map(take).collect();
            for (which, open, open_seconds, undecoded) in updates {
                if undecoded < 100.0 {
                    slots[which] = None;
                } else if let Some(slot) = &mut slots[which] {
                    slot.update(left(open, open_seconds, undecoded));
                }
            }
            prop_assert_eq!(node.slots().held(), slots.iter().flatten().count());
            drop(slots);
            prop_assert_eq!(node.slots().held(), 0);
            prop_assert_eq!(node.slots().remaining(), Load::default());
        }
    }
}
