//! Resamples one channel of any sample rate to 16 kHz, 16 bit, as a stream with the exact length.

use rubato::audioadapter_buffers::direct::InterleavedSlice;
use rubato::{Fft, FixedSync, Resampler as _};
use stt_actors::domain::chunk::SAMPLE_RATE;

/// Smallest number of input frames per block of the transform. At usual rates that is at most a tenth of a
/// second: long enough for a steep filter, too short for a noticeable delay.
const BLOCK_FRAMES: usize = 2048;

/// Sample rates of recordings; ffmpeg decodes files with other rates.
const RATES: std::ops::RangeInclusive<u32> = 1000..=768_000;

/// Largest term of the reduced ratio to 16 kHz. 44.1 kHz is 441 to 160; a prime rate is not reduced at all.
const LARGEST_RATIO: u32 = 50_000;

/// Whether a rate is one of recordings, and cheap to resample: the resampler's memory grows with the reduced
/// ratio of the two rates.
pub(crate) fn can_resample(rate: u32) -> bool {
    let common = greatest_common_divisor(rate as usize, SAMPLE_RATE as usize) as u32;
    RATES.contains(&rate) && rate / common <= LARGEST_RATIO
}

/// Resamples one stream.
///
/// The output has `round(frames * 16000 / rate)` samples and no delay: the transform's delay is cut off at
/// the start and added at the end.
pub(crate) struct Resampler {
    rate: u32,
    /// `None` if the rate is already 16 kHz.
    transform: Option<Transform>,
    frames_in: u64,
    samples_out: u64,
}

struct Transform {
    fft: Fft<f32>,
    /// Input that does not yet fill a block.
    pending: Vec<f32>,
    output: Vec<f32>,
    /// Output samples that are still to drop: the delay.
    to_skip: usize,
}

impl Resampler {
    /// A resampler for input of `rate` Hz; an error text if the rate is impossible.
    pub(crate) fn new(rate: u32) -> Result<Self, String> {
        let transform = if rate == SAMPLE_RATE {
            None
        } else {
            Some(Transform::new(rate)?)
        };
        Ok(Self {
            rate,
            transform,
            frames_in: 0,
            samples_out: 0,
        })
    }

    /// Adds samples (1.0 is full scale) and appends the finished ones to `output`.
    pub(crate) fn push(&mut self, input: &[f32], output: &mut Vec<i16>) {
        self.frames_in += input.len() as u64;
        let before = output.len();
        match &mut self.transform {
            None => output.extend(input.iter().copied().map(to_i16)),
            Some(transform) => transform.push(input, output),
        }
        self.samples_out += (output.len() - before) as u64;
    }

    /// Appends the rest at the end of the stream.
    pub(crate) fn finish(&mut self, output: &mut Vec<i16>) {
        let Some(transform) = &mut self.transform else {
            return;
        };
        let expected = samples_expected(self.frames_in, self.rate);
        let silence = vec![0.0; transform.fft.input_frames_max()];
        let start = output.len();
        while self.samples_out + ((output.len() - start) as u64) < expected {
            transform.push(&silence, output);
        }
        // The padded last block may give more samples than expected.
        let surplus = (self.samples_out + (output.len() - start) as u64).saturating_sub(expected);
        output.truncate(output.len() - surplus.min(output.len() as u64) as usize);
        self.samples_out = expected;
    }
}

impl Transform {
    fn new(rate: u32) -> Result<Self, String> {
        let (rate_in, rate_out) = (rate as usize, SAMPLE_RATE as usize);
        // The smallest block that has whole frames on both sides. A power of two times that transforms fast.
        // At least twice that makes the block even; the middle of an odd one, which is the delay, would lie
        // between two frames.
        let smallest = rate_in / greatest_common_divisor(rate_in, rate_out).max(1);
        let blocks = BLOCK_FRAMES
            .div_ceil(smallest.max(1))
            .max(2)
            .next_power_of_two();
        let block = blocks * smallest.max(1);
        let fft = Fft::new(rate_in, rate_out, block, 1, FixedSync::Both)
            .map_err(|error| error.to_string())?;
        Ok(Self {
            pending: Vec::new(),
            output: vec![0.0; fft.output_frames_max()],
            to_skip: fft.output_delay(),
            fft,
        })
    }

    fn push(&mut self, input: &[f32], output: &mut Vec<i16>) {
        self.pending.extend_from_slice(input);
        let mut used = 0;
        while self.pending.len() - used >= self.fft.input_frames_next() {
            let (read, written) = self.block(used);
            used += read;
            let skipped = self.to_skip.min(written);
            self.to_skip -= skipped;
            output.extend(self.output[skipped..written].iter().copied().map(to_i16));
        }
        self.pending.drain(..used);
    }

    /// Resamples one block from `pending[start..]` into `output`: frames read and written.
    fn block(&mut self, start: usize) -> (usize, usize) {
        let input = &self.pending[start..];
        let input = InterleavedSlice::new(input, 1, input.len()).expect("one channel, its length");
        let room = self.output.len();
        let mut output =
            InterleavedSlice::new_mut(&mut self.output, 1, room).expect("one channel, its length");
        self.fft
            .process_into_buffer(&input, &mut output, None)
            .expect("a whole block of input and room for the largest output")
    }
}

fn greatest_common_divisor(a: usize, b: usize) -> usize {
    if b == 0 {
        a
    } else {
        greatest_common_divisor(b, a % b)
    }
}

/// Output samples for `frames` at `rate` Hz, rounded.
fn samples_expected(frames: u64, rate: u32) -> u64 {
    let rate = u64::from(rate.max(1));
    (frames * u64::from(SAMPLE_RATE) + rate / 2) / rate
}

/// Converts full scale 1.0 to 16 bit. Louder samples are clipped; NaN becomes silence.
pub(crate) fn to_i16(sample: f32) -> i16 {
    // A float cast saturates and turns NaN into 0.
    (sample * 32768.0).round() as i16
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::f64::consts::TAU;

    use super::*;

    fn tone(hertz: f64, rate: u32, frames: usize) -> Vec<f32> {
        (0..frames)
            .map(|frame| (0.5 * (TAU * hertz * frame as f64 / f64::from(rate)).sin()) as f32)
            .collect()
    }

    fn resampled(input: &[f32], rate: u32, block: usize) -> Vec<i16> {
        let mut resampler = Resampler::new(rate).unwrap();
        let mut output = Vec::new();
        for block in input.chunks(block) {
            resampler.push(block, &mut output);
        }
        resampler.finish(&mut output);
        output
    }

    /// The amplitude (of full scale 1) of the part of `samples` that is in phase with a sine of
    /// `hertz` that starts at the first sample, and of all that is not.
    fn sine_and_rest(samples: &[i16], hertz: f64) -> (f64, f64) {
        let sine = |place: usize| (TAU * hertz * place as f64 / f64::from(SAMPLE_RATE)).sin();
        let scaled = |place: usize| f64::from(samples[place]) / 32768.0;
        // Without the edges, where the filter sees the silence around the tone.
        let inner = 1600..samples.len() - 1600;
        let amplitude =
            2.0 * inner.clone().map(|i| scaled(i) * sine(i)).sum::<f64>() / inner.len() as f64;
        let rest = inner
            .map(|i| (scaled(i) - amplitude * sine(i)).abs())
            .fold(0.0, f64::max);
        (amplitude, rest)
    }

    #[test]
    fn a_tone_keeps_its_pitch_amplitude_phase_and_length() {
        for rate in [
            8000, 11_025, 16_000, 22_050, 24_000, 44_100, 47_999, 48_000, 96_000,
        ] {
            let output = resampled(&tone(1000.0, rate, rate as usize * 2), rate, 1000);
            assert_eq!(output.len(), 32_000, "{rate} Hz");
            let (amplitude, rest) = sine_and_rest(&output, 1000.0);
            assert!(
                (amplitude - 0.5).abs() < 0.002,
                "{rate} Hz: amplitude {amplitude}"
            );
            assert!(rest < 0.002, "{rate} Hz: {rest} is not the tone");
        }
    }

    #[test]
    fn what_16_khz_cannot_hold_is_filtered_out() {
        let output = resampled(&tone(12_000.0, 48_000, 96_000), 48_000, 4096);
        let loudest = output[1600..30_400].iter().map(|s| s.unsigned_abs()).max();
        assert!(loudest < Some(33), "an alias of {loudest:?}"); // -60 dB
    }

    #[test]
    fn lengths_are_rounded_to_the_nearest_sample() {
        for (frames, rate) in [
            (1, 44_100),
            (2, 44_100),
            (441, 44_100),
            (400, 8000),
            (7919, 22_050),
        ] {
            let output = resampled(&tone(100.0, rate, frames), rate, 77);
            let exact = frames as f64 * 16_000.0 / f64::from(rate);
            assert!(
                (output.len() as f64 - exact).abs() <= 0.5,
                "{frames} at {rate} Hz"
            );
        }
        assert!(resampled(&[], 44_100, 1).is_empty());
    }

    #[test]
    fn block_sizes_make_no_difference() {
        let input = tone(440.0, 44_100, 30_000);
        assert_eq!(
            resampled(&input, 44_100, 123),
            resampled(&input, 44_100, 30_000)
        );
    }

    #[test]
    fn samples_beyond_full_scale_are_clipped() {
        assert_eq!(
            [
                to_i16(2.0),
                to_i16(-2.0),
                to_i16(f32::NAN),
                to_i16(f32::INFINITY)
            ],
            [i16::MAX, i16::MIN, 0, i16::MAX]
        );
    }
}
