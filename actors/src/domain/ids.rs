//! Identifiers of requests, chunks, lanes, leases and workers.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

/// Identifies a request inside this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobId(u64);

impl JobId {
    /// A number that is unique in this process.
    pub fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "job-{}", self.0)
    }
}

/// Identifies a lane, for as long as its engine lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LaneId(pub u64);

impl LaneId {
    /// A number that is unique in this process; later lanes have larger ones.
    pub fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// The kind of a lane. The order is the order of preference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum LaneKind {
    /// Always running.
    Hot,
    /// Started when work piles up.
    Cold,
}

impl LaneKind {
    /// The kind in reports and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hot => "hot",
            Self::Cold => "cold",
        }
    }
}

/// What a worker is for, as metrics name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum WorkerRole {
    /// The worker of the hot lane.
    Hot,
    /// A worker of a cold lane.
    Cold,
    /// A worker of the second model for doubtful texts.
    Fallback,
}

impl WorkerRole {
    /// All values.
    pub const ALL: [Self; 3] = [Self::Hot, Self::Cold, Self::Fallback];

    /// The value of the label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hot => "hot",
            Self::Cold => "cold",
            Self::Fallback => "fallback",
        }
    }
}

/// Identifies a lease: one assignment of a chunk to a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LeaseId(pub(crate) u64);

/// The number of a chunk within its request. Parts sort before whole chunks, because the client already
/// waits for the chunk that they belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ChunkIndex {
    /// A part of a chunk that is transcribed again. Parts are numbered separately, from 0.
    Part(usize),
    /// A chunk of the request, numbered from 0 without gaps.
    Whole(usize),
}

impl ChunkIndex {
    /// The number, without its kind.
    pub fn number(self) -> usize {
        match self {
            Self::Part(number) | Self::Whole(number) => number,
        }
    }

    /// Whether this is a part.
    pub fn is_part(self) -> bool {
        matches!(self, Self::Part(_))
    }
}

impl fmt::Display for ChunkIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Part(number) => write!(f, "part-{number}"),
            Self::Whole(number) => number.fmt(f),
        }
    }
}

/// Identifies a chunk in the queue: its request and its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChunkKey {
    /// The request.
    pub job: JobId,
    /// [`crate::domain::chunk::AudioChunk::index`].
    pub index: ChunkIndex,
}

/// Names one engine incarnation in logs and health: `hot-1`, `hot-2`, `cold-7`, `fallback-1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerId {
    kind: LaneKind,
    role: WorkerRole,
    name: Arc<str>,
}

impl WorkerId {
    /// The `generation`-th engine of this kind of lane.
    pub fn new(kind: LaneKind, generation: u64) -> Self {
        let role = match kind {
            LaneKind::Hot => WorkerRole::Hot,
            LaneKind::Cold => WorkerRole::Cold,
        };
        Self::named(kind, role, generation)
    }

    /// The `generation`-th engine of the fallback model.
    pub fn of_fallback(generation: u64) -> Self {
        Self::named(LaneKind::Cold, WorkerRole::Fallback, generation)
    }

    fn named(kind: LaneKind, role: WorkerRole, generation: u64) -> Self {
        Self {
            kind,
            role,
            name: format!("{}-{generation}", role.as_str()).into(),
        }
    }

    /// The id of another engine of the same kind.
    #[must_use]
    pub fn numbered(&self, generation: u64) -> Self {
        Self::named(self.kind, self.role, generation)
    }

    /// What the engine is for.
    pub fn role(&self) -> WorkerRole {
        self.role
    }

    /// The kind of lane that the engine belongs to.
    pub fn kind(&self) -> LaneKind {
        self.kind
    }

    /// The name, as in logs.
    pub fn name(&self) -> Arc<str> {
        Arc::clone(&self.name)
    }

    /// The name, as in logs.
    pub fn as_str(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}
