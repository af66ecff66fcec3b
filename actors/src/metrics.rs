//! Metrics of single events inside the tree. The server exports everything else from
//! [`Snapshot`](crate::Snapshot).

use std::time::Duration;

use crate::domain::ids::{LaneKind, WorkerRole};
use crate::domain::transcript::{ChunkTranscript, Reason};

/// Histogram of the seconds that an engine worked on one chunk, without waiting. Label `op`.
pub const INFERENCE_DURATION_SECONDS: &str = "uttera_stt_inference_duration_seconds";

/// All values of its label `op`: the two kinds of lane, and the translator.
pub const INFERENCE_OPS: [&str; 3] = [
    "whisper_transcribe_hot",
    "whisper_transcribe_cold",
    "libretranslate",
];

/// Counts removals of hallucinated text. Label `reason`.
pub const HALLUCINATIONS_TOTAL: &str = "uttera_stt_hallucinations_total";

/// Counts encoder passes, including those that detect a language.
pub const ENCODER_PASSES_TOTAL: &str = "uttera_stt_encoder_passes_total";

/// Counts chunks that were decoded again with the model's whole window, because the result of the shorter window
/// looked wrong. Label `reason`.
pub const REDECODED_TOTAL: &str = "uttera_stt_redecoded_chunks_total";

/// Counts requests that reused the work of an identical request. Label `from`.
pub const JOINED_REQUESTS_TOTAL: &str = "uttera_stt_joined_requests_total";

/// Counts chunks that left the queue, and their retries. Label `outcome`.
pub const CHUNKS_TOTAL: &str = "uttera_stt_chunks_total";

/// Counts starts of workers. Label `role`.
pub const WORKER_STARTS_TOTAL: &str = "uttera_stt_worker_starts_total";

/// Counts workers that did not start, or that ended without being asked to. Label `role`.
pub const WORKER_CRASHES_TOTAL: &str = "uttera_stt_worker_crashes_total";

/// What became of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChunkOutcome {
    /// A lane transcribed it.
    Done,
    /// A lane failed on it, and it waits for another try.
    Retried,
    /// It was given up; its request gets an error or continues without it.
    Discarded,
    /// Its request was cancelled, or has no client at the moment.
    Cancelled,
}

impl ChunkOutcome {
    /// All values.
    pub const ALL: [Self; 4] = [Self::Done, Self::Retried, Self::Discarded, Self::Cancelled];

    /// The value of the label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Retried => "retried",
            Self::Discarded => "discarded",
            Self::Cancelled => "cancelled",
        }
    }
}

/// The work that a request reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoinedFrom {
    /// A transcription that was still running.
    Running,
    /// The finished part of a request whose client had left.
    Abandoned,
    /// A cached result.
    Cache,
}

impl JoinedFrom {
    /// All values.
    pub const ALL: [Self; 3] = [Self::Running, Self::Abandoned, Self::Cache];

    /// The value of the label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Abandoned => "abandoned",
            Self::Cache => "cache",
        }
    }
}

/// The value of the label `op` for this kind of lane.
pub fn inference_op(lane: LaneKind) -> &'static str {
    match lane {
        LaneKind::Hot => INFERENCE_OPS[0],
        LaneKind::Cold => INFERENCE_OPS[1],
    }
}

/// Records a transcribed chunk.
pub(crate) fn record_inference(lane: LaneKind, transcript: &ChunkTranscript) {
    metrics::histogram!(INFERENCE_DURATION_SECONDS, "op" => inference_op(lane))
        .record(transcript.inference_seconds);
    metrics::counter!(ENCODER_PASSES_TOTAL).increment(u64::from(transcript.encoder_passes));
    if let Some(doubt) = transcript.doubt {
        metrics::counter!(REDECODED_TOTAL, "reason" => doubt.as_str()).increment(1);
    }
}

/// Records a translated transcript.
pub(crate) fn record_translation(took: Duration) {
    let [_, _, op] = INFERENCE_OPS;
    metrics::histogram!(INFERENCE_DURATION_SECONDS, "op" => op).record(took.as_secs_f64());
}

/// Records a request that reused earlier work.
pub(crate) fn record_joined(from: JoinedFrom) {
    metrics::counter!(JOINED_REQUESTS_TOTAL, "from" => from.as_str()).increment(1);
}

/// Records a removal of hallucinated text.
pub(crate) fn record_hallucination(reason: Reason) {
    metrics::counter!(HALLUCINATIONS_TOTAL, "reason" => reason.as_str()).increment(1);
}

/// Records what became of some chunks.
pub(crate) fn record_chunks(outcome: ChunkOutcome, count: usize) {
    metrics::counter!(CHUNKS_TOTAL, "outcome" => outcome.as_str()).increment(count as u64);
}

/// Records that a worker is started.
pub(crate) fn record_worker_start(role: WorkerRole) {
    metrics::counter!(WORKER_STARTS_TOTAL, "role" => role.as_str()).increment(1);
}

/// Records that a worker did not start, or ended without being asked to.
pub(crate) fn record_worker_crash(role: WorkerRole) {
    metrics::counter!(WORKER_CRASHES_TOTAL, "role" => role.as_str()).increment(1);
}
