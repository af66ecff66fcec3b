//! Amounts of work: the remaining work of requests, the work ahead of a request, and its estimated wait.

use std::time::Duration;

/// An amount of audio, and the number of chunks that it consists of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Milliseconds of audio.
    pub audio_millis: u64,
    /// Number of chunks.
    pub chunks: u64,
}

impl Load {
    /// Audio that is not cut yet, counted in chunks of this length.
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

    /// The load of one chunk of average length; none if there is no load.
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

/// The remaining work of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Left {
    /// Chunks in the queue or in a lane.
    pub(crate) open: usize,
    /// Seconds of audio in these chunks.
    pub(crate) open_seconds: f64,
    /// Seconds of audio that is not cut yet.
    pub(crate) undecoded_seconds: f64,
    /// Seconds of all audio of the request, as far as it is known.
    pub(crate) total_seconds: f64,
}

/// The work ahead of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ahead {
    /// Work that is done before the request.
    pub load: Load,
    /// Number of requests that this work belongs to.
    pub requests: usize,
    /// Open chunks of long files: lanes finish those that they have begun, and no others, before it.
    pub long_in_hand: usize,
}

impl Ahead {
    pub(crate) fn add(&mut self, load: Load) {
        self.load = self.load.plus(load);
        self.requests += 1;
    }
}

/// The estimated wait of a request at its admission.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct WaitEstimate {
    /// Number of waiting requests ahead of it.
    pub position: usize,
    /// Time until a lane takes its first chunk.
    pub wait: Duration,
}
