//! A chunk: a piece of a request's audio, and its place on the request's time line.
//!
//! A chunk is made of *stretches* of the time line. Mostly it is one; where a long silence inside
//! was left out there are more. Times inside a chunk count through its samples, and map back to the
//! time line exactly.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

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

/// A piece of a request's audio, at most [`MAX_CHUNK`] long: the unit of work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AudioChunk {
    /// Place in the request, from 0 without gaps.
    pub index: usize,
    /// What it consists of, in samples of the request's own time line at [`SAMPLE_RATE`]: at least
    /// one stretch, in order, none empty, without overlap. Their lengths add up to the samples.
    pub stretches: Arc<[Range<u64>]>,
    /// 16 kHz mono.
    pub samples: Arc<[i16]>,
    /// How much each moment sounds like speech.
    pub speech: SpeechTrack,
}

impl AudioChunk {
    /// A chunk of one stretch that begins at `start_sample`, and of which nothing is known.
    pub fn contiguous(index: usize, start_sample: u64, samples: Arc<[i16]>) -> Self {
        let end = start_sample + samples.len() as u64;
        Self {
            index,
            stretches: std::iter::once(start_sample..end).collect(),
            samples,
            speech: SpeechTrack::default(),
        }
    }

    /// Where it begins on the time line, in samples.
    pub fn start_sample(&self) -> u64 {
        self.stretches.first().map_or(0, |stretch| stretch.start)
    }

    /// Where it ends on the time line, in samples.
    pub fn end_sample(&self) -> u64 {
        self.stretches.last().map_or(0, |stretch| stretch.end)
    }

    /// Length in seconds, without what was left out.
    pub fn duration_seconds(&self) -> f64 {
        samples_to_seconds(self.samples.len() as u64)
    }

    /// The moment of the time line, in seconds, at which something begins that begins at `seconds`
    /// in the chunk: at a seam, after the silence that was left out.
    pub fn begins_at(&self, seconds: f64) -> f64 {
        self.moment_of(seconds, |within, length| within < length)
    }

    /// The moment of the time line, in seconds, at which something ends that ends at `seconds` in
    /// the chunk: at a seam, before the silence that was left out.
    pub fn ends_at(&self, seconds: f64) -> f64 {
        self.moment_of(seconds, |within, length| within <= length)
    }

    /// The moment in the first stretch that takes in `seconds`, or the end of the last one. Counted
    /// in whole samples, so that a seam is a seam.
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

/// Half, in 255ths.
const MORE_LIKELY_THAN_NOT: u8 = 128;

/// Probability of speech over a chunk's samples, a value for every [`SPEECH_FRAME`] of them, in
/// 255ths. Empty where nobody has looked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpeechTrack(Arc<[u8]>);

impl SpeechTrack {
    /// From probabilities in 255ths.
    pub fn new(values: impl Into<Arc<[u8]>>) -> Self {
        Self(values.into())
    }

    /// Seconds of speech between two moments of the chunk, in seconds; `None` where it is not known.
    pub fn seconds_of_speech(&self, start: f64, end: f64) -> Option<f64> {
        if self.0.is_empty() {
            return None;
        }
        let per_second = f64::from(SAMPLE_RATE) / SPEECH_FRAME as f64;
        let frame = |seconds: f64| ((seconds.max(0.0) * per_second) as usize).min(self.0.len() - 1);
        let (first, last) = (frame(start), frame(end));
        let frames = &self.0[first..=last.max(first)];
        let spoken = frames
            .iter()
            .filter(|&&value| value >= MORE_LIKELY_THAN_NOT);
        Some(spoken.count() as f64 / per_second)
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
    fn at_a_seam_an_end_is_before_the_silence_and_a_beginning_after_it() {
        let chunk = chunk(&[16_000..32_000, 160_000..176_000]);
        assert_eq!(
            (chunk.start_sample(), chunk.end_sample()),
            (16_000, 176_000)
        );
        assert!((chunk.ends_at(1.0) - 2.0).abs() < 1e-9);
        assert!((chunk.begins_at(1.0) - 10.0).abs() < 1e-9);
        assert!((chunk.begins_at(1.5) - 10.5).abs() < 1e-9);
        // What whisper says beyond the audio is its end.
        assert!((chunk.begins_at(7.0) - 11.0).abs() < 1e-9);
        assert!((chunk.ends_at(7.0) - 11.0).abs() < 1e-9);
    }

    #[test]
    fn speech_is_counted_within_the_asked_time_and_unknown_without_a_track() {
        assert_eq!(SpeechTrack::default().seconds_of_speech(0.0, 1.0), None);
        let track = SpeechTrack::new(vec![0, 127, 128, 255]);
        let frames = |start, end| {
            let seconds = track.seconds_of_speech(start, end).expect("known");
            (seconds / 0.032).round() as usize
        };
        assert_eq!(frames(0.0, 0.031), 0);
        assert_eq!(frames(0.065, 9.0), 2);
        assert_eq!(frames(0.0, 0.07), 1);
        // Times that make no sense are looked at where they begin.
        assert_eq!(frames(5.0, 2.0), 1);
    }

    proptest! {
        /// Merging is the inverse of cutting: every moment of a chunk maps to the moment of the time
        /// line that its sample came from, and order is kept.
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
