//! A Transcription's audio: what becomes of what the decoder brings, and what it means for the
//! accounts.

use ractor::ActorRef;

use super::{OpenChunk, Outcome, TranscriptionMessage, TranscriptionState};
use crate::domain::chunk::{AudioChunk, samples_to_seconds};
use crate::domain::error::SttError;
use crate::domain::job::is_long;
use crate::request::decoding::{ChunkPermit, DecodedAudio, Position};
use crate::status::admission::reject_long_wait;
use crate::status::chunk_length::target_length;
use crate::status::load::Left;

impl TranscriptionState {
    pub(super) fn chunk_decoded(
        &mut self,
        myself: &ActorRef<TranscriptionMessage>,
        audio: AudioChunk,
        permit: ChunkPermit,
        position: Position,
    ) -> Outcome {
        let chunk = OpenChunk {
            covers: self.advance(position),
            audio,
            permit: Some(permit),
        };
        if let Err(refusal) = self.weigh_length(chunk.audio.duration_seconds()) {
            return self.fail(refusal);
        }
        // Also of one that is done already: it may be the one to decide the language.
        let may_go = self.hold.may_go(chunk.audio.index);
        if let Some(done) = self.before.take(&chunk.audio) {
            return self.chunk_done(myself, chunk, done);
        }
        if may_go {
            self.enqueue(myself, chunk);
        } else {
            self.held_back.push_back(chunk);
        }
        Outcome::GoesOn
    }

    pub(super) fn silence_passed(&mut self, position: Position) -> Outcome {
        self.progress.seconds_done += self.advance(position);
        self.tell_progress();
        Outcome::GoesOn
    }

    /// Takes in how far decoding is. Gives the seconds that were settled since.
    fn advance(&mut self, position: Position) -> f64 {
        self.progress.seconds_known = position.known;
        self.timings.decode = position.decode_seconds;
        let settled = position.settled.max(self.settled);
        settled - std::mem::replace(&mut self.settled, settled)
    }

    /// Before the body was read, the request was taken for a short one. If it turns out to be long
    /// before any work is done for it, it is asked again whether there is time for it.
    fn weigh_length(&mut self, first_chunk: f64) -> Result<(), SttError> {
        let first_look = !std::mem::replace(&mut self.length_was_weighed, true);
        let known = self.progress.seconds_known;
        let Some(slot) = self.slot.as_mut().filter(|_| first_look && is_long(known)) else {
            return Ok(());
        };
        slot.update(
            Left {
                open: 1,
                open_seconds: first_chunk,
                undecoded_seconds: known - self.settled,
                total_seconds: known,
            },
            target_length(self.status.cost()),
        );
        let snapshot = self.status.snapshot();
        let estimate = snapshot.wait_estimate(slot.ahead());
        reject_long_wait(&snapshot, estimate, self.status.max_queue())
    }

    pub(super) fn all_decoded(
        &mut self,
        myself: &ActorRef<TranscriptionMessage>,
        audio: DecodedAudio,
    ) -> Outcome {
        let total = samples_to_seconds(audio.samples);
        self.progress.seconds_done += self.advance(Position {
            known: total,
            settled: total,
            decode_seconds: audio.decode_seconds,
        });
        self.decoded = Some(audio);
        self.end_if_done(myself)
    }

    /// Tells the accounts what is left to do.
    pub(super) fn account(&mut self) {
        // Before anything was decoded, the length is what it was taken for at admission.
        let length_is_known = self.decoded.is_some() || self.settled > 0.0;
        let Some(slot) = self.slot.as_mut().filter(|_| length_is_known) else {
            return;
        };
        let open = self.outstanding.values().chain(&self.held_back);
        let open_seconds = open.map(|chunk| chunk.audio.duration_seconds()).sum();
        let known = self.progress.seconds_known;
        slot.update(
            Left {
                open: self.outstanding.len() + self.held_back.len(),
                open_seconds,
                undecoded_seconds: known - self.settled,
                total_seconds: known,
            },
            target_length(self.status.cost()),
        );
    }
}
