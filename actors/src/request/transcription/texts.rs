//! A Transcription's texts: what becomes of what the engines write, until it is in its place.

use ractor::ActorRef;
use tracing::{debug, info, warn};

use super::{
    ChunkDone, LANGUAGE_OF_SILENCE, OpenChunk, Outcome, TranscriptionMessage, TranscriptionState,
};
use crate::domain::chunk::AudioChunk;
use crate::domain::error::SttError;
use crate::domain::ids::{ChunkIndex, LaneKind};
use crate::domain::job::Event;
use crate::domain::transcript::{ChunkTranscript, Removed};
use crate::ports::DetectedLanguage;
use crate::request::language::LanguageHold;
use crate::text::hallucination::guard;
use crate::text::missed_speech::{self, Again};
use crate::text::second_pass::SecondPass;
use crate::text::segment_split;

/// Where a text comes from.
#[derive(Clone, Copy)]
struct Origin {
    lane: LaneKind,
    rescued: bool,
    reused: bool,
}

impl Origin {
    fn of(done: &ChunkDone) -> Self {
        Self {
            lane: done.lane,
            rescued: done.rescued,
            reused: done.reused,
        }
    }
}

impl TranscriptionState {
    pub(super) fn language_heard(
        &mut self,
        myself: &ActorRef<TranscriptionMessage>,
        index: ChunkIndex,
        language: DetectedLanguage,
    ) -> Outcome {
        if let Some(decided) = self.hold.heard(index, language) {
            self.announce(decided.code, Some(decided.probability));
            self.release_held_back(myself);
        }
        Outcome::GoesOn
    }

    pub(super) fn release_held_back(&mut self, myself: &ActorRef<TranscriptionMessage>) {
        while let Some(next) = self.held_back.front() {
            if !self.hold.may_go(next.audio.index) {
                break;
            }
            if let Some(chunk) = self.held_back.pop_front() {
                self.enqueue(myself, chunk);
            }
        }
    }

    pub(super) fn chunk_ended(
        &mut self,
        myself: &ActorRef<TranscriptionMessage>,
        index: ChunkIndex,
        outcome: Result<ChunkDone, SttError>,
    ) -> Outcome {
        let Some(chunk) = self.outstanding.remove(&index) else {
            return Outcome::GoesOn;
        };
        match outcome {
            _ if index.is_part() => {
                self.part_ended(myself, &chunk.audio, outcome);
                self.release_held_back(myself);
                self.end_if_done(myself)
            }
            Ok(done) => self.chunk_done(myself, chunk, done),
            Err(error) => self.escalate_failure(myself, chunk, error),
        }
    }

    pub(super) fn chunk_done(
        &mut self,
        myself: &ActorRef<TranscriptionMessage>,
        chunk: OpenChunk,
        done: ChunkDone,
    ) -> Outcome {
        self.note_done(&chunk.audio, &done);
        let origin = Origin::of(&done);
        let mut transcript = done.transcript;
        if !origin.reused && !std::mem::replace(&mut self.wait_is_known, true) {
            let in_tree = self.started.elapsed().as_secs_f64();
            let working = transcript.inference_seconds + self.timings.decode;
            self.timings.queue_wait = (in_tree - working).max(0.0);
        }
        let removed = self.take_in(&chunk.audio, &mut transcript, origin);
        self.announce_route();
        if !self.language_has_to_wait(chunk.audio.index, &transcript) {
            self.learn_language(chunk.audio.index, &transcript);
        }
        let again = missed_speech::find(&chunk.audio, &transcript.segments, &removed);
        let placed = removed
            .into_iter()
            .map(|removed| removed.place(&chunk.audio));
        self.removed.extend(placed);
        if again.is_empty() {
            self.weigh(myself, chunk, transcript);
        } else {
            self.begin_second_pass(myself, chunk, transcript, again);
        }
        self.release_held_back(myself);
        self.end_if_done(myself)
    }

    /// What is done with every text that an engine gives. Gives what was taken out of it, with times
    /// of the chunk.
    fn take_in(
        &mut self,
        audio: &AudioChunk,
        transcript: &mut ChunkTranscript,
        origin: Origin,
    ) -> Vec<Removed> {
        self.route = self.route.with(origin.lane, origin.rescued);
        if !origin.reused {
            self.timings.inference += transcript.inference_seconds;
        }
        let removed = if self.job.options.hallucination_guard {
            guard(transcript, &audio.speech)
        } else {
            Vec::new()
        };
        for removed in &removed {
            let (reason, start) = (removed.reason.as_str(), audio.begins_at(removed.start));
            info!(request_id = %self.job.request_id, reason, start, "text was made up: removed");
            debug!(request_id = %self.job.request_id, text = removed.text, "the removed text");
            if !origin.reused {
                crate::metrics::record_hallucination(removed.reason);
            }
        }
        for segment in &mut transcript.segments {
            // Whisper stretches them over the silence around.
            let tightened = audio.speech.tightened(segment.start, segment.end);
            (segment.start, segment.end) = tightened;
        }
        removed
    }

    /// Has what whisper left out transcribed again, as parts of their own.
    fn begin_second_pass(
        &mut self,
        myself: &ActorRef<TranscriptionMessage>,
        chunk: OpenChunk,
        transcript: ChunkTranscript,
        again: Vec<Again>,
    ) {
        info!(request_id = %self.job.request_id, chunk = %chunk.audio.index, ?again,
            "speech without text: transcribing it again");
        let (pass, parts) = SecondPass::begin(&chunk.audio, transcript, again, &mut self.next_part);
        self.second_passes.push((chunk, pass));
        for audio in parts {
            let part = OpenChunk {
                audio,
                covers: 0.0,
                permit: None,
            };
            match self.before.take(&part.audio) {
                Some(done) => self.part_ended(myself, &part.audio, Ok(done)),
                None => self.enqueue(myself, part),
            }
        }
    }

    /// A part's failure costs nothing that was there before.
    fn part_ended(
        &mut self,
        myself: &ActorRef<TranscriptionMessage>,
        audio: &AudioChunk,
        outcome: Result<ChunkDone, SttError>,
    ) {
        let text = match outcome {
            Ok(mut done) => {
                self.note_done(audio, &done);
                let origin = Origin::of(&done);
                self.take_in(audio, &mut done.transcript, origin);
                Some(done.transcript)
            }
            Err(error) => {
                warn!(request_id = %self.job.request_id, %error, "a second pass failed");
                None
            }
        };
        let mut passes = self.second_passes.iter_mut();
        let Some(number) = passes.position(|(_, pass)| pass.awaits(audio.index)) else {
            return;
        };
        if self.second_passes[number].1.heard(audio.index, text) {
            let (chunk, pass) = self.second_passes.swap_remove(number);
            self.weigh(myself, chunk, pass.finish());
        }
    }

    /// A chunk has its last text.
    pub(super) fn settle(&mut self, chunk: OpenChunk, mut transcript: ChunkTranscript) {
        self.learn_language_that_waited(chunk.audio.index, &transcript);
        let segments = std::mem::take(&mut transcript.segments);
        transcript.segments = segment_split::settle(segments, &chunk.audio);
        if !transcript.segments.is_empty() {
            // If it was not told before: only a second pass has found text.
            self.announce(transcript.language.clone(), transcript.language_probability);
        }
        self.progress.chunks_done += 1;
        self.progress.seconds_done += chunk.covers;
        // Later chunks may have to wait here for an earlier one: without their audio.
        for segment in self.merger.push(chunk.audio.without_audio(), transcript) {
            self.subscribers.tell(&Event::Segment(segment));
        }
        self.tell_progress();
    }

    /// The engine has the last word on the language: a model of one language hears no other.
    pub(super) fn learn_language(&mut self, index: ChunkIndex, transcript: &ChunkTranscript) {
        let (code, probability) = (&transcript.language, transcript.language_probability);
        let says_something = !transcript.segments.is_empty() && !code.is_empty();
        let decided = match &self.hold {
            LanguageHold::Open { .. } => {
                let detected = if code.is_empty() {
                    DetectedLanguage {
                        code: LANGUAGE_OF_SILENCE.to_owned(),
                        probability: 0.0,
                    }
                } else {
                    DetectedLanguage {
                        code: code.clone(),
                        probability: probability.unwrap_or(1.0),
                    }
                };
                let decided = self.hold.chunk_done(index, detected, says_something);
                decided.map(|decided| (decided.code, probability.and(Some(decided.probability))))
            }
            LanguageHold::Known(_) => Some((code.clone(), probability)),
            LanguageHold::PerChunk => says_something.then(|| (code.clone(), probability)),
        };
        if let Some((code, probability)) = decided {
            self.announce(code, probability);
        }
    }

    /// Tells the client the language, once.
    fn announce(&mut self, code: String, probability: Option<f32>) {
        if self.language.is_none() && !code.is_empty() {
            self.language = Some((code.clone(), probability));
            self.subscribers
                .tell(&Event::Language { code, probability });
        }
    }

    /// Tells the client which lanes did the first chunk, once.
    pub(super) fn announce_route(&mut self) {
        if !std::mem::replace(&mut self.route_was_told, true) {
            self.subscribers.tell(&Event::Route(self.route));
        }
    }

    /// What was told, what was given, or what silence is taken for.
    pub(super) fn final_language(&mut self) -> (String, Option<f32>) {
        self.language.take().unwrap_or_else(|| {
            let code = self.hold.code().unwrap_or(LANGUAGE_OF_SILENCE);
            (code.to_owned(), None)
        })
    }
}
