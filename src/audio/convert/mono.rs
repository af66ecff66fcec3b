//! Mixes several channels into one.
//!
//! Usually the result is the mean of all channels with sound. So a headset that fills only the left channel,
//! or speech in the centre of six, keeps its level. If channels cancel each other (one of them is upside down,
//! as after a wrongly wired microphone), the result is the loudest channel instead.

use super::high_pass::HighPass;

/// A channel that was never louder than this (-60 dB of full scale) counts as empty.
const EMPTY_CHANNEL_PEAK: f32 = 0.001;
/// In a recording that is quieter than that, a channel counts as empty if it was never louder than this share
/// of the loudest one.
const EMPTY_CHANNEL_SHARE: f32 = 0.1;

/// Windows per second. The mix is chosen for each window as a whole, so that the beginning of a word is mixed as
/// the rest of it.
const WINDOWS_PER_SECOND: u32 = 5;
/// A change of the mix takes this part of a second, so that it is no click.
const FADES_PER_SECOND: u32 = 100;

/// What is below this frequency, in Hz, counts neither as sound nor for the loudness of a channel: an offset or
/// hum says nothing about the speech.
const LOWEST_HERTZ: f64 = 100.0;

/// Channels cancel each other if the power of their mean is less than this share of the power that the mean
/// of independent channels would have. Two equally loud channels then have a correlation below -0.75.
const CANCELLED_BELOW: f32 = 0.25;
/// They no longer cancel each other above this share.
const MIXED_ABOVE: f32 = 0.5;
/// Another channel is chosen only if its power is this many times higher.
const CLEARLY_LOUDER: f32 = 4.0;
/// In a window with less power in each channel (-80 dB), nothing is decided.
const SILENT_POWER: f32 = 1e-8;

/// Mixes the frames of one stream.
pub(crate) struct Mono {
    channels: Vec<Channel>,
    /// Frames per window, and per change of the mix.
    window: usize,
    fade: usize,
    /// Samples that do not fill a window yet, interleaved.
    pending: Vec<f32>,
    /// The chosen channel, while channels cancel each other.
    chosen: Option<usize>,
    /// The weight of each channel at the end of the last window; empty before the first one.
    weights: Vec<f32>,
    frames: usize,
}

/// One channel of the stream.
struct Channel {
    high_pass: HighPass,
    /// The highest peak so far.
    peak: f32,
    /// The mean square of the current window.
    power: f32,
}

impl Mono {
    /// A mixer for frames of this many channels at `rate` Hz.
    pub(crate) fn new(channels: usize, rate: u32) -> Self {
        let channel = || Channel {
            high_pass: HighPass::new(LOWEST_HERTZ, rate),
            peak: 0.0,
            power: 0.0,
        };
        Self {
            channels: std::iter::repeat_with(channel).take(channels).collect(),
            window: (rate / WINDOWS_PER_SECOND).max(1) as usize,
            fade: (rate / FADES_PER_SECOND).max(1) as usize,
            pending: Vec::new(),
            chosen: None,
            weights: Vec::new(),
            frames: 0,
        }
    }

    pub(crate) fn channels(&self) -> usize {
        self.channels.len()
    }

    /// Number of frames pushed so far.
    pub(crate) fn frames(&self) -> usize {
        self.frames
    }

    /// Adds whole frames, full scale 1, and appends to `output` the mix of all windows that are complete.
    pub(crate) fn push(&mut self, interleaved: &[f32], output: &mut Vec<f32>) {
        // Damaged float samples may be NaN or infinite.
        let finite = |sample: &f32| if sample.is_finite() { *sample } else { 0.0 };
        let count = self.channels.len().max(1);
        self.frames += interleaved.len() / count;
        if count == 1 {
            output.extend(interleaved.iter().map(finite));
            return;
        }
        self.pending.extend(interleaved.iter().map(finite));
        let samples = std::mem::take(&mut self.pending);
        let mut windows = samples.chunks_exact(self.window * count);
        for window in &mut windows {
            self.mix(window, output);
        }
        self.pending = windows.remainder().to_vec();
    }

    /// Appends the mix of the last frames.
    pub(crate) fn finish(&mut self, output: &mut Vec<f32>) {
        let rest = std::mem::take(&mut self.pending);
        if !rest.is_empty() {
            self.mix(&rest, output);
        }
    }

    fn mix(&mut self, window: &[f32], output: &mut Vec<f32>) {
        let weights = self.weights_of(window);
        let before = if self.weights.is_empty() {
            weights.clone()
        } else {
            std::mem::take(&mut self.weights)
        };
        for (place, frame) in window.chunks_exact(self.channels.len()).enumerate() {
            let now = ((place + 1) as f32 / self.fade as f32).min(1.0);
            let parts = frame.iter().zip(&before).zip(&weights);
            output.push(
                parts
                    .map(|((sample, before), after)| sample * (before + (after - before) * now))
                    .sum(),
            );
        }
        self.weights = weights;
    }

    /// The weight of each channel in a window.
    fn weights_of(&mut self, window: &[f32]) -> Vec<f32> {
        let mut filtered = window.to_vec();
        let count = self.channels.len();
        for frame in filtered.chunks_exact_mut(count) {
            for (sample, channel) in frame.iter_mut().zip(&mut self.channels) {
                *sample = channel.high_pass.pass(*sample);
                channel.peak = channel.peak.max(sample.abs());
            }
        }
        let frames = (filtered.len() / count).max(1) as f32;
        for (number, channel) in self.channels.iter_mut().enumerate() {
            let samples = filtered.iter().skip(number).step_by(count);
            channel.power = samples.map(|sample| sample * sample).sum::<f32>() / frames;
        }
        let mean = self.mean_of_heard();
        let mixed = filtered.chunks_exact(count).map(|frame| {
            let sum: f32 = frame.iter().zip(&mean).map(|(s, weight)| s * weight).sum();
            sum * sum
        });
        self.choose(mixed.sum::<f32>() / frames, &mean);
        match self.chosen {
            None => mean,
            Some(chosen) => (0..count)
                .map(|channel| f32::from(u8::from(channel == chosen)))
                .collect(),
        }
    }

    /// Equal weights for all channels that had sound so far.
    fn mean_of_heard(&self) -> Vec<f32> {
        let loudest = self.channels.iter().map(|channel| channel.peak);
        let loudest = loudest.fold(0.0, f32::max);
        let empty = EMPTY_CHANNEL_PEAK.min(loudest * EMPTY_CHANNEL_SHARE);
        let is_heard = |channel: &Channel| channel.peak > empty || loudest <= 0.0;
        let heard = self.channels.iter().filter(|channel| is_heard(channel));
        let weight = 1.0 / heard.count().max(1) as f32;
        let weights = self.channels.iter();
        weights
            .map(|channel| if is_heard(channel) { weight } else { 0.0 })
            .collect()
    }

    /// Decides whether the channels cancel each other in this window. `mixed`: the power of their mean.
    fn choose(&mut self, mixed: f32, mean: &[f32]) {
        let powers = self.channels.iter().map(|channel| channel.power);
        let loudest = (powers.clone().enumerate()).max_by(|(_, a), (_, b)| a.total_cmp(b));
        let Some((loudest, power)) = loudest.filter(|(_, power)| *power > SILENT_POWER) else {
            return;
        };
        let independent: f32 = powers
            .zip(mean)
            .map(|(power, weight)| power * weight * weight)
            .sum();
        let limit = match self.chosen {
            None => CANCELLED_BELOW,
            Some(_) => MIXED_ABOVE,
        };
        self.chosen = match self.chosen {
            _ if mixed >= independent * limit => None,
            Some(chosen) if self.channels[chosen].power * CLEARLY_LOUDER > power => Some(chosen),
            Some(_) | None => Some(loudest),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: u32 = 16_000;

    /// Half a second of a tone, from `start` frames on.
    fn tone(hertz: f32, amplitude: f32, start: usize) -> Vec<f32> {
        let sine =
            |frame: usize| (frame as f32 / RATE as f32 * hertz * std::f32::consts::TAU).sin();
        (start..start + 8000)
            .map(|frame| amplitude * sine(frame))
            .collect()
    }

    fn interleaved(channels: &[Vec<f32>]) -> Vec<f32> {
        let frames = 0..channels[0].len();
        frames
            .flat_map(|frame| channels.iter().map(move |channel| channel[frame]))
            .collect()
    }

    fn mixed(channels: &[Vec<f32>], block: usize) -> Vec<f32> {
        let mut mono = Mono::new(channels.len(), RATE);
        let mut output = Vec::new();
        for frames in interleaved(channels).chunks(block * channels.len()) {
            mono.push(frames, &mut output);
        }
        mono.finish(&mut output);
        assert_eq!(output.len(), channels[0].len());
        output
    }

    fn level(samples: &[f32]) -> f32 {
        let power: f32 = samples.iter().map(|sample| sample * sample).sum();
        (2.0 * power / samples.len() as f32).sqrt()
    }

    fn scaled(samples: &[f32], factor: f32) -> Vec<f32> {
        samples.iter().map(|sample| sample * factor).collect()
    }

    fn assert_level(channels: &[Vec<f32>], expected: f32, what: &str) {
        let level = level(&mixed(channels, 1000));
        assert!((level - expected).abs() < 0.02, "{what}: {level}");
    }

    #[test]
    fn channels_with_sound_are_averaged_and_empty_ones_are_not() {
        let voice = tone(400.0, 0.5, 0);
        let nothing = vec![0.0; 8000];
        let hiss: Vec<f32> = (0..8000)
            .map(|i| ((i * 7919) % 3) as f32 * 0.000_03)
            .collect();
        assert_level(&[voice.clone(), voice.clone()], 0.5, "the same twice");
        assert_level(&[voice.clone(), nothing.clone()], 0.5, "one empty");
        assert_level(&[hiss.clone(), nothing.clone(), voice.clone()], 0.5, "hiss");
        let other = tone(700.0, 0.5, 0);
        assert_level(&[voice, other], 0.5 / 2_f32.sqrt(), "two voices");
        let whisper = tone(400.0, 0.000_9, 0);
        let level = level(&mixed(&[whisper, hiss, nothing], 1000));
        assert!((level - 0.000_9).abs() < 0.000_05, "a quiet one: {level}");
    }

    #[test]
    fn channels_that_cancel_each_other_give_the_loudest_one() {
        let voice = tone(400.0, 0.5, 0);
        let nothing = vec![0.0; 8000];
        for share in [-1.0, -0.8, -0.6] {
            let swapped = scaled(&voice, share);
            assert_level(&[voice.clone(), swapped.clone()], 0.5, "stereo");
            let six = [&nothing, &swapped, &nothing, &voice, &nothing, &nothing];
            assert_level(&six.map(Clone::clone), 0.5, "two of six");
        }
        // Offsets and hum of opposite sign are no reason.
        let humming = |sign: f32| -> Vec<f32> {
            let hum = tone(50.0, 0.2, 0);
            let both = voice.iter().zip(hum);
            both.map(|(voice, hum)| voice * 0.2 + sign * (hum + 0.1))
                .collect()
        };
        assert_level(&[humming(1.0), humming(-1.0)], 0.1, "hum");
    }

    #[test]
    fn the_choice_follows_the_sound_without_clicks() {
        let mut left = tone(400.0, 0.5, 0);
        let mut right = left.clone();
        for number in 1..4 {
            let next = tone(400.0, 0.5, 8000 * number);
            right.extend(scaled(&next, if number == 2 { 1.0 } else { -1.0 }));
            left.extend(next);
        }
        let output = mixed(&[left.clone(), right], 777);
        for place in (4000..32_000).step_by(8000) {
            let level = level(&output[place..place + 4000]);
            assert!((level - 0.5).abs() < 0.02, "at {place}: {level}");
        }
        let steepest = |samples: &[f32]| {
            let steps = samples.windows(2).map(|two| (two[1] - two[0]).abs());
            steps.fold(0.0, f32::max)
        };
        assert!(steepest(&output) < 1.1 * steepest(&left));
    }

    #[test]
    fn block_sizes_make_no_difference_and_damaged_samples_are_silent() {
        let mut left = tone(400.0, 0.5, 0);
        left[100] = f32::NAN;
        left[200] = f32::NEG_INFINITY;
        let channels = [left, tone(300.0, 0.3, 0)];
        let output = mixed(&channels, 1);
        assert_eq!(output, mixed(&channels, 8000));
        assert!(output.iter().all(|sample| sample.is_finite()));
        assert!(mixed(&channels[..1], 500)[100].abs() < f32::EPSILON);
    }
}
