//! Cuts a stream of samples into chunks of at most 30 s, at quiet places.
//!
//! Pure and synchronous: samples go in, chunks come out, and the same samples give the same chunks
//! whatever the sizes of the blocks they came in. Chunks are contiguous: every sample is in exactly
//! one of them. The memory is one window, however long the audio is.

use std::sync::Arc;

use stt_actors::ports::{AudioChunk, MAX_CHUNK, SAMPLE_RATE};

/// Samples a frame, the unit of the search for quiet: 10 ms.
const FRAME: usize = SAMPLE_RATE as usize / 100;

/// Frames that the loudness is averaged over: 300 ms. Longer than the closure of a plosive, so that
/// the inside of a word does not pass for a pause.
const SMOOTHING: usize = 30;

/// How much louder than the quietest place still counts as quiet: 6 dB, in power.
const QUIET_RATIO: f64 = 4.0;

/// Power that is quiet in any case, so that the noise of a bad converter does not split a digital
/// silence: an amplitude of 8 of 32768 (-72 dBFS).
const QUIET_FLOOR: f64 = 64.0;

/// Where chunks may be cut; in samples at [`SAMPLE_RATE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkLimits {
    /// No chunk is cut shorter than this, but the last one.
    pub earliest_cut: usize,
    /// No chunk is longer than this.
    pub latest_cut: usize,
    /// A last chunk shorter than this is avoided by cutting the one before it earlier.
    pub shortest_tail: usize,
}

impl Default for ChunkLimits {
    /// Cut between 20 s and 30 s, and leave at least 1 s.
    fn default() -> Self {
        let second = SAMPLE_RATE as usize;
        Self {
            earliest_cut: 20 * second,
            latest_cut: MAX_CHUNK.as_secs() as usize * second,
            shortest_tail: second,
        }
    }
}

/// The chunker of one stream.
#[derive(Debug)]
pub struct Chunker {
    limits: ChunkLimits,
    /// What is not yet in a chunk.
    window: Vec<i16>,
    /// The place of the window's first sample in the stream.
    start_sample: u64,
    next_index: usize,
}

impl Default for Chunker {
    fn default() -> Self {
        Self::new(ChunkLimits::default())
    }
}

impl Chunker {
    /// A chunker at the start of a stream.
    pub fn new(limits: ChunkLimits) -> Self {
        Self {
            limits,
            window: Vec::new(),
            start_sample: 0,
            next_index: 0,
        }
    }

    /// Samples that were pushed so far.
    pub fn pushed_samples(&self) -> u64 {
        self.start_sample + self.window.len() as u64
    }

    /// Takes the next samples and returns the chunks that are certain now.
    pub fn push(&mut self, mut samples: &[i16]) -> Vec<AudioChunk> {
        let mut chunks = Vec::new();
        // A cut is decided when the window holds exactly this much, never more: so that the block
        // sizes make no difference. The tail's worth of samples beyond the latest cut is what
        // proves that the last chunk will not be too short.
        let decidable = self.limits.latest_cut + self.limits.shortest_tail.max(1);
        while !samples.is_empty() {
            let wanted = decidable.saturating_sub(self.window.len());
            let (now, later) = samples.split_at(wanted.min(samples.len()));
            self.window.extend_from_slice(now);
            samples = later;
            if self.window.len() >= decidable {
                chunks.push(self.cut(self.limits.latest_cut));
            }
        }
        chunks
    }

    /// The rest, at the end of the stream: none, one or two chunks.
    pub fn flush(&mut self) -> Vec<AudioChunk> {
        let mut chunks = Vec::new();
        while self.window.len() > self.limits.latest_cut {
            let latest = (self.window.len() - self.limits.shortest_tail)
                .clamp(self.limits.earliest_cut, self.limits.latest_cut);
            chunks.push(self.cut(latest));
        }
        if !self.window.is_empty() {
            chunks.push(self.take(self.window.len()));
        }
        chunks
    }

    /// Cuts at the quietest place between the earliest cut and `latest`.
    fn cut(&mut self, latest: usize) -> AudioChunk {
        let earliest = self.limits.earliest_cut.min(latest);
        let place = quietest_place(&self.window[earliest..latest]);
        self.take(earliest + place)
    }

    fn take(&mut self, length: usize) -> AudioChunk {
        let samples: Arc<[i16]> = self.window[..length].into();
        self.window.drain(..length);
        let chunk = AudioChunk {
            index: self.next_index,
            start_sample: self.start_sample,
            samples,
        };
        self.next_index += 1;
        self.start_sample += length as u64;
        chunk
    }
}

/// The middle of the longest stretch of `samples` that is about as quiet as the quietest place; of
/// two equally long ones the later. All of `samples` if it is too short for a search.
fn quietest_place(samples: &[i16]) -> usize {
    let powers: Vec<f64> = samples.chunks_exact(FRAME).map(power).collect();
    if powers.len() < SMOOTHING {
        return samples.len();
    }
    let smoothed: Vec<f64> = powers
        .windows(SMOOTHING)
        .map(|window| window.iter().sum::<f64>() / SMOOTHING as f64)
        .collect();
    let quietest = smoothed.iter().copied().fold(f64::INFINITY, f64::min);
    let quiet = (quietest * QUIET_RATIO).max(QUIET_FLOOR);
    let (first, length) = longest_run(&smoothed, |power| power <= quiet);
    // Window i covers the frames i to i + SMOOTHING: the run of `length` windows covers
    // `length + SMOOTHING - 1` frames.
    (2 * first + length + SMOOTHING - 1) * FRAME / 2
}

/// A frame's power without its mean: an offset or a slow hum is not loudness.
fn power(frame: &[i16]) -> f64 {
    let count = frame.len() as f64;
    let (sum, squares) = frame.iter().fold((0.0, 0.0), |(sum, squares), &sample| {
        let sample = f64::from(sample);
        (sum + sample, squares + sample * sample)
    });
    (squares / count - (sum / count).powi(2)).max(0.0)
}

/// Start and length of the longest run of values that are `inside`; the last of equals.
fn longest_run(values: &[f64], inside: impl Fn(f64) -> bool) -> (usize, usize) {
    let mut best = (0, 0);
    let mut start = 0;
    for (place, &value) in values.iter().enumerate() {
        if !inside(value) {
            start = place + 1;
        } else if place + 1 - start >= best.1 {
            best = (start, place + 1 - start);
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: usize = SAMPLE_RATE as usize;

    /// `seconds` of a noise of about `amplitude`.
    fn noise(seconds: f64, amplitude: i32) -> Vec<i16> {
        let mut state = 12_345_u32;
        (0..(seconds * SECOND as f64) as usize)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                ((state >> 16) as i32 % (2 * amplitude + 1) - amplitude) as i16
            })
            .collect()
    }

    fn chunks_of(limits: ChunkLimits, samples: &[i16], block: usize) -> Vec<AudioChunk> {
        let mut chunker = Chunker::new(limits);
        let mut chunks = Vec::new();
        for block in samples.chunks(block) {
            chunks.extend(chunker.push(block));
        }
        chunks.extend(chunker.flush());
        chunks
    }

    fn lengths(samples: &[i16]) -> Vec<usize> {
        chunks_of(ChunkLimits::default(), samples, 4096)
            .iter()
            .map(|chunk| chunk.samples.len())
            .collect()
    }

    #[test]
    fn nothing_gives_no_chunk() {
        assert_eq!(lengths(&[]), Vec::<usize>::new());
    }

    #[test]
    fn thirty_seconds_are_one_chunk() {
        assert_eq!(lengths(&noise(30.0, 3000)), [30 * SECOND]);
        assert_eq!(lengths(&noise(0.05, 3000)), [SECOND / 20]);
    }

    #[test]
    fn the_cut_is_in_the_middle_of_a_silence() {
        let mut audio = noise(24.0, 3000);
        audio.extend(noise(1.0, 10));
        audio.extend(noise(15.0, 3000));
        let first = lengths(&audio)[0] as f64 / SECOND as f64;
        assert!((first - 24.5).abs() < 0.05, "cut at {first} s");
    }

    #[test]
    fn a_long_pause_is_preferred_to_a_short_one() {
        let mut audio = noise(22.0, 3000);
        audio.extend(noise(1.2, 20));
        audio.extend(noise(4.0, 3000));
        audio.extend(noise(0.4, 20));
        audio.extend(noise(12.0, 3000));
        let first = lengths(&audio)[0] as f64 / SECOND as f64;
        assert!((first - 22.6).abs() < 0.05, "cut at {first} s");
    }

    #[test]
    fn a_silence_is_found_beneath_a_constant_offset() {
        let mut audio = noise(26.0, 900);
        audio.extend(noise(0.6, 5));
        audio.extend(noise(15.0, 900));
        for sample in &mut audio {
            *sample += 8000;
        }
        let first = lengths(&audio)[0] as f64 / SECOND as f64;
        assert!((first - 26.3).abs() < 0.05, "cut at {first} s");
    }

    #[test]
    fn a_short_tail_is_avoided() {
        // The only silence is where cutting would leave 0.2 s.
        let mut audio = noise(29.6, 3000);
        audio.extend(noise(0.4, 10));
        audio.extend(noise(0.2, 3000));
        let lengths = lengths(&audio);
        assert_eq!(lengths.len(), 2);
        assert!(lengths[1] >= SECOND, "tail of {} samples", lengths[1]);
    }

    #[test]
    fn the_memory_is_one_window_however_long_the_audio() {
        let mut chunker = Chunker::default();
        let block = noise(7.3, 2000);
        for _ in 0..100 {
            chunker.push(&block);
            assert!(chunker.window.capacity() <= 4 * 31 * SECOND);
        }
        assert_eq!(chunker.pushed_samples(), 100 * block.len() as u64);
    }

    prop_compose! {
        /// Stretches of noise of different loudness, up to about 8 s.
        fn any_audio()(stretches in prop::collection::vec((0.0..1.2_f64, 1..4000_i32), 0..12))
            -> Vec<i16>
        {
            stretches.iter().flat_map(|&(seconds, amplitude)| noise(seconds, amplitude)).collect()
        }
    }

    prop_compose! {
        /// Limits of about a fifteenth of the real ones, so that a case is quick.
        fn any_limits()(
            earliest_cut in 1..SECOND,
            spread in 0..SECOND,
            tail in 0..SECOND / 10,
        ) -> ChunkLimits {
            ChunkLimits {
                earliest_cut,
                latest_cut: earliest_cut + spread,
                shortest_tail: tail.min(spread),
            }
        }
    }

    proptest! {
        #[test]
        fn every_sample_is_in_exactly_one_chunk(
            audio in any_audio(), limits in any_limits(), block in 1..40_000_usize,
        ) {
            let chunks = chunks_of(limits, &audio, block);
            let mut start = 0;
            for (index, chunk) in chunks.iter().enumerate() {
                let end = start + chunk.samples.len();
                prop_assert_eq!(chunk.index, index);
                prop_assert_eq!(chunk.start_sample, start as u64);
                prop_assert!(!chunk.samples.is_empty());
                prop_assert!(chunk.samples.len() <= limits.latest_cut);
                prop_assert_eq!(&chunk.samples[..], &audio[start..end]);
                start = end;
            }
            prop_assert_eq!(start, audio.len());
        }

        #[test]
        fn block_sizes_make_no_difference(
            audio in any_audio(), limits in any_limits(), block in 1..40_000_usize,
        ) {
            let whole = audio.len().max(1);
            prop_assert_eq!(
                chunks_of(limits, &audio, block),
                chunks_of(limits, &audio, whole)
            );
        }

        #[test]
        fn only_the_last_chunk_is_short(audio in any_audio(), limits in any_limits()) {
            let chunks = chunks_of(limits, &audio, 1000);
            for chunk in chunks.iter().rev().skip(1) {
                prop_assert!(chunk.samples.len() >= limits.earliest_cut);
            }
            if let [.., _, last] = &chunks[..] {
                prop_assert!(last.samples.len() >= limits.shortest_tail);
            }
        }
    }
}
