//! Places in the queue: how much work the node has taken on, and what a newcomer would wait for.
//!
//! A request holds a [`Place`] from before its body is read until it is over, however it ends:
//! dropping the place takes all that it stood for out of the accounts. So no error path can leave
//! them wrong, and everybody reads the same numbers: sizing, load score, Retry-After and the
//! estimated wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use crate::cost::TYPICAL_CHUNK_SECONDS;
use crate::status::NodeStatus;

/// Chunks of one request that are decoded and not yet done, at most, beyond one for each lane: one
/// that waits, one that is being cut.
const CHUNKS_BEYOND_LANES: usize = 2;

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
    /// Audio of a known length that is not cut yet.
    fn uncut(seconds: f64) -> Self {
        let seconds = seconds.max(0.0);
        Self {
            audio_millis: (seconds * 1000.0) as u64,
            chunks: (seconds / TYPICAL_CHUNK_SECONDS).ceil() as u64,
        }
    }

    /// Seconds of audio.
    pub fn audio_seconds(self) -> f64 {
        self.audio_millis as f64 / 1000.0
    }

    fn plus(self, other: Self) -> Self {
        Self {
            audio_millis: self.audio_millis + other.audio_millis,
            chunks: self.chunks + other.chunks,
        }
    }
}

/// A sum of loads that many places change.
#[derive(Debug, Default)]
struct LoadSum {
    audio_millis: AtomicU64,
    chunks: AtomicU64,
}

impl LoadSum {
    /// Each place takes out only what it has put in: the sums never go below zero.
    fn replace(&self, old: Load, new: Load) {
        for (sum, old, new) in [
            (&self.audio_millis, old.audio_millis, new.audio_millis),
            (&self.chunks, old.chunks, new.chunks),
        ] {
            sum.fetch_add(new.wrapping_sub(old), Ordering::Relaxed);
        }
    }

    fn get(&self) -> Load {
        Load {
            audio_millis: self.audio_millis.load(Ordering::Relaxed),
            chunks: self.chunks.load(Ordering::Relaxed),
        }
    }
}

/// What all places together stand for.
#[derive(Debug, Default)]
pub struct Places {
    held: AtomicUsize,
    remaining: LoadSum,
    ahead: LoadSum,
}

impl Places {
    /// Requests that hold a place.
    pub fn held(&self) -> usize {
        self.held.load(Ordering::SeqCst)
    }

    /// Audio that is still to be worked on, the undecoded rest of long files included.
    pub fn remaining(&self) -> Load {
        self.remaining.get()
    }

    /// The part of it that would be worked on before a request that comes now: of a long file no
    /// more than the few chunks that it has in the queue at a time.
    pub fn ahead(&self) -> Load {
        self.ahead.get()
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
    remaining: Load,
    ahead: Load,
}

impl Place {
    /// Takes a place for a request of unknown length.
    pub(crate) fn take(status: &Arc<NodeStatus>) -> Self {
        status.places().held.fetch_add(1, Ordering::SeqCst);
        let mut place = Self {
            status: Arc::clone(status),
            remaining: Load::default(),
            ahead: Load::default(),
        };
        // One chunk, as long as those of other requests were: anything more would let one long file
        // speak for every command after it.
        let expected = Load {
            audio_millis: (status.typical_request_seconds() * 1000.0) as u64,
            chunks: 1,
        };
        place.set(expected, expected);
        place
    }

    /// What this place itself adds to [`Places::ahead`].
    pub(crate) fn own(&self) -> Load {
        self.ahead
    }

    /// What is left of the request: `open` chunks with so many seconds of audio in the queue or in
    /// a lane, and `undecoded` seconds beyond, as far as it is known.
    pub(crate) fn update(&mut self, open: usize, open_seconds: f64, undecoded_seconds: f64) {
        let open_load = Load {
            audio_millis: (open_seconds.max(0.0) * 1000.0) as u64,
            chunks: open as u64,
        };
        let most = outstanding_chunks(self.status.lanes());
        let room = most.saturating_sub(open) as f64 * TYPICAL_CHUNK_SECONDS;
        self.set(
            open_load.plus(Load::uncut(undecoded_seconds)),
            open_load.plus(Load::uncut(undecoded_seconds.min(room))),
        );
    }

    fn set(&mut self, remaining: Load, ahead: Load) {
        let places = self.status.places();
        places.remaining.replace(self.remaining, remaining);
        places.ahead.replace(self.ahead, ahead);
        (self.remaining, self.ahead) = (remaining, ahead);
        self.status.review_routing();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.set(Load::default(), Load::default());
        self.status.places().held.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn node() -> Arc<NodeStatus> {
        Arc::new(NodeStatus::default())
    }

    #[test]
    fn a_long_file_stands_before_a_newcomer_with_a_few_chunks_only() {
        let node = node();
        let mut place = Place::take(&node);
        place.update(1, 25.0, 1775.0);
        assert!((node.places().remaining().audio_seconds() - 1800.0).abs() < 1e-6);
        assert!((node.places().ahead().audio_seconds() - 75.0).abs() < 1e-6);
        assert_eq!(node.places().ahead().chunks, 3);
        assert_eq!(node.places().remaining().chunks, 72);
        place.update(0, 0.0, 0.0);
        assert_eq!(node.places().remaining(), Load::default());
        assert_eq!(node.places().held(), 1);
    }

    proptest! {
        #[test]
        fn when_every_place_is_given_back_nothing_is_left(
            updates in prop::collection::vec((0_usize..6, 0_usize..4, 0.0_f64..100.0, 0.0_f64..5000.0), 0..60),
        ) {
            let node = node();
            let mut places: Vec<Option<Place>> = (0..6).map(|_| Some(Place::take(&node))).collect();
            for (which, open, open_seconds, undecoded) in updates {
                if undecoded < 100.0 {
                    places[which] = None;
                } else if let Some(place) = &mut places[which] {
                    place.update(open, open_seconds, undecoded);
                }
            }
            prop_assert_eq!(node.places().held(), places.iter().flatten().count());
            drop(places);
            prop_assert_eq!(node.places().held(), 0);
            prop_assert_eq!(node.places().remaining(), Load::default());
            prop_assert_eq!(node.places().ahead(), Load::default());
        }
    }
}
