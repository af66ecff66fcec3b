//! Finds the quietest place, to cut speech that has no pause.

use stt_actors::domain::chunk::SAMPLE_RATE;

/// Samples per unit of the search: 10 ms.
const QUIET_UNIT: usize = SAMPLE_RATE as usize / 100;
/// Units over which loudness is averaged: 300 ms. That is longer than the closure of a plosive, so that a
/// word's interior does not count as a pause.
const SMOOTHING: usize = 30;
/// Ratio of power to that of the quietest place that still counts as quiet: 6 dB.
const QUIET_RATIO: f64 = 4.0;
/// Power that always counts as quiet, so that the noise of a bad converter does not split digital silence: an
/// amplitude of 8 of 32768 (-72 dBFS).
const QUIET_FLOOR: f64 = 64.0;

/// The middle of the longest stretch of `samples` that is about as quiet as the quietest place; of
/// two equally long ones the later. All of `samples` if it is too short for a search.
pub(super) fn quietest_place(samples: &[i16]) -> usize {
    let powers: Vec<f64> = samples.chunks_exact(QUIET_UNIT).map(power).collect();
    if powers.len() < SMOOTHING {
        return samples.len();
    }
    let smoothed: Vec<f64> = powers
        .windows(SMOOTHING)
        .map(|window| window.iter().sum::<f64>() / SMOOTHING as f64)
        .collect();
    let quietest = smoothed.iter().copied().fold(f64::INFINITY, f64::min);
    let quiet = (quietest * QUIET_RATIO).max(QUIET_FLOOR);
    let (first, length) = longest_run(&smoothed, |power| *power <= quiet);
    // Window i covers the units i to i + SMOOTHING: the run of `length` windows covers
    // `length + SMOOTHING - 1` units.
    (2 * first + length + SMOOTHING - 1) * QUIET_UNIT / 2
}

/// A unit's power without its mean, so that an offset or a slow hum does not count.
fn power(unit: &[i16]) -> f64 {
    let count = unit.len() as f64;
    let (sum, squares) = unit.iter().fold((0.0, 0.0), |(sum, squares), &sample| {
        let sample = f64::from(sample);
        (sum + sample, squares + sample * sample)
    });
    (squares / count - (sum / count).powi(2)).max(0.0)
}

/// Start and length of the longest run of values that are `inside`; of several, the last.
pub(super) fn longest_run<T>(values: &[T], inside: impl Fn(&T) -> bool) -> (usize, usize) {
    let mut best = (0, 0);
    let mut start = 0;
    for (place, value) in values.iter().enumerate() {
        if !inside(value) {
            start = place + 1;
        } else if place + 1 - start >= best.1 {
            best = (start, place + 1 - start);
        }
    }
    best
}
