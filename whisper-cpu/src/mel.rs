//! The log-mel spectrogram of OpenAI's implementation.
//!
//! 16 kHz audio, windows of 400 samples (Hann), one every 160 samples, mirrored at both ends; power spectrum,
//! mel filter bank, base-10 logarithm, limited to 8 below the maximum, `(x + 4) / 4`.

use std::sync::Arc;

use realfft::{RealFftPlanner, RealToComplex};

use crate::file::BINS;

/// Samples in a window of the Fourier transform.
const WINDOW: usize = 400;
/// Samples from one frame to the next: 10 ms.
pub const HOP: usize = 160;
/// Frames in Whisper's window of 30 s.
pub const FULL_FRAMES: usize = 3000;
/// The least power that counts.
const FLOOR: f32 = 1e-10;

/// Computes spectrograms with one model's filter bank.
pub struct Mel {
    bands: Vec<Band>,
    window: Vec<f32>,
    fourier: Arc<dyn RealToComplex<f32>>,
}

/// The weights of a band that are not zero.
struct Band {
    first: usize,
    weights: Vec<f32>,
}

impl std::fmt::Debug for Mel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mel")
            .field("bands", &self.bands.len())
            .finish_non_exhaustive()
    }
}

/// A spectrogram: `frames` rows of one value for each band.
#[derive(Clone, Debug, PartialEq)]
pub struct Spectrogram {
    /// Number of bands.
    pub bands: usize,
    /// The values, frame by frame.
    pub values: Vec<f32>,
}

impl Spectrogram {
    /// Number of frames.
    pub fn frames(&self) -> usize {
        self.values.len() / self.bands.max(1)
    }
}

impl Mel {
    /// For the filter bank of a model file: rows of 201 weights.
    pub fn new(filters: &[f32]) -> Self {
        let bands = filters.chunks_exact(BINS).map(|row| {
            let first = row.iter().position(|weight| *weight != 0.0).unwrap_or(0);
            let end = row
                .iter()
                .rposition(|weight| *weight != 0.0)
                .map_or(first, |last| last + 1);
            Band {
                first,
                weights: row[first..end].to_vec(),
            }
        });
        let window = (0..WINDOW).map(|place| {
            let phase = std::f64::consts::TAU * place as f64 / WINDOW as f64;
            (0.5 - 0.5 * phase.cos()) as f32
        });
        Self {
            bands: bands.collect(),
            window: window.collect(),
            fourier: RealFftPlanner::new().plan_fft_forward(WINDOW),
        }
    }

    /// The spectrogram of at most 30 s of audio, ±1.0, as if silence followed it to the end of the window. Frames
    /// that see nothing but silence are left out, so there are at most `samples / 160 + 2` frames. Also returns the value
    /// of those that are left out.
    pub fn spectrogram(&self, samples: &[f32]) -> (Spectrogram, f32) {
        let samples = &samples[..samples.len().min(FULL_FRAMES * HOP)];
        // Frame `f` sees the samples from `160 f − 200` to `160 f + 199`.
        let frames = ((samples.len() + WINDOW / 2).div_ceil(HOP)).min(FULL_FRAMES);
        let bands = self.bands.len();
        let mut values = Vec::with_capacity(frames * bands);
        let (mut input, mut spectrum) = (
            self.fourier.make_input_vec(),
            self.fourier.make_output_vec(),
        );
        let mut scratch = self.fourier.make_scratch_vec();
        let mut power = [0.0_f32; BINS];
        let mut largest = FLOOR.log10();
        for frame in 0..frames {
            for (place, value) in input.iter_mut().enumerate() {
                *value = sample(samples, frame * HOP + place) * self.window[place];
            }
            // Only wrong lengths are an error.
            let _ = self
                .fourier
                .process_with_scratch(&mut input, &mut spectrum, &mut scratch);
            for (power, bin) in power.iter_mut().zip(&spectrum) {
                *power = bin.norm_sqr();
            }
            for band in &self.bands {
                let powers = &power[band.first..band.first + band.weights.len()];
                let pairs = powers.iter().zip(&band.weights);
                let energy: f32 = pairs.map(|(power, weight)| power * weight).sum();
                let value = energy.max(FLOOR).log10();
                largest = largest.max(value);
                values.push(value);
            }
        }
        let least = largest - 8.0;
        let scaled = |value: f32| (value.max(least) + 4.0) / 4.0;
        for value in &mut values {
            *value = scaled(*value);
        }
        (Spectrogram { bands, values }, scaled(FLOOR.log10()))
    }
}

/// The sample at `place` of the audio that is padded with 200 mirrored samples in front and silence behind.
fn sample(samples: &[f32], place: usize) -> f32 {
    let index = place.abs_diff(WINDOW / 2);
    let within = place >= WINDOW / 2 || index < samples.len();
    if within {
        samples.get(index).copied().unwrap_or(0.0)
    } else {
        0.0
    }
}

// Computed in the same way, so equal.
#[cfg(test)]
#[allow(clippy::float_cmp)]
mod tests {
    use super::*;

    /// A bank of two bands: bins 10 to 12, and bin 100.
    fn filters() -> Vec<f32> {
        let mut filters = vec![0.0; 2 * BINS];
        filters[10..13].copy_from_slice(&[0.5, 1.0, 0.25]);
        filters[BINS + 100] = 2.0;
        filters
    }

    /// The definition, in 64 bits, for one frame.
    fn energies(samples: &[f32], frame: usize) -> [f64; 2] {
        let power = |bin: usize| {
            let (mut re, mut im) = (0.0, 0.0);
            for place in 0..WINDOW {
                let turn = std::f64::consts::TAU * place as f64 / WINDOW as f64;
                let value =
                    f64::from(sample(samples, frame * HOP + place)) * (0.5 - 0.5 * turn.cos());
                re += value * (turn * bin as f64).cos();
                im += value * (turn * bin as f64).sin();
            }
            re * re + im * im
        };
        [
            0.5 * power(10) + power(11) + 0.25 * power(12),
            2.0 * power(100),
        ]
    }

    #[test]
    fn a_spectrogram_has_the_defined_values() {
        let samples: Vec<f32> = (0..3000)
            .map(|place| (place as f32 * 0.17).sin() * 0.3 + (place % 7) as f32 * 0.01)
            .collect();
        let (found, silence) = Mel::new(&filters()).spectrogram(&samples);
        assert_eq!(found.frames(), 20);
        let logs: Vec<f64> = (0..found.frames())
            .flat_map(|frame| energies(&samples, frame))
            .map(|energy| energy.max(1e-10).log10())
            .collect();
        let largest = logs.iter().copied().fold(-10.0, f64::max);
        for (found, log) in found.values.iter().zip(logs) {
            let expected = (log.max(largest - 8.0) + 4.0) / 4.0;
            assert!(
                (f64::from(*found) - expected).abs() < 1e-3,
                "{found} is not {expected}"
            );
        }
        assert!((f64::from(silence) - (largest - 8.0 + 4.0) / 4.0).abs() < 1e-3);
    }

    #[test]
    fn silence_and_nothing_have_the_lowest_value() {
        let mel = Mel::new(&filters());
        for samples in [&[][..], &[0.0; 500]] {
            let (found, silence) = mel.spectrogram(samples);
            assert_eq!(silence, -1.5);
            assert!(found.values.iter().all(|value| *value == silence));
        }
    }

    #[test]
    fn the_sound_before_the_audio_is_its_mirror_image() {
        let samples = [1.0, 2.0, 3.0];
        let around: Vec<f32> = (WINDOW / 2 - 3..WINDOW / 2 + 5)
            .map(|place| sample(&samples, place))
            .collect();
        assert_eq!(around, [0.0, 3.0, 2.0, 1.0, 2.0, 3.0, 0.0, 0.0]);
    }
}
