//! What a Transcription does while it has no client.
//!
//! A client that gives up often sends the same request again. If it does so after less time than a chunk takes, and
//! its chunks were aborted each time, it would never get its text. So a chunk that a lane works on when the last
//! client leaves continues, unless other work waits for the lane: the Dispatcher decides that. No other chunk is sent
//! to a lane meanwhile. If a client returns before the chunk ends, the request goes on; otherwise its texts are kept for a
//! later one ([`resume`](crate::request::resume)).

use tracing::{debug, info};

use super::steps::Myself;
use super::{Outcome, TranscriptionState};
use crate::domain::error::SttError;
use crate::domain::ids::ChunkIndex;
use crate::domain::transcript::ChunkDone;
use crate::queue::messages::DispatcherMessage;

/// Whether the request has no client, and the results that came meanwhile.
#[derive(Debug, Default)]
pub(super) struct Absence {
    is_on: bool,
    results: Vec<(ChunkIndex, Result<ChunkDone, SttError>)>,
}

impl Absence {
    /// Whether the request has no client.
    pub(super) fn is_on(&self) -> bool {
        self.is_on
    }

    /// Keeps a result until a client returns.
    pub(super) fn keep(&mut self, index: ChunkIndex, outcome: Result<ChunkDone, SttError>) {
        self.results.push((index, outcome));
    }
}

impl TranscriptionState {
    /// Ends the request, lets it rest or continues it, depending on whether it has a client.
    pub(super) fn follow_subscribers(&mut self, myself: &Myself) -> Outcome {
        let has_client = self.subscribers.has_any();
        if has_client && self.absence.is_on {
            return self.client_returned(myself);
        }
        if has_client {
            return Outcome::GoesOn;
        }
        if !self.has_work_to_finish() {
            // A client may have joined just now.
            return if self.is_abandoned() {
                Outcome::Ended
            } else {
                Outcome::GoesOn
            };
        }
        if !std::mem::replace(&mut self.absence.is_on, true) {
            info!(request_id = %self.job.request_id, "the last client left: chunks in work are finished if nothing else waits");
            let _ = (self.dispatcher).cast(DispatcherMessage::Unattended(self.id));
        }
        Outcome::GoesOn
    }

    /// Whether chunks are at the Dispatcher whose texts a later request can use.
    fn has_work_to_finish(&self) -> bool {
        let awaited = self.intake.outstanding() > self.absence.results.len();
        awaited && self.resume.is_kept() && !self.status.is_draining()
    }

    fn client_returned(&mut self, myself: &Myself) -> Outcome {
        debug!(request_id = %self.job.request_id, "a client is back");
        self.absence.is_on = false;
        let _ = (self.dispatcher).cast(DispatcherMessage::Attended(self.id));
        for chunk in self.intake.take_withheld() {
            self.enqueue(myself, chunk);
        }
        for (index, outcome) in std::mem::take(&mut self.absence.results) {
            if self.chunk_ended(myself, index, outcome) == Outcome::Ended {
                return Outcome::Ended;
            }
        }
        Outcome::GoesOn
    }

    /// Records the texts that came without a client, for a later request.
    pub(super) fn record_results(&mut self) {
        for (index, outcome) in std::mem::take(&mut self.absence.results) {
            if let Some(chunk) = self.intake.end(index)
                && let Ok(done) = outcome
            {
                self.resume.record_done(&chunk.audio, &done);
            }
        }
    }

    /// Keeps a chunk that no lane works on any more until a client is there.
    pub(super) fn chunk_withdrawn(&mut self, myself: &Myself, index: ChunkIndex) {
        if let Some(chunk) = self.intake.end(index) {
            self.enqueue(myself, chunk);
        }
    }
}
