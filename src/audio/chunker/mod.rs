//! Cuts a stream of samples into chunks of speech, at most 30 s long, at pauses.
//!
//! The chunker is pure and synchronous, and the same samples give the same chunks whatever the sizes of the
//! blocks. It drops audio without speech: before the first word, after the last, and in long pauses. Half a
//! second of each pause remains on both sides of the speech. Short stretches of speech with a pause between
//! them share a chunk, because each chunk costs the model a fixed amount of work; a long pause between them
//! is shortened, which leaves a seam in the chunk. If the language may change in pauses, every pause of a second ends a
//! chunk instead. Without voice activity detection, everything counts as
//! speech.
//!
//! It keeps one chunk and a few seconds in memory, however long the audio is.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use stt_actors::domain::chunk::{AudioChunk, MAX_CHUNK, SAMPLE_RATE, SPEECH_FRAME, SpeechTrack};
use stt_actors::domain::ids::ChunkIndex;

use super::vad::{BLOCK, DetectSpeech};
use quiet::{longest_run, quietest_place};
use speech_gate::{Frame, SpeechGate, frames};

mod quiet;
mod speech_gate;

/// Silence to keep on either side of speech, because the detector may notice a word late.
const PADDING: usize = frames(480);
/// Longer pauses are shortened.
const LONG_PAUSE: usize = frames(2000);
/// A pause that ends a chunk if the language may change in it.
const PAUSE_OF_LANGUAGES: usize = frames(1000);
/// Speech after a longer pause begins a new chunk, so that no subtitle spans the pause.
const LONGEST_SEAM: usize = frames(10_000);
/// After this much silence, nothing in the state of a chunker depends on what was before.
const HEARD_OF_A_GAP: usize = LONGEST_SEAM + 2 * LONG_PAUSE + SpeechGate::LONGEST_DOUBT;
/// Shortest pause to cut in; shorter ones occur within words.
const SHORTEST_PAUSE: usize = frames(96);
/// Shortest last chunk; the chunk before it is cut earlier if necessary.
const SHORTEST_TAIL: usize = frames(1000);

/// Where chunks may be cut, in frames of [`SPEECH_FRAME`] samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Limits {
    /// A pause before this does not end a chunk.
    earliest: usize,
    /// No chunk is longer than this.
    latest: usize,
}

impl Limits {
    /// Chunks of about this length.
    fn around(target: Duration) -> Self {
        let longest = frames(MAX_CHUNK.as_millis() as usize);
        let target = frames(target.as_millis() as usize);
        let latest = (target * 5 / 4).clamp(2 * SHORTEST_TAIL, longest);
        Self {
            earliest: (target * 7 / 10).clamp(1, latest - 1),
            latest,
        }
    }
}

/// Consecutive frames of a chunk.
#[derive(Debug, Default)]
struct Stretch {
    /// Index of the first frame in the stream.
    start: usize,
    frames: VecDeque<Frame>,
}

impl Stretch {
    fn len(&self) -> usize {
        self.frames.len()
    }

    /// Frames after the last one with speech.
    fn silence_at_end(&self) -> usize {
        let silent = self
            .frames
            .iter()
            .rev()
            .take_while(|frame| !frame.is_speech);
        silent.count()
    }

    fn silence_at_start(&self) -> usize {
        let silent = self.frames.iter().take_while(|frame| !frame.is_speech);
        silent.count()
    }

    /// Removes silence at the end beyond the padding.
    fn trim_end(&mut self) {
        let excess = self.silence_at_end().saturating_sub(PADDING);
        self.frames.truncate(self.len() - excess);
    }

    fn trim_start(&mut self) {
        let excess = self.silence_at_start().saturating_sub(PADDING);
        self.frames.drain(..excess);
        self.start += excess;
    }

    /// Splits off the frames from `place` on.
    fn split_off(&mut self, place: usize) -> Self {
        Self {
            start: self.start + place,
            frames: self.frames.split_off(place),
        }
    }
}

/// The chunker of one stream.
pub struct Chunker {
    detector: Option<Box<dyn DetectSpeech>>,
    gate: SpeechGate,
    /// Samples that do not fill a block of the detector yet.
    pending: Vec<i16>,
    limits: Limits,
    /// Pauses of this length end a stretch.
    long_pause: usize,
    /// Whether such a pause also ends the chunk.
    pauses_end_chunks: bool,
    /// Finished stretches of the current chunk.
    stretches: Vec<Stretch>,
    /// The growing stretch; without speech in it, the padding before the next speech.
    current: Stretch,
    /// Whether there was speech within the last `long_pause`.
    in_speech: bool,
    /// Frames since the last stretch ended.
    pause: usize,
    next_index: usize,
    pushed_samples: u64,
}

impl Chunker {
    /// A chunker for a new stream. Without a detector, everything counts as speech.
    pub fn new(detector: Option<Box<dyn DetectSpeech>>) -> Self {
        Self {
            detector,
            gate: SpeechGate::default(),
            pending: Vec::new(),
            limits: Limits::around(MAX_CHUNK),
            long_pause: LONG_PAUSE,
            pauses_end_chunks: false,
            stretches: Vec::new(),
            current: Stretch::default(),
            in_speech: false,
            pause: 0,
            next_index: 0,
            pushed_samples: 0,
        }
    }

    /// Lets every pause of about a second end a chunk, because the language may change there.
    #[must_use]
    pub fn with_chunks_between_pauses(mut self) -> Self {
        self.long_pause = PAUSE_OF_LANGUAGES;
        self.pauses_end_chunks = true;
        self
    }

    /// Sets the approximate length of further chunks.
    pub fn aim_at(&mut self, target: Duration) {
        self.limits = Limits::around(target);
    }

    /// Number of samples pushed so far.
    pub fn pushed_samples(&self) -> u64 {
        self.pushed_samples
    }

    /// The sample before which all speech has been returned.
    pub fn settled_samples(&self) -> u64 {
        let first = self.stretches.first().unwrap_or(&self.current);
        ((first.start * SPEECH_FRAME) as u64).min(self.pushed_samples)
    }

    /// Adds samples and returns the chunks that are complete.
    pub fn push(&mut self, mut samples: &[i16]) -> Vec<AudioChunk> {
        let mut chunks = Vec::new();
        self.pushed_samples += samples.len() as u64;
        while !samples.is_empty() {
            let wanted = BLOCK - self.pending.len();
            let (now, later) = samples.split_at(wanted.min(samples.len()));
            self.pending.extend_from_slice(now);
            samples = later;
            if self.pending.len() == BLOCK {
                self.take_block(&mut chunks);
            }
        }
        chunks
    }

    /// Adds time without sound, which costs no detection, and with or without a detector ends speech as a pause
    /// does. Returns the chunks that are complete.
    pub fn skip(&mut self, samples: u64) -> Vec<AudioChunk> {
        let mut chunks = Vec::new();
        // The pending samples become whole frames.
        let unaligned = self.pending.len() % SPEECH_FRAME;
        let padding = (SPEECH_FRAME - unaligned) % SPEECH_FRAME;
        let padding = (samples as usize).min(padding);
        chunks.extend(self.push(&[0; SPEECH_FRAME][..padding]));
        let left = samples - padding as u64;
        if left < SPEECH_FRAME as u64 {
            chunks.extend(self.push(&[0; SPEECH_FRAME][..left as usize]));
            return chunks;
        }
        self.take_block(&mut chunks);
        // Silence makes the detector forget.
        let silence = [0; SPEECH_FRAME];
        let score = self
            .detector
            .as_mut()
            .map(|detector| detector.score(&silence)[0]);
        let all = (left / SPEECH_FRAME as u64) as usize;
        let heard = all.min(HEARD_OF_A_GAP);
        for _ in 0..heard {
            let frame = Frame {
                samples: silence.to_vec(),
                probability: score,
                is_speech: false,
            };
            for frame in self.gate.pass(frame) {
                chunks.extend(self.take_frame(frame));
            }
        }
        // Now nothing but the padding of the next speech is kept, which is silent and moves on.
        self.current.start += all - heard;
        self.pause += all - heard;
        self.pushed_samples += (all * SPEECH_FRAME) as u64;
        let rest = left as usize % SPEECH_FRAME;
        chunks.extend(self.push(&silence[..rest]));
        chunks
    }

    /// Returns the remaining chunks at the end of the stream.
    pub fn flush(&mut self) -> Vec<AudioChunk> {
        let mut chunks = Vec::new();
        self.take_block(&mut chunks);
        for frame in self.gate.flush() {
            chunks.extend(self.take_frame(frame));
        }
        self.current.trim_end();
        if self.finished_length() >= self.limits.earliest {
            chunks.extend(self.finish());
        }
        while self.in_speech && self.is_too_long() {
            let before_tail = self.length() - SHORTEST_TAIL;
            let latest = before_tail.clamp(self.limits.earliest + 1, self.limits.latest);
            chunks.push(self.cut(latest));
        }
        let rest = std::mem::take(&mut self.current);
        if self.in_speech {
            self.stretches.push(rest);
        }
        self.in_speech = false;
        self.current.start = (self.pushed_samples as usize).div_ceil(SPEECH_FRAME);
        chunks.extend(self.finish());
        chunks
    }

    /// Processes the pending samples frame by frame.
    fn take_block(&mut self, chunks: &mut Vec<AudioChunk>) {
        let block = std::mem::take(&mut self.pending);
        let scores = self
            .detector
            .as_mut()
            .map(|detector| detector.score(&block));
        for (number, samples) in block.chunks(SPEECH_FRAME).enumerate() {
            let probability = scores.as_ref().map(|scores| scores[number]);
            let frame = Frame {
                samples: samples.to_vec(),
                probability,
                is_speech: true,
            };
            for frame in self.gate.pass(frame) {
                chunks.extend(self.take_frame(frame));
            }
        }
        // Reuse the memory for the next block.
        self.pending = block;
        self.pending.clear();
    }

    fn take_frame(&mut self, frame: Frame) -> Option<AudioChunk> {
        if frame.is_speech {
            self.in_speech = true;
            self.pause = 0;
        } else {
            self.pause += 1;
        }
        self.current.frames.push_back(frame);
        if !self.in_speech {
            self.keep_padding();
            return (self.pause > LONGEST_SEAM).then(|| self.finish()).flatten();
        }
        if self.pause >= self.long_pause {
            return self.end_stretch();
        }
        if self.finished_length() >= self.limits.earliest {
            // The limit became shorter meanwhile: the finished stretches fill a chunk.
            return self.finish();
        }
        // Frames beyond the latest cut, enough for a tail, show that the last chunk will not be too short.
        let is_full = self.length() >= self.limits.latest + SHORTEST_TAIL;
        is_full.then(|| self.cut(self.limits.latest))
    }

    /// Whether the rest is longer than a chunk. An incomplete last frame counts with its length.
    fn is_too_long(&self) -> bool {
        let stretches = self.stretches.iter().chain([&self.current]);
        let frames = stretches.flat_map(|stretch| &stretch.frames);
        let samples: usize = frames.map(|frame| frame.samples.len()).sum();
        let longest = MAX_CHUNK.as_secs() as usize * SAMPLE_RATE as usize;
        let is_longest = self.limits.latest == longest / SPEECH_FRAME;
        samples
            > if is_longest {
                longest
            } else {
                self.limits.latest * SPEECH_FRAME
            }
    }

    /// Number of frames of the current chunk.
    fn length(&self) -> usize {
        self.finished_length() + self.current.len()
    }

    fn finished_length(&self) -> usize {
        self.stretches.iter().map(Stretch::len).sum()
    }

    /// Without speech, keeps only the padding of the next speech.
    fn keep_padding(&mut self) {
        let excess = self.current.len().saturating_sub(PADDING);
        self.current.frames.drain(..excess);
        self.current.start += excess;
    }

    /// Handles a long pause: ends the stretch, and the chunk if it is long enough.
    fn end_stretch(&mut self) -> Option<AudioChunk> {
        let padded = self.current.len() - self.pause + PADDING;
        let silence = self.current.split_off(padded);
        let stretch = std::mem::replace(&mut self.current, silence);
        self.stretches.push(stretch);
        self.in_speech = false;
        self.keep_padding();
        let is_enough = self.finished_length() >= self.limits.earliest || self.pauses_end_chunks;
        is_enough.then(|| self.finish()).flatten()
    }

    /// Ends the chunk within a stretch, between the earliest cut and the frame `latest`: in the longest
    /// pause, or at the quietest place.
    fn cut(&mut self, latest: usize) -> AudioChunk {
        let before = self.finished_length();
        let window = (self.limits.earliest - before)..(latest - before).min(self.current.len());
        let place = self.place_to_cut(window);
        let mut rest = self.current.split_off(place);
        self.current.trim_end();
        rest.trim_start();
        let stretch = std::mem::replace(&mut self.current, rest);
        self.stretches.push(stretch);
        let chunk = self.build();
        if self.current.silence_at_end() == self.current.len() {
            self.in_speech = false;
            self.keep_padding();
        }
        chunk
    }

    fn place_to_cut(&self, window: Range<usize>) -> usize {
        let frames: Vec<&Frame> = self.current.frames.range(window.clone()).collect();
        let (first, length) = longest_run(&frames, |frame| !frame.is_speech);
        if length >= SHORTEST_PAUSE {
            return window.start + first + length / 2;
        }
        let samples = frames
            .iter()
            .flat_map(|frame| frame.samples.iter().copied());
        let samples: Vec<i16> = samples.collect();
        let quiet = quietest_place(&samples) / SPEECH_FRAME;
        (window.start + quiet).max(1)
    }

    /// Returns the current chunk, if it has frames.
    fn finish(&mut self) -> Option<AudioChunk> {
        (!self.stretches.is_empty()).then(|| self.build())
    }

    fn build(&mut self) -> AudioChunk {
        let mut samples = Vec::with_capacity(self.finished_length() * SPEECH_FRAME);
        let mut probabilities = Vec::new();
        let mut ranges = Vec::new();
        for stretch in self.stretches.drain(..) {
            let start = (stretch.start * SPEECH_FRAME) as u64;
            let before = samples.len();
            for frame in &stretch.frames {
                samples.extend_from_slice(&frame.samples);
                probabilities.extend(frame.probability);
            }
            ranges.push(start..start + (samples.len() - before) as u64);
        }
        let index = self.next_index;
        self.next_index += 1;
        AudioChunk {
            index: ChunkIndex::Whole(index),
            stretches: ranges.into(),
            samples: samples.into(),
            speech: SpeechTrack::new(probabilities),
        }
    }
}

#[cfg(test)]
mod tests;
