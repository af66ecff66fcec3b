//! The texts of a request: from what engines return to segments on the request's time line.

use crate::domain::chunk::AudioChunk;
use crate::domain::ids::ChunkIndex;
use crate::domain::job::Progress;
use crate::domain::transcript::{ChunkDone, ChunkTranscript, Removed, Route, Segment, Timings};
use crate::request::transcription::intake::OpenChunk;
use crate::text::hallucination::guard;
use crate::text::merger::Merger;
use crate::text::missed_speech::{self, Again};
use crate::text::second_pass::SecondPass;
use crate::text::segment_split;

/// The texts of one request.
#[derive(Default)]
pub(super) struct Texts {
    /// Whether hallucinated text is removed.
    guards: bool,
    merger: Merger,
    removed: Vec<Removed>,
    /// Chunks of which parts are transcribed again.
    second_passes: Vec<(OpenChunk, SecondPass)>,
    /// Number of the next part.
    next_part: usize,
    route: Route,
    route_is_reported: bool,
    inference_seconds: f64,
    /// The wait until a lane took the first chunk.
    queue_wait_seconds: Option<f64>,
    chunks_done: usize,
    seconds_done: f64,
    reported: Progress,
}

/// An engine's text after the checks that every text undergoes.
pub(super) struct CheckedText {
    pub(super) transcript: ChunkTranscript,
    /// Text that was removed as hallucinated; times count from the chunk's first sample.
    pub(super) removed: Vec<Removed>,
    /// Whether the text is from an earlier, equal request.
    pub(super) reused: bool,
}

impl Texts {
    /// `guards`: whether hallucinated text is removed.
    pub(super) fn new(guards: bool) -> Self {
        Self {
            guards,
            ..Self::default()
        }
    }

    /// Checks an engine's text: removes hallucinations, and the silence over which whisper stretches segments.
    pub(super) fn check(&mut self, audio: &AudioChunk, done: ChunkDone) -> CheckedText {
        let ChunkDone {
            mut transcript,
            lane,
            rescued,
            reused,
        } = done;
        self.route = self.route.with(lane, rescued);
        if !reused {
            self.inference_seconds += transcript.inference_seconds;
        }
        let removed = if self.guards {
            guard(&mut transcript, &audio.speech)
        } else {
            Vec::new()
        };
        for segment in &mut transcript.segments {
            let tightened = audio.speech.tightened(segment.start, segment.end);
            (segment.start, segment.end) = tightened;
        }
        CheckedText {
            transcript,
            removed,
            reused,
        }
    }

    /// Records the wait of the first chunk. `seconds_in_tree`: since the request began; `working_seconds`: the
    /// part of it in which the chunk was decoded and transcribed.
    pub(super) fn record_wait(&mut self, seconds_in_tree: f64, working_seconds: f64) {
        let wait = (seconds_in_tree - working_seconds).max(0.0);
        self.queue_wait_seconds.get_or_insert(wait);
    }

    /// Records the removed text of a chunk. Returns the speech that has no text, or too little.
    pub(super) fn find_missed(
        &mut self,
        audio: &AudioChunk,
        transcript: &ChunkTranscript,
        removed: Vec<Removed>,
    ) -> Vec<Again> {
        let again = missed_speech::find(audio, &transcript.segments, &removed);
        let placed = removed.into_iter().map(|removed| removed.place(audio));
        self.removed.extend(placed);
        again
    }

    /// Begins a second pass over missed speech. Returns the parts to transcribe.
    pub(super) fn begin_second_pass(
        &mut self,
        chunk: OpenChunk,
        transcript: ChunkTranscript,
        again: Vec<Again>,
    ) -> Vec<AudioChunk> {
        let (pass, parts) = SecondPass::begin(&chunk.audio, transcript, again, &mut self.next_part);
        self.second_passes.push((chunk, pass));
        parts
    }

    /// Records the text of a part; `None`: its transcription failed, and the first text stays. Returns the chunk
    /// with its text if this was its last part.
    pub(super) fn part_ended(
        &mut self,
        index: ChunkIndex,
        text: Option<ChunkTranscript>,
    ) -> Option<(OpenChunk, ChunkTranscript)> {
        let mut passes = self.second_passes.iter_mut();
        let number = passes.position(|(_, pass)| pass.awaits(index))?;
        if !self.second_passes[number].1.heard(index, text) {
            return None;
        }
        let (chunk, pass) = self.second_passes.swap_remove(number);
        Some((chunk, pass.finish()))
    }

    /// Whether a second pass is running.
    pub(super) fn has_second_pass(&self) -> bool {
        !self.second_passes.is_empty()
    }

    /// Splits a chunk's final text at pauses.
    pub(super) fn split(audio: &AudioChunk, transcript: &mut ChunkTranscript) {
        let segments = std::mem::take(&mut transcript.segments);
        transcript.segments = segment_split::settle(segments, audio);
    }

    /// Records a chunk's final text. Returns the segments that are final now.
    pub(super) fn settle(&mut self, chunk: OpenChunk, transcript: ChunkTranscript) -> Vec<Segment> {
        self.chunks_done += 1;
        self.seconds_done += chunk.covers;
        // Later chunks may have to wait here for an earlier one: without their audio.
        self.merger.push(chunk.audio.without_audio(), transcript)
    }

    /// Records seconds without speech.
    pub(super) fn pass_silence(&mut self, seconds: f64) {
        self.seconds_done += seconds;
    }

    /// Seconds of audio that are done.
    pub(super) fn seconds_done(&self) -> f64 {
        self.seconds_done
    }

    /// The progress, if it changed since the last report.
    pub(super) fn progress_to_report(&mut self, seconds_known: f64) -> Option<Progress> {
        let progress = Progress {
            chunks_done: self.chunks_done,
            seconds_done: self.seconds_done,
            seconds_known,
        };
        (std::mem::replace(&mut self.reported, progress) != progress).then_some(progress)
    }

    /// The lanes that did the first chunk; `None` if they were reported.
    pub(super) fn route_to_report(&mut self) -> Option<Route> {
        let reported = std::mem::replace(&mut self.route_is_reported, true);
        (!reported).then_some(self.route)
    }

    /// Records that all of the audio is done.
    pub(super) fn finish(&mut self, duration: f64) {
        self.seconds_done = duration;
    }

    /// The lanes that did the work.
    pub(super) fn route(&self) -> Route {
        self.route
    }

    /// The removed text of the whole request, in order of time.
    pub(super) fn take_removed(&mut self) -> Vec<Removed> {
        self.removed.sort_by(|a, b| a.start.total_cmp(&b.start));
        std::mem::take(&mut self.removed)
    }

    /// The part of the timings that is known here.
    pub(super) fn timings(&self) -> Timings {
        Timings {
            queue_wait: self.queue_wait_seconds.unwrap_or_default(),
            inference: self.inference_seconds,
            ..Timings::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::LaneKind;
    use crate::request::transcription::intake::tests::chunk;

    fn text(said: &str) -> ChunkTranscript {
        ChunkTranscript {
            segments: vec![Segment::said(0.5, 9.5, said)],
            language: "en".to_owned(),
            inference_seconds: 2.0,
            ..ChunkTranscript::default()
        }
    }

    fn done(said: &str, lane: LaneKind) -> ChunkDone {
        ChunkDone {
            transcript: text(said),
            lane,
            rescued: false,
            reused: false,
        }
    }

    fn said(segments: &[Segment]) -> Vec<&str> {
        segments
            .iter()
            .map(|segment| segment.text.as_str())
            .collect()
    }

    #[test]
    fn a_text_waits_for_the_chunks_before_it() {
        let mut texts = Texts::new(true);
        assert!(texts.settle(chunk(1, 10), text(" two")).is_empty());
        let segments = texts.settle(chunk(0, 10), text(" one"));
        assert_eq!(said(&segments), [" one", " two"]);
        assert_eq!((segments[0].start, segments[1].start), (0.5, 10.5));
        assert_eq!((segments[0].id, segments[1].id), (0, 1));
    }

    #[test]
    fn progress_counts_chunks_and_silence_and_is_reported_when_it_changes() {
        let mut texts = Texts::new(true);
        assert_eq!(texts.progress_to_report(0.0), None);
        texts.settle(chunk(0, 10), text(" one"));
        texts.pass_silence(5.0);
        let progress = texts.progress_to_report(60.0).expect("it changed");
        assert_eq!(progress.chunks_done, 1);
        assert_eq!(
            (progress.seconds_done, progress.seconds_known),
            (15.0, 60.0)
        );
        assert_eq!(texts.progress_to_report(60.0), None);
        texts.finish(60.0);
        let progress = texts.progress_to_report(60.0).expect("it changed");
        assert_eq!((progress.seconds_done, texts.seconds_done()), (60.0, 60.0));
    }

    #[test]
    fn reused_texts_cost_no_time_and_every_lane_counts_for_the_route() {
        let mut texts = Texts::new(true);
        let audio = chunk(0, 10).audio;
        let reused = ChunkDone {
            reused: true,
            ..done(" one", LaneKind::Hot)
        };
        assert!(texts.check(&audio, reused).reused);
        assert_eq!(texts.route_to_report(), Some(Route::Hot));
        texts.check(&audio, done(" two", LaneKind::Cold));
        assert_eq!(texts.route_to_report(), None, "reported twice");
        assert_eq!(texts.route(), Route::ColdPool);
        assert_eq!(texts.timings().inference.to_bits(), 2.0_f64.to_bits());
    }

    #[test]
    fn the_queue_wait_is_that_of_the_first_chunk() {
        let mut texts = Texts::new(true);
        texts.record_wait(5.0, 2.0);
        texts.record_wait(50.0, 2.0);
        assert_eq!(texts.timings().queue_wait.to_bits(), 3.0_f64.to_bits());
    }

    #[test]
    fn a_chunk_with_a_second_pass_has_its_text_when_its_last_part_ended() {
        let mut texts = Texts::new(true);
        let again = vec![Again {
            parts: vec![1.0..3.0, 6.0..8.0],
            instead_of: None,
        }];
        let parts = texts.begin_second_pass(chunk(0, 10), text(" first"), again);
        let indices: Vec<_> = parts.iter().map(|part| part.index).collect();
        assert_eq!(indices, [ChunkIndex::Part(0), ChunkIndex::Part(1)]);
        assert!(texts.part_ended(ChunkIndex::Part(7), None).is_none());
        // After a failed part the first text stays.
        assert!(texts.part_ended(indices[0], None).is_none());
        assert!(texts.has_second_pass());
        let (ended, transcript) = texts.part_ended(indices[1], None).expect("the last part");
        assert_eq!(ended.audio.index, ChunkIndex::Whole(0));
        assert_eq!(said(&transcript.segments), [" first"]);
        assert!(!texts.has_second_pass());
    }
}
