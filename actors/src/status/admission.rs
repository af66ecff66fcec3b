//! Places in the queue: how much work the node has taken on, and what a newcomer would wait for.
//!
//! A request holds a [`Place`] from before its body is read until it is over, however it ends:
//! dropping the place takes all that it stood for out of the accounts. So no error path can leave
//! them wrong, and everybody reads the same numbers: sizing, load score, Retry-After and the
//! estimated wait.
//!
//! What comes before a request follows the order of [`crate::waiting`]. Before one that is a single
//! chunk come its client's earlier ones, as many and one more of every other client, and of long
//! files what lanes have in hand. Before a long file come all that are a single chunk, a chunk of
//! every other client's long file, and its own client's earlier ones whole.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::chunk_length::target_length;
use crate::job::{Client, Priority};
use crate::status::NodeStatus;
use crate::waiting::{Terms, is_long};

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

/// An amount of audio, in pieces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Milliseconds of audio.
    pub audio_millis: u64,
    /// Chunks that it comes in.
    pub chunks: u64,
}

impl Load {
    /// Audio of a known length that is not cut yet, into chunks of this length.
    fn uncut(seconds: f64, chunk: Duration) -> Self {
        let seconds = seconds.max(0.0);
        Self {
            audio_millis: (seconds * 1000.0) as u64,
            chunks: (seconds / chunk.as_secs_f64()).ceil() as u64,
        }
    }

    /// Seconds of audio.
    pub fn audio_seconds(self) -> f64 {
        self.audio_millis as f64 / 1000.0
    }

    /// One of its chunks.
    fn first_chunk(self) -> Self {
        Self {
            audio_millis: self.audio_millis / self.chunks.max(1),
            chunks: self.chunks.min(1),
        }
    }

    fn plus(self, other: Self) -> Self {
        Self {
            audio_millis: self.audio_millis + other.audio_millis,
            chunks: self.chunks + other.chunks,
        }
    }
}

/// A request that asks for a place.
#[derive(Clone, Debug)]
pub struct Newcomer {
    /// Whose it is.
    pub client: Client,
    /// How urgent that client's work is.
    pub priority: Priority,
    /// Bytes of its body, where it says so.
    pub body_bytes: Option<u64>,
}

impl Newcomer {
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
pub struct Places {
    entries: Mutex<BTreeMap<PlaceId, Entry>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct PlaceId(u64);

impl Places {
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
    fn ahead_of(&self, id: PlaceId) -> Ahead {
        let entries = self.lock();
        let mut ahead = Ahead::default();
        let Some(own) = entries.get(&id) else {
            return ahead;
        };
        // Those without work wait for that of others, or are about to end.
        let works = |other: &Entry| other.remaining != Load::default();
        let is_earlier_own = |other_id: PlaceId, other: &Entry| {
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

    fn lock(&self) -> MutexGuard<'_, BTreeMap<PlaceId, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What comes before a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ahead {
    /// Work that is done before it.
    pub load: Load,
    /// Requests that this is of.
    pub requests: usize,
    /// Open chunks of long files, of which lanes finish those that they have begun.
    pub long_in_hand: usize,
}

impl Ahead {
    fn add(&mut self, load: Load) {
        self.load = self.load.plus(load);
        self.requests += 1;
    }
}

/// How long a newcomer waits, as it looks at its admission.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Outlook {
    /// Requests that wait for a lane before it.
    pub position: usize,
    /// Until a lane takes its first chunk.
    pub wait: Duration,
}

/// One request's place. Dropping it gives it back.
#[derive(Debug)]
pub struct Place {
    status: Arc<NodeStatus>,
    id: PlaceId,
    client: Client,
    priority: Priority,
}

impl Place {
    /// Takes a place for a request whose length is not known yet.
    pub(crate) fn take(status: &Arc<NodeStatus>, newcomer: Newcomer) -> Self {
        // One chunk, as long as those of other requests were: anything more would let one long file
        // speak for every command after it.
        let expected = Load {
            audio_millis: (status.typical_request_seconds() * 1000.0) as u64,
            chunks: 1,
        };
        let entry = Entry {
            client: newcomer.client.clone(),
            long: newcomer.is_surely_long(),
            open: Load::default(),
            remaining: expected,
        };
        let mut entries = status.places().lock();
        // Places are taken in the order of their numbers.
        let id = entries.last_key_value().map_or(0, |(last, _)| last.0 + 1);
        let id = PlaceId(id);
        entries.insert(id, entry);
        drop(entries);
        status.review_routing();
        Self {
            status: Arc::clone(status),
            id,
            client: newcomer.client,
            priority: newcomer.priority,
        }
    }

    /// What comes before this request.
    pub(crate) fn ahead(&self) -> Ahead {
        self.status.places().ahead_of(self.id)
    }

    /// What the order of this request's chunks depends on.
    pub(crate) fn terms(&self, total_seconds: f64, remaining_seconds: f64) -> Terms {
        Terms {
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
        if let Some(entry) = self.status.places().lock().get_mut(&self.id) {
            entry.long = is_long(left.total_seconds);
            entry.open = open;
            entry.remaining = open.plus(Load::uncut(left.undecoded_seconds, chunk));
        }
        self.status.review_routing();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.status.places().lock().remove(&self.id);
        self.status.review_routing();
    }
}

/// What is left of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Left {
    /// Chunks in the queue or in a lane.
    pub(crate) open: usize,
    /// Their audio.
    pub(crate) open_seconds: f64,
    /// Audio that is not cut yet.
    pub(crate) undecoded_seconds: f64,
    /// All of its audio, as far as it is known.
    pub(crate) total_seconds: f64,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn node() -> Arc<NodeStatus> {
        Arc::new(NodeStatus::default())
    }

    fn newcomer(client: &str) -> Newcomer {
        Newcomer::of(Client::new(client))
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
        let mut long = Place::take(&node, newcomer("a"));
        long.update(left(1, 25.0, 1775.0));
        assert!((node.places().remaining().audio_seconds() - 1800.0).abs() < 1e-6);
        assert_eq!(node.places().remaining().chunks, 1 + 64);
        let command = Place::take(&node, newcomer("a"));
        let expected = Ahead {
            long_in_hand: 1,
            ..Ahead::default()
        };
        assert_eq!(command.ahead(), expected);
        long.update(left(0, 0.0, 0.0));
        drop(command);
        assert_eq!(node.places().remaining(), Load::default());
        assert_eq!(node.places().held(), 1);
    }

    #[test]
    fn before_a_long_file_come_its_clients_earlier_ones_whole_and_a_chunk_of_others() {
        let node = node();
        let take = |client, seconds: f64| {
            let mut place = Place::take(&node, newcomer(client));
            place.update(left(0, 0.0, seconds));
            place
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
            let mut place = Place::take(&node, newcomer(client));
            place.update(left(1, 5.0, 0.0));
            place
        };
        let greedy: Vec<Place> = (0..50).map(|_| take("greedy")).collect();
        let modest = [take("modest"), take("modest")];
        assert_eq!(modest[0].ahead().requests, 1);
        // Its first one, and two of the other client.
        assert_eq!(modest[1].ahead().requests, 3);
        assert_eq!(greedy[49].ahead().requests, 49 + 2);
    }

    #[test]
    fn a_large_body_is_taken_for_a_long_file_before_it_is_read() {
        let node = node();
        let mut own = Place::take(&node, newcomer("a"));
        own.update(left(0, 0.0, 5000.0));
        let large = Newcomer {
            body_bytes: Some(500_000_000),
            ..newcomer("a")
        };
        let place = Place::take(&node, large);
        assert!((place.ahead().load.audio_seconds() - 5000.0).abs() < 1e-6);
    }

    proptest! {
        #[test]
        fn when_every_place_is_given_back_nothing_is_left(
            updates in prop::collection::vec((0_usize..6, 0_usize..4, 0.0_f64..100.0, 0.0_f64..5000.0), 0..60),
        ) {
            let node = node();
            let take = |which: usize| Some(Place::take(&node, newcomer(&which.to_string())));
            let mut places: Vec<Option<Place>> = (0..6).map(take).collect();
            for (which, open, open_seconds, undecoded) in updates {
                if undecoded < 100.0 {
                    places[which] = None;
                } else if let Some(place) = &mut places[which] {
                    place.update(left(open, open_seconds, undecoded));
                }
            }
            prop_assert_eq!(node.places().held(), places.iter().flatten().count());
            drop(places);
            prop_assert_eq!(node.places().held(), 0);
            prop_assert_eq!(node.places().remaining(), Load::default());
        }
    }
}
