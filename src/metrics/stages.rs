//! The stages of requests with audio: upload, decoding, and waiting for a lane.

use std::time::Duration;

use metrics::{describe_histogram, histogram};
use stt_actors::domain::transcript::Timings;

/// A stage whose duration is recorded for each request.
#[derive(Clone, Copy, Debug)]
enum Stage {
    Upload,
    Decode,
    QueueWait,
}

impl Stage {
    const ALL: [Self; 3] = [Self::Upload, Self::Decode, Self::QueueWait];

    const fn series(self) -> &'static str {
        match self {
            Self::Upload => "uttera_stt_upload_seconds",
            Self::Decode => "uttera_stt_decode_seconds",
            Self::QueueWait => "uttera_stt_queue_wait_seconds",
        }
    }

    const fn help(self) -> &'static str {
        match self {
            Self::Upload => {
                "Time from the head of an audio request to the last byte of its body, in seconds."
            }
            Self::Decode => {
                "Time that a transcribed request waited for its audio to be decoded, in seconds."
            }
            Self::QueueWait => {
                "Time that the first chunk of a transcribed request waited for a lane, in seconds."
            }
        }
    }
}

/// Names of the histograms.
pub(super) fn histograms() -> impl Iterator<Item = &'static str> {
    Stage::ALL.into_iter().map(Stage::series)
}

/// Records that the whole body of a request has arrived.
pub fn record_upload(took: Duration) {
    histogram!(Stage::Upload.series()).record(took.as_secs_f64());
}

/// Records the stages of a request that was transcribed.
pub(super) fn record(timings: &Timings) {
    histogram!(Stage::Decode.series()).record(timings.decode);
    histogram!(Stage::QueueWait.series()).record(timings.queue_wait);
}

pub(super) fn describe() {
    for stage in Stage::ALL {
        describe_histogram!(stage.series(), stage.help());
    }
}

/// Creates every series.
pub(super) fn register() {
    for stage in Stage::ALL {
        let _ = histogram!(stage.series());
    }
}
