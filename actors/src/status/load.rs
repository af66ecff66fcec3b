//! Amounts of work: what is left of requests, what comes before one, and how long it waits.

use std::time::Duration;

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
    pub(crate) fn uncut(seconds: f64, chunk: Duration) -> Self {
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
    pub(crate) fn first_chunk(self) -> Self {
        Self {
            audio_millis: self.audio_millis / self.chunks.max(1),
            chunks: self.chunks.min(1),
        }
    }

    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            audio_millis: self.audio_millis + other.audio_millis,
            chunks: self.chunks + other.chunks,
        }
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
    pub(crate) fn add(&mut self, load: Load) {
        self.load = self.load.plus(load);
        self.requests += 1;
    }
}

/// How long a newcomer waits, as it looks at its admission.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct WaitEstimate {
    /// Requests that wait for a lane before it.
    pub position: usize,
    /// Until a lane takes its first chunk.
    pub wait: Duration,
}
