//! A chunk: a part of a request's audio, and its position on the request's time line.
//!
//! A chunk consists of *stretches* of the time line: usually one, more where a long silence was left
//! out. Times inside a chunk count its samples, and map back to the time line exactly.

use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::domain::ids::ChunkIndex;

/// Samples per second of all audio inside the tree (mono, signed 16 bit).
pub const SAMPLE_RATE: u32 = 16_000;

/// The longest chunk that an engine takes: whisper's window.
pub const MAX_CHUNK: Duration = Duration::from_secs(30);

/// Samples of one value of a [`SpeechTrack`]: 32 ms.
pub const SPEECH_FRAME: usize = 512;

/// Seconds of audio in `samples` samples at [`SAMPLE_RATE`].
pub fn samples_to_seconds(samples: u64) -> f64 {
    samples as f64 / f64::from(SAMPLE_RATE)
}

/// A part of a request's audio, at most [`MAX_CHUNK`] long: the unit of work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AudioChunk {
    /// The chunk's number within the request.
    pub index: ChunkIndex,
    /// The stretches of the request's time line, in samples at [`SAMPLE_RATE`]: at least one, in
    /// order, none empty, without overlap. Their lengths add up to the length of `samples`.
    pub stretches: Arc<[Range<u64>]>,
    /// 16 kHz mono.
    pub samples: Arc<[i16]>,
    /// The probability of speech at each moment.
    pub speech: SpeechTrack,
}

impl AudioChunk {
    /// A chunk of one stretch that begins at `start_sample`, without a speech track.
    pub fn contiguous(number: usize, start_sample: u64, samples: Arc<[i16]>) -> Self {
        let end = start_sample + samples.len() as u64;
        Self {
            index: ChunkIndex::Whole(number),
            stretches: std::iter::once(start_sample..end).collect(),
            samples,
            speech: SpeechTrack::default(),
        }
    }

    /// The start on the time line, in samples.
    pub fn start_sample(&self) -> u64 {
        self.stretches.first().map_or(0, |stretch| stretch.start)
    }

    /// The end on the time line, in samples.
    pub fn end_sample(&self) -> u64 {
        self.stretches.last().map_or(0, |stretch| stretch.end)
    }

    /// The length in seconds, without the silence that was left out.
    pub fn duration_seconds(&self) -> f64 {
        samples_to_seconds(self.samples.len() as u64)
    }

    /// The same number and position, without the audio and the speech track.
    pub(crate) fn without_audio(self) -> Self {
        Self {
            samples: Arc::from([]),
            speech: SpeechTrack::default(),
            ..self
        }
    }

    /// Cuts out the audio between two times of this chunk (in seconds) as a chunk with this `index`.
    /// Also returns the time in this chunk at which the part begins: the start of the
    /// [`SPEECH_FRAME`] that contains `part.start`.
    pub fn part(&self, index: ChunkIndex, part: &Range<f64>) -> (Self, f64) {
        let frame_seconds = samples_to_seconds(SPEECH_FRAME as u64);
        let frame = |seconds: f64| (seconds.max(0.0) / frame_seconds) as usize;
        let first = frame(part.start);
        let last = frame(part.end).max(first);
        let end = ((last + 1) * SPEECH_FRAME).min(self.samples.len());
        let start = (first * SPEECH_FRAME).min(end);
        let mut before = 0;
        let mut stretches = Vec::new();
        for stretch in self.stretches.iter() {
            let length = stretch.end - stretch.start;
            let inside = |sample: usize| (sample as u64).saturating_sub(before).min(length);
            let (from, to) = (inside(start), inside(end));
            if from < to {
                stretches.push(stretch.start + from..stretch.start + to);
            }
            before += length;
        }
        let chunk = Self {
            index,
            stretches: stretches.into(),
            samples: self.samples[start..end].into(),
            speech: self.speech.part(first, last + 1),
        };
        (chunk, samples_to_seconds(start as u64))
    }

    /// Maps a start time in the chunk to the time line; both in seconds. At a seam between two
    /// stretches, this is the time after the silence that was left out.
    pub fn begins_at(&self, seconds: f64) -> f64 {
        self.moment_of(seconds, |within, length| within < length)
    }

    /// Maps an end time in the chunk to the time line; both in seconds. At a seam between two
    /// stretches, this is the time before the silence that was left out.
    pub fn ends_at(&self, seconds: f64) -> f64 {
        self.moment_of(seconds, |within, length| within <= length)
    }

    /// Maps `seconds` into the first stretch that accepts them, or to the end of the last stretch.
    /// Counts in whole samples, so that rounding never moves a time across a seam.
    fn moment_of(&self, seconds: f64, takes: impl Fn(u64, u64) -> bool) -> f64 {
        let mut within = (seconds.max(0.0) * f64::from(SAMPLE_RATE)).round() as u64;
        for stretch in self.stretches.iter() {
            let length = stretch.end - stretch.start;
            if takes(within, length) {
                return samples_to_seconds(stretch.start + within);
            }
            within -= length;
        }
        samples_to_seconds(self.end_sample())
    }
}

/// Probability 0.5, in 255ths: from here on a frame counts as speech.
const MORE_LIKELY_THAN_NOT: u8 = 128;
/// Probability 0.2, in 255ths: below this a frame is certainly not speech.
const POSSIBLE: u8 = 51;

/// The probability of speech over a chunk's samples: one value for each [`SPEECH_FRAME`], in 255ths.
/// Empty if voice activity was not measured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpeechTrack(Arc<[u8]>);

impl SpeechTrack {
    const PER_SECOND: f64 = SAMPLE_RATE as f64 / SPEECH_FRAME as f64;

    /// Takes probabilities in 255ths.
    pub fn new(values: impl Into<Arc<[u8]>>) -> Self {
        Self(values.into())
    }

    /// Whether voice activity was measured.
    pub fn is_known(&self) -> bool {
        !self.0.is_empty()
    }

    /// Shrinks a range of the chunk, in seconds, to the first and last speech in it. Returns the whole
    /// range if it contains no speech, or if voice activity was not measured.
    pub fn tightened(&self, start: f64, end: f64) -> (f64, f64) {
        let spoken = self.0.iter().enumerate().filter_map(|(frame, &value)| {
            let (from, to) = (
                frame as f64 / Self::PER_SECOND,
                (frame + 1) as f64 / Self::PER_SECOND,
            );
            let counts = value >= MORE_LIKELY_THAN_NOT && from < end && to > start;
            counts.then_some((from, to))
        });
        let edges = spoken.fold(None, |edges: Option<(f64, f64)>, (from, to)| {
            Some((edges.map_or(from, |(first, _)| first), to))
        });
        edges.map_or((start, end), |(first, last)| {
            (first.max(start), last.min(end))
        })
    }

    /// The longest silence between two times of the chunk, in seconds; `None` if there is none, or if
    /// voice activity was not measured.
    pub fn longest_pause(&self, start: f64, end: f64) -> Option<Range<f64>> {
        let silent = self.silent(start, end).into_iter();
        // The first one of several equally long ones.
        let longest = silent.rev().max_by_key(ExactSizeIterator::len)?;
        Some(Self::seconds(&longest))
    }

    /// Silences of at least `least` seconds between two times of the chunk, with speech before and
    /// after.
    pub fn pauses(&self, start: f64, end: f64, least: f64) -> Vec<Range<f64>> {
        let (start, end) = self.tightened(start, end);
        let silent = self.silent(start, end).into_iter();
        let pauses = silent.map(|frames| Self::seconds(&frames));
        let inside = |pause: &Range<f64>| pause.start > start && pause.end < end;
        pauses
            .filter(|pause| pause.end - pause.start >= least && inside(pause))
            .collect()
    }

    fn seconds(frames: &Range<usize>) -> Range<f64> {
        frames.start as f64 / Self::PER_SECOND..frames.end as f64 / Self::PER_SECOND
    }

    /// Runs of frames without speech between two times, in seconds.
    fn silent(&self, start: f64, end: f64) -> Vec<Range<usize>> {
        let frame =
            |seconds: f64| ((seconds.max(0.0) * Self::PER_SECOND) as usize).min(self.0.len());
        let mut runs = Vec::new();
        let mut begin = None;
        for index in frame(start)..frame(end) {
            if self.0[index] >= MORE_LIKELY_THAN_NOT {
                runs.extend(begin.take().map(|begin| begin..index));
            } else {
                begin.get_or_insert(index);
            }
        }
        runs.extend(begin.map(|begin| begin..frame(end)));
        runs
    }

    fn part(&self, first: usize, end: usize) -> Self {
        let end = end.min(self.0.len());
        Self(self.0[first.min(end)..end].into())
    }

    /// Seconds of speech between two times of the chunk, in seconds; `None` if voice activity was not
    /// measured.
    pub fn seconds_of_speech(&self, start: f64, end: f64) -> Option<f64> {
        self.seconds_above(MORE_LIKELY_THAN_NOT, start, end)
    }

    /// The same, counting everything that may be speech.
    pub fn seconds_of_possible_speech(&self, start: f64, end: f64) -> Option<f64> {
        self.seconds_above(POSSIBLE, start, end)
    }

    fn seconds_above(&self, threshold: u8, start: f64, end: f64) -> Option<f64> {
        if self.0.is_empty() {
            return None;
        }
        let frame = |seconds: f64| {
            let frame = seconds.max(0.0) * Self::PER_SECOND;
            (frame as usize).min(self.0.len() - 1)
        };
        let (first, last) = (frame(start), frame(end));
        let frames = &self.0[first..=last.max(first)];
        let spoken = frames.iter().filter(|&&value| value >= threshold);
        Some(spoken.count() as f64 / Self::PER_SECOND)
    }
}

/// A file to transcribe: an upload, or a file of the user's.
#[derive(Clone)]
pub struct AudioSource {
    path: PathBuf,
    /// Removes an uploaded file when the last clone of this source is dropped.
    _guard: Option<Arc<dyn Send + Sync>>,
}

impl AudioSource {
    /// A file that is not removed afterwards.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            _guard: None,
        }
    }

    /// A file that `guard` removes when the last clone of this source is dropped.
    pub fn guarded(path: impl Into<PathBuf>, guard: Arc<dyn Send + Sync>) -> Self {
        Self {
            path: path.into(),
            _guard: Some(guard),
        }
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl fmt::Debug for AudioSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AudioSource").field(&self.path).finish()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn chunk(stretches: &[Range<u64>]) -> AudioChunk {
        let samples: u64 = stretches.iter().map(|s| s.end - s.start).sum();
        AudioChunk {
            stretches: Arc::from(stretches.to_vec()),
            ..AudioChunk::contiguous(0, 0, Arc::from(vec![0; samples as usize]))
        }
    }

    #[test]
    fn at_a_seam_an_end_maps_before_the_silence_and_a_start_after_it() {
        let chunk = chunk(&[16_000..32_000, 160_000..176_000]);
        assert_eq!(
            (chunk.start_sample(), chunk.end_sample()),
            (16_000, 176_000)
        );
        assert!((chunk.ends_at(1.0) - 2.0).abs() < 1e-9);
        assert!((chunk.begins_at(1.0) - 10.0).abs() < 1e-9);
        assert!((chunk.begins_at(1.5) - 10.5).abs() < 1e-9);
        // A time after the end of the audio maps to the end.
        assert!((chunk.begins_at(7.0) - 11.0).abs() < 1e-9);
        assert!((chunk.ends_at(7.0) - 11.0).abs() < 1e-9);
    }

    #[test]
    fn speech_is_counted_within_the_given_times_and_unknown_without_a_track() {
        assert_eq!(SpeechTrack::default().seconds_of_speech(0.0, 1.0), None);
        let track = SpeechTrack::new(vec![0, 127, 128, 255]);
        let frames = |start, end| {
            let seconds = track.seconds_of_speech(start, end).expect("known");
            (seconds / 0.032).round() as usize
        };
        assert_eq!(frames(0.0, 0.031), 0);
        assert_eq!(frames(0.065, 9.0), 2);
        assert_eq!(frames(0.0, 0.07), 1);
        // An end before the start, and a start after the audio: the last frame counts.
        assert_eq!(frames(5.0, 2.0), 1);
    }

    #[test]
    fn a_range_is_tightened_to_the_speech_in_it() {
        let mut values = vec![0; 100];
        values[10..20].fill(250);
        values[40..50].fill(250);
        let track = SpeechTrack::new(values);
        let near = |found: (f64, f64), expected: (f64, f64)| {
            (found.0 - expected.0).abs() < 1e-9 && (found.1 - expected.1).abs() < 1e-9
        };
        assert!(near(track.tightened(0.0, 3.2), (0.32, 1.6)));
        assert!(near(track.tightened(0.0, 1.0), (0.32, 0.64)));
        assert!(near(track.tightened(0.4, 0.5), (0.4, 0.5)));
        assert!(near(track.tightened(0.7, 1.2), (0.7, 1.2)));
        assert!(near(SpeechTrack::default().tightened(1.0, 2.0), (1.0, 2.0)));
    }

    #[test]
    fn the_longest_pause_is_found_within_the_given_times() {
        let mut values = vec![250; 100];
        values[10..15].fill(0);
        values[30..50].fill(0);
        values[90..100].fill(0);
        let track = SpeechTrack::new(values);
        let frames = |range: Option<Range<f64>>| {
            let frame = |seconds: f64| (seconds / 0.032).round() as usize;
            range.map(|range| frame(range.start)..frame(range.end))
        };
        assert_eq!(frames(track.longest_pause(0.0, 9.0)), Some(30..50));
        assert_eq!(frames(track.longest_pause(0.0, 0.9)), Some(10..15));
        assert_eq!(track.longest_pause(0.0, 0.3), None);
        assert_eq!(SpeechTrack::default().longest_pause(0.0, 1.0), None);
    }

    #[test]
    fn a_part_across_a_seam_maps_to_the_right_times() {
        let mut whole = chunk(&[16_384..32_768, 163_840..180_224]);
        whole.speech = SpeechTrack::new((0..64).collect::<Vec<u8>>());
        let (part, begins) = whole.part(ChunkIndex::Part(7), &(0.6..1.5));
        assert!((begins - 0.576).abs() < 1e-9);
        assert_eq!(
            *part.stretches,
            [16_384 + 9216..32_768, 163_840..163_840 + 7680]
        );
        assert_eq!(part.samples.len(), 7168 + 7680);
        assert_eq!(part.speech, SpeechTrack::new((18..47).collect::<Vec<u8>>()));
        assert!((part.begins_at(0.0) - whole.begins_at(begins)).abs() < 1e-9);
        let (rest, _) = whole.part(ChunkIndex::Part(8), &(1.9..7.0));
        assert_eq!(rest.end_sample(), whole.end_sample());
    }

    proptest! {
        /// Merging is the inverse of cutting: every time in a chunk maps to the time on the time line
        /// that its sample came from, and the order is kept.
        #[test]
        fn every_sample_maps_back_to_where_it_was_cut_from(
            gaps_and_lengths in prop::collection::vec((0_u64..50_000, 1_u64..50_000), 1..6),
        ) {
            let mut at = 0;
            let stretches: Vec<Range<u64>> = gaps_and_lengths.iter().map(|(gap, length)| {
                let start = at + gap;
                at = start + length;
                start..at
            }).collect();
            let chunk = chunk(&stretches);
            let origins = stretches.iter().cloned().flatten();
            let mut last = -1.0;
            for (sample, origin) in origins.enumerate().step_by(331) {
                let begins = chunk.begins_at(samples_to_seconds(sample as u64));
                prop_assert!((begins - samples_to_seconds(origin)).abs() < 1e-6);
                let ends = chunk.ends_at(samples_to_seconds(sample as u64 + 1));
                prop_assert!((ends - samples_to_seconds(origin + 1)).abs() < 1e-6);
                prop_assert!(last <= begins && begins < ends);
                last = ends - 1e-6;
            }
        }
    }
}
