//! Spans of chunks: one while a chunk waits, then one while a lane has it.

use std::collections::HashMap;

use tracing::{Span, info_span};

use crate::domain::ids::{ChunkKey, JobId, LaneId};
use crate::domain::trace::{SPANS, TRACED_CHUNKS};

/// The spans of the chunks in the queue and on lanes. Removing one ends it.
#[derive(Debug, Default)]
pub struct ChunkSpans(HashMap<ChunkKey, Span>);

impl ChunkSpans {
    /// A chunk waits. `request`: the span of its request.
    pub fn wait(&mut self, key: ChunkKey, request: &Span) {
        if request.is_disabled() || key.index.number() >= TRACED_CHUNKS {
            return;
        }
        let span = info_span!(target: SPANS, parent: request, "queue wait", chunk = %key.index);
        self.0.insert(key, span);
    }

    /// A lane takes a chunk.
    pub fn run(&mut self, key: ChunkKey, request: &Span, lane: LaneId, seconds: f64) {
        if self.0.remove(&key).is_some() {
            let span = info_span!(target: SPANS, parent: request, "lane", chunk = %key.index,
                lane = lane.0, audio_seconds = seconds);
            self.0.insert(key, span);
        }
    }

    /// A chunk is neither waiting nor on a lane any more.
    pub fn end(&mut self, key: ChunkKey) {
        self.0.remove(&key);
    }

    /// A request is cancelled.
    pub fn end_job(&mut self, job: JobId) {
        self.0.retain(|key, _| key.job != job);
    }
}
