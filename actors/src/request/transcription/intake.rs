//! The audio of a request: the state of decoding, and the chunks that are decoded and not transcribed yet.

use std::collections::{BTreeMap, VecDeque};

use crate::domain::chunk::{AudioChunk, samples_to_seconds};
use crate::domain::ids::ChunkIndex;
use crate::domain::job::is_long;
use crate::request::decoding::{ChunkPermit, DecodedAudio, Position};
use crate::status::load::Left;

/// A decoded chunk until its text is final, or a part of one that is transcribed again.
pub(super) struct OpenChunk {
    pub(super) audio: AudioChunk,
    /// The language of the speech before, in case that the chunk's own detection is uncertain.
    pub(super) likely_language: Option<String>,
    /// Seconds of the time line that are done with it: its own and the silence before it.
    pub(super) covers: f64,
    /// The chunk's share of the memory budgets. A part uses the share of its chunk.
    pub(super) permit: Option<ChunkPermit>,
}

/// The audio of one request.
#[derive(Default)]
pub(super) struct Intake {
    decoded: Option<DecodedAudio>,
    position: Position,
    length_was_checked: bool,
    /// Chunks at the Dispatcher.
    outstanding: BTreeMap<ChunkIndex, OpenChunk>,
    /// Chunks that wait until the language is known.
    held_back: VecDeque<OpenChunk>,
    /// Chunks that wait until a client is there.
    withheld: Vec<OpenChunk>,
}

impl Intake {
    /// Records the state of decoding. Returns the seconds that became final since the last report.
    pub(super) fn advance(&mut self, position: Position) -> f64 {
        let settled = position.settled.max(self.position.settled);
        let newly_settled = settled - self.position.settled;
        self.position = Position {
            settled,
            ..position
        };
        newly_settled
    }

    /// Records the end of decoding. Returns the newly settled seconds, as [`advance`](Self::advance) does.
    pub(super) fn finish(&mut self, audio: DecodedAudio) -> f64 {
        let total = samples_to_seconds(audio.samples);
        let newly_settled = self.advance(Position {
            known: total,
            settled: total,
            decode_seconds: audio.decode_seconds,
        });
        self.decoded = Some(audio);
        newly_settled
    }

    /// The remaining work of a long request when its first chunk is decoded, for a second estimate of the wait:
    /// admission assumed a short request, because the body was not read yet. `None` for a short request and for
    /// all later chunks.
    pub(super) fn work_of_a_long_request(&mut self, first_chunk_seconds: f64) -> Option<Left> {
        let is_first = !std::mem::replace(&mut self.length_was_checked, true);
        let known = self.position.known;
        (is_first && is_long(known)).then_some(Left {
            open: 1,
            open_seconds: first_chunk_seconds,
            undecoded_seconds: known - self.position.settled,
            total_seconds: known,
        })
    }

    /// The remaining work; `None` until something is decoded. Until then admission's assumption counts.
    pub(super) fn remaining_work(&self) -> Option<Left> {
        let Position { known, settled, .. } = self.position;
        if self.decoded.is_none() && settled <= 0.0 {
            return None;
        }
        let open = self.outstanding.values().chain(&self.held_back);
        let open = open.chain(&self.withheld);
        Some(Left {
            open: open.clone().count(),
            open_seconds: open.map(|chunk| chunk.audio.duration_seconds()).sum(),
            undecoded_seconds: known - settled,
            total_seconds: known,
        })
    }

    /// Records that a chunk goes to the Dispatcher.
    pub(super) fn start(&mut self, chunk: OpenChunk) {
        self.outstanding.insert(chunk.audio.index, chunk);
    }

    /// Keeps a chunk until [`release`](Self::release).
    pub(super) fn hold_back(&mut self, chunk: OpenChunk) {
        self.held_back.push_back(chunk);
    }

    /// Takes the chunks that were held back, in order, up to the first one that must still wait.
    pub(super) fn release(&mut self, mut may_go: impl FnMut(ChunkIndex) -> bool) -> Vec<OpenChunk> {
        let mut released = Vec::new();
        while let Some(chunk) = self.held_back.pop_front() {
            if may_go(chunk.audio.index) {
                released.push(chunk);
            } else {
                self.held_back.push_front(chunk);
                break;
            }
        }
        released
    }

    /// Keeps a chunk until [`take_withheld`](Self::take_withheld).
    pub(super) fn withhold(&mut self, chunk: OpenChunk) {
        self.withheld.push(chunk);
    }

    /// Takes the chunks that were withheld, in order.
    pub(super) fn take_withheld(&mut self) -> Vec<OpenChunk> {
        self.withheld.sort_by_key(|chunk| chunk.audio.index);
        std::mem::take(&mut self.withheld)
    }

    /// Number of chunks at the Dispatcher.
    pub(super) fn outstanding(&self) -> usize {
        self.outstanding.len()
    }

    /// Takes a chunk whose result is here; `None` if it is not awaited.
    pub(super) fn end(&mut self, index: ChunkIndex) -> Option<OpenChunk> {
        self.outstanding.remove(&index)
    }

    /// Takes all chunks that are at the Dispatcher.
    pub(super) fn take_outstanding(&mut self) -> Vec<OpenChunk> {
        std::mem::take(&mut self.outstanding)
            .into_values()
            .collect()
    }

    /// The length of the audio in seconds, when all of it is decoded and every chunk has a result.
    pub(super) fn finished_seconds(&self) -> Option<f64> {
        let all_ended =
            self.outstanding.is_empty() && self.held_back.is_empty() && self.withheld.is_empty();
        let decoded = self.decoded.as_ref().filter(|_| all_ended);
        decoded.map(|audio| samples_to_seconds(audio.samples))
    }

    /// Known seconds of audio.
    pub(super) fn seconds_known(&self) -> f64 {
        self.position.known
    }

    /// Seconds spent waiting for the decoder.
    pub(super) fn decode_seconds(&self) -> f64 {
        self.position.decode_seconds
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::domain::chunk::SAMPLE_RATE;

    /// A chunk of this length, which covers as much of the time line.
    pub(in crate::request::transcription) fn chunk(number: usize, seconds: u32) -> OpenChunk {
        let samples = (seconds * SAMPLE_RATE) as usize;
        let start = (number * samples) as u64;
        OpenChunk {
            audio: AudioChunk::contiguous(number, start, Arc::from(vec![0; samples])),
            likely_language: None,
            covers: f64::from(seconds),
            permit: None,
        }
    }

    fn position(known: f64, settled: f64) -> Position {
        Position {
            known,
            settled,
            decode_seconds: 0.0,
        }
    }

    fn decoded(seconds: u32) -> DecodedAudio {
        DecodedAudio {
            samples: u64::from(seconds * SAMPLE_RATE),
            decode_seconds: 1.5,
        }
    }

    #[test]
    fn settled_seconds_count_once_and_never_go_back() {
        let mut intake = Intake::default();
        let settled = [20.0, 15.0, 50.0].map(|settled| intake.advance(position(100.0, settled)));
        // The container claimed 100 s; the audio has 60 s.
        let last = intake.finish(decoded(60));
        assert_eq!((settled, last), ([20.0, 0.0, 30.0], 10.0));
        assert_eq!(
            (intake.seconds_known(), intake.decode_seconds()),
            (60.0, 1.5)
        );
    }

    #[test]
    fn only_the_first_chunk_of_a_long_file_asks_for_a_second_estimate() {
        let mut intake = Intake::default();
        intake.advance(position(3600.0, 30.0));
        let left = intake.work_of_a_long_request(25.0).expect("it is long");
        assert_eq!((left.open, left.open_seconds), (1, 25.0));
        assert_eq!(
            (left.undecoded_seconds, left.total_seconds),
            (3570.0, 3600.0)
        );
        assert_eq!(intake.work_of_a_long_request(25.0), None);
        let mut short = Intake::default();
        short.advance(position(10.0, 10.0));
        assert_eq!(short.work_of_a_long_request(10.0), None);
    }

    #[test]
    fn remaining_work_is_unknown_until_something_is_decoded() {
        let mut intake = Intake::default();
        intake.advance(position(100.0, 0.0));
        assert_eq!(intake.remaining_work(), None);
        intake.advance(position(100.0, 40.0));
        intake.start(chunk(0, 20));
        intake.hold_back(chunk(1, 10));
        let left = intake.remaining_work().expect("known");
        assert_eq!((left.open, left.open_seconds), (2, 30.0));
        assert_eq!((left.undecoded_seconds, left.total_seconds), (60.0, 100.0));
        let mut silent = Intake::default();
        silent.finish(decoded(0));
        assert_eq!(silent.remaining_work(), Some(Left::default()));
    }

    #[test]
    fn held_back_chunks_go_in_order_up_to_the_first_that_must_wait() {
        let mut intake = Intake::default();
        for number in 1..4 {
            intake.hold_back(chunk(number, 10));
        }
        let index = |chunk: &OpenChunk| chunk.audio.index;
        let released = intake.release(|index| index != ChunkIndex::Whole(2));
        let released: Vec<_> = released.iter().map(index).collect();
        assert_eq!(released, [ChunkIndex::Whole(1)]);
        let released: Vec<_> = intake.release(|_| true).iter().map(index).collect();
        assert_eq!(released, [ChunkIndex::Whole(2), ChunkIndex::Whole(3)]);
    }

    #[test]
    fn it_is_finished_when_all_is_decoded_and_every_chunk_has_a_result() {
        let mut intake = Intake::default();
        intake.start(chunk(0, 20));
        intake.hold_back(chunk(1, 20));
        intake.finish(decoded(40));
        assert!(intake.end(ChunkIndex::Whole(0)).is_some());
        assert!(intake.end(ChunkIndex::Whole(0)).is_none(), "ended twice");
        assert_eq!(intake.finished_seconds(), None);
        for chunk in intake.release(|_| true) {
            intake.start(chunk);
        }
        assert_eq!(intake.finished_seconds(), None);
        // A new Dispatcher gets the chunk again.
        for chunk in intake.take_outstanding() {
            intake.start(chunk);
        }
        assert!(intake.end(ChunkIndex::Whole(1)).is_some());
        assert_eq!(intake.finished_seconds(), Some(40.0));
    }
}
