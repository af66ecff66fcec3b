//! Removes what lies below speech: a constant offset, mains hum, wind and rumble.

use std::f64::consts::{FRAC_1_SQRT_2, TAU};

/// A Butterworth high-pass of second order for one channel, which attenuates by 12 dB per octave below its
/// frequency.
///
/// It computes in `f64`: at high sample rates the poles are so close to one that `f32` would lose the signal.
#[derive(Clone, Debug)]
pub(crate) struct HighPass {
    feedforward: f64,
    feedback: [f64; 2],
    /// `None` before the first sample.
    state: Option<[f64; 2]>,
}

impl HighPass {
    /// A filter that passes frequencies above `hertz`, for samples at `rate` Hz.
    pub(crate) fn new(hertz: f64, rate: u32) -> Self {
        // The bilinear transform of the analogue filter.
        let angle = TAU * hertz / f64::from(rate.max(1));
        let (sine, cosine) = angle.sin_cos();
        let alpha = sine * FRAC_1_SQRT_2;
        let scale = 1.0 / (1.0 + alpha);
        Self {
            feedforward: f64::midpoint(1.0, cosine) * scale,
            feedback: [-2.0 * cosine * scale, (1.0 - alpha) * scale],
            state: None,
        }
    }

    /// Filters one sample.
    pub(crate) fn pass(&mut self, sample: f32) -> f32 {
        // Transposed direct form II; the numerator is `feedforward * (1 - 2z + z²)`.
        let input = self.feedforward * f64::from(sample);
        // The filter begins as if the first sample had lasted for ever, so that an offset is no click.
        let state = self.state.get_or_insert([-input, input]);
        let output = input + state[0];
        state[0] = state[1] - 2.0 * input - self.feedback[0] * output;
        state[1] = input - self.feedback[1] * output;
        output as f32
    }

    /// Filters samples in place.
    pub(crate) fn filter(&mut self, samples: &mut [f32]) {
        for sample in samples {
            *sample = self.pass(*sample);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How much of a sine of this frequency is left, in dB.
    fn passed(hertz: f64, rate: u32) -> f64 {
        let mut filter = HighPass::new(100.0, rate);
        let output: Vec<f32> = (0..rate * 2)
            .map(|frame| {
                filter.pass((TAU * hertz * f64::from(frame) / f64::from(rate)).cos() as f32)
            })
            .collect();
        let power = |samples: &[f32]| samples.iter().map(|s| f64::from(s * s)).sum::<f64>();
        // The second half, after the filter has settled.
        10.0 * (power(&output[rate as usize..]) / f64::from(rate / 2)).log10()
    }

    #[test]
    fn speech_passes_and_what_lies_below_it_does_not() {
        for rate in [8000, 16_000, 48_000, 768_000] {
            assert!(passed(0.0, rate) < -100.0, "{rate} Hz: an offset");
            assert!((passed(25.0, rate) + 24.0).abs() < 0.5, "{rate} Hz: rumble");
            assert!(
                (passed(100.0, rate) + 3.0).abs() < 0.1,
                "{rate} Hz: the edge"
            );
            assert!(passed(300.0, rate).abs() < 0.1, "{rate} Hz: speech");
        }
    }
}
