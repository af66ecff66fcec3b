//! The tree's own metrics: what cannot be read from a snapshot, because every single event counts.
//! Everything else is exported from [`Snapshot`](crate::Snapshot) by the server.

use std::time::Duration;

use crate::domain::ids::LaneKind;
use crate::domain::transcript::{ChunkTranscript, Reason};

/// Histogram of seconds that an engine worked on one chunk, without any waiting. Label `op`.
pub const INFERENCE_DURATION_SECONDS: &str = "uttera_stt_inference_duration_seconds";

/// All values of its label `op`: the two kinds of lane, and the translator.
pub const INFERENCE_OPS: [&str; 3] = [
    "whisper_transcribe_hot",
    "whisper_transcribe_cold",
    "libretranslate",
];

/// Counts text that was taken out because whisper made it up. Label `reason`.
pub const HALLUCINATIONS_TOTAL: &str = "uttera_stt_hallucinations_total";

/// Counts passes of the encoder, those that detect a language included.
pub const ENCODER_PASSES_TOTAL: &str = "uttera_stt_encoder_passes_total";

/// Counts chunks that were decoded again with the model's whole window, since what came of the part
/// that the audio needs looked wrong. Label `reason`.
pub const REDECODED_TOTAL: &str = "uttera_stt_redecoded_chunks_total";

/// Counts requests that had less work than others, since the same one was here before. Label `from`.
pub const JOINED_REQUESTS_TOTAL: &str = "uttera_stt_joined_requests_total";

/// What a request went on from that was here before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoinedFrom {
    /// The same one, which still runs.
    Running,
    /// What was finished of it when its client left.
    Abandoned,
    /// Its result.
    Cache,
}

impl JoinedFrom {
    /// All there are.
    pub const ALL: [Self; 3] = [Self::Running, Self::Abandoned, Self::Cache];

    /// As in the label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Abandoned => "abandoned",
            Self::Cache => "cache",
        }
    }
}

/// The value of the label `op` for a lane's work.
pub fn inference_op(lane: LaneKind) -> &'static str {
    match lane {
        LaneKind::Hot => INFERENCE_OPS[0],
        LaneKind::Cold => INFERENCE_OPS[1],
    }
}

/// A chunk was transcribed.
pub(crate) fn record_inference(lane: LaneKind, transcript: &ChunkTranscript) {
    metrics::histogram!(INFERENCE_DURATION_SECONDS, "op" => inference_op(lane))
        .record(transcript.inference_seconds);
    metrics::counter!(ENCODER_PASSES_TOTAL).increment(u64::from(transcript.encoder_passes));
    if let Some(doubt) = transcript.doubt {
        metrics::counter!(REDECODED_TOTAL, "reason" => doubt.as_str()).increment(1);
    }
}

/// The translator has translated a transcript.
pub(crate) fn record_translation(took: Duration) {
    let [_, _, op] = INFERENCE_OPS;
    metrics::histogram!(INFERENCE_DURATION_SECONDS, "op" => op).record(took.as_secs_f64());
}

/// A request came again.
pub(crate) fn record_joined(from: JoinedFrom) {
    metrics::counter!(JOINED_REQUESTS_TOTAL, "from" => from.as_str()).increment(1);
}

/// Text was taken out.
pub(crate) fn record_hallucination(reason: Reason) {
    metrics::counter!(HALLUCINATIONS_TOTAL, "reason" => reason.as_str()).increment(1);
}
