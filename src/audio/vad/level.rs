//! Raises quiet audio to the level that the detector expects.
//!
//! The network's results depend on the level: it misses much of speech that is 40 dB quieter than usual, and
//! takes quiet music for speech. So each block of two seconds is amplified until its louder moments have the
//! level of ordinary speech; it is never attenuated. In longer blocks a loud voice would hide a quiet one
//! next to it.

use std::collections::VecDeque;

/// Samples per measurement of the level: 20 ms.
const WINDOW: usize = 320;
/// Target level of a block's louder moments, in dB of full scale.
const WANTED_DBFS: f32 = -23.0;
/// A quieter block is silence with the noise of a converter.
const SILENT_DBFS: f32 = -85.0;
/// The share of a block that does not belong to its louder moments.
const PERCENTILE: f32 = 0.95;

/// Amplifies a block in place. Returns whether it contains sound. Samples are ±1.0 before and after.
pub fn normalise(block: &mut [f32]) -> bool {
    let power = loud_power(block);
    amplify(block, power)
}

/// Amplifies samples whose louder moments have this power.
fn amplify(samples: &mut [f32], power: f32) -> bool {
    // The level of digital silence is minus infinity.
    let level = 10.0 * power.log10();
    if level < SILENT_DBFS {
        return false;
    }
    if level >= WANTED_DBFS {
        return true;
    }
    let gain = 10.0_f32.powf((WANTED_DBFS - level) / 20.0);
    for sample in samples {
        *sample = (*sample * gain).clamp(-1.0, 1.0);
    }
    true
}

/// The level of live audio: that of the last two seconds and of the present.
#[derive(Debug, Default)]
pub struct RunningLevel {
    /// Powers of the last windows, the oldest first.
    powers: VecDeque<f32>,
}

impl RunningLevel {
    /// Windows in the time that counts.
    const WINDOWS: usize = 100;

    /// Amplifies the next samples in place, as [`normalise`] does. Returns whether there is sound in the last two
    /// seconds.
    pub fn normalise(&mut self, samples: &mut [f32]) -> bool {
        self.powers
            .extend(samples.chunks_exact(WINDOW).map(mean_square));
        let excess = self.powers.len().saturating_sub(Self::WINDOWS);
        self.powers.drain(..excess);
        // A word after silence is loud before it fills the percentile.
        let past = percentile(self.powers.iter().copied().collect());
        let level = past.unwrap_or_default().max(loud_power(samples));
        amplify(samples, level)
    }
}

/// The mean square of a block's louder moments.
fn loud_power(block: &[f32]) -> f32 {
    let powers = block.chunks_exact(WINDOW).map(mean_square).collect();
    percentile(powers).unwrap_or_else(|| mean_square(block))
}

fn mean_square(window: &[f32]) -> f32 {
    let squares: f32 = window.iter().map(|sample| sample * sample).sum();
    squares / window.len().max(1) as f32
}

fn percentile(mut powers: Vec<f32>) -> Option<f32> {
    let last = powers.len().checked_sub(1)?;
    let place = ((powers.len() as f32 * PERCENTILE) as usize).min(last);
    Some(*powers.select_nth_unstable_by(place, f32::total_cmp).1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tone(amplitude: f32, samples: usize) -> Vec<f32> {
        (0..samples)
            .map(|i| amplitude * (i as f32 * 0.2).sin())
            .collect()
    }

    fn level(block: &[f32]) -> f32 {
        10.0 * loud_power(block).log10()
    }

    #[test]
    fn quiet_audio_is_made_louder_and_loud_audio_is_left_alone() {
        let mut quiet = tone(0.001, 32_000);
        assert!(normalise(&mut quiet));
        assert!(
            (level(&quiet) - WANTED_DBFS).abs() < 0.1,
            "{}",
            level(&quiet)
        );
        let loud = tone(0.5, 32_000);
        let mut same = loud.clone();
        assert!(normalise(&mut same));
        assert_eq!(same, loud);
    }

    #[test]
    fn silence_stays_silent_and_a_scrap_of_audio_is_no_trouble() {
        for mut silent in [
            vec![],
            vec![0.0; 10],
            vec![0.0; 32_000],
            tone(0.000_03, 32_000),
        ] {
            let before = silent.clone();
            assert!(!normalise(&mut silent));
            assert_eq!(silent, before);
        }
        let mut scrap = tone(0.01, 100);
        assert!(normalise(&mut scrap));
        assert!(scrap.iter().all(|sample| sample.abs() <= 1.0));
    }

    #[test]
    fn what_becomes_too_loud_is_cut_off_at_full_scale() {
        let mut click = vec![0.000_1; 32_000];
        click[5] = 0.9;
        assert!(normalise(&mut click));
        assert!(click[5] <= 1.0);
    }
}
