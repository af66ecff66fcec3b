//! The cost model: seconds of an engine's work for seconds of audio, learned from finished chunks.
//!
//! The cost of a chunk is affine in its length, `fixed + slope · audio`: whisper encodes a window of a
//! minimum size however short the audio is, and then takes time for each token of text. A single ratio,
//! learned from a two-second command, would predict that an hour of audio takes two hours. The two
//! numbers come from a weighted least-squares fit over recent chunks, with a prior on the slope that
//! decides while all chunks have the same length.

/// Weight of the newest chunk; the weights of older chunks decay.
const WEIGHT: f64 = 0.1;
/// Strength of the prior on the slope, in s² of variance of the chunks' lengths: lengths with a standard
/// deviation below two seconds say little about a slope.
const PRIOR_VARIANCE: f64 = 4.0;
/// The prior slope, from a single measurement: a whole window of 30 s costs about twice as much as a
/// short clip.
const SECONDS_TO_DOUBLE: f64 = 30.0;

/// A chunk's cost: `fixed + slope · audio`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cost {
    /// Work in seconds for a chunk of any length.
    pub fixed: f64,
    /// Work in seconds per second of audio.
    pub slope: f64,
}

impl Cost {
    /// The assumption before the first measurement: work takes as long as the audio.
    pub const UNMEASURED: Self = Self {
        fixed: 0.0,
        slope: 1.0,
    };

    /// No work at all.
    pub const FREE: Self = Self {
        fixed: 0.0,
        slope: 0.0,
    };

    /// Work in seconds for `audio_seconds` of audio in this many chunks.
    pub fn of(self, audio_seconds: f64, chunks: f64) -> f64 {
        self.fixed * chunks + self.slope * audio_seconds
    }
}

/// Learns a [`Cost`], and the ratio of work to audio.
#[derive(Clone, Debug, Default)]
pub struct CostModel {
    weight: f64,
    audio: f64,
    work: f64,
    audio_squared: f64,
    audio_times_work: f64,
    expected_slope: Option<f64>,
}

impl CostModel {
    /// Records that a chunk of `audio_seconds` took `work_seconds` of an engine's time, without waiting.
    /// Ignores values that are not positive and finite.
    pub fn observe(&mut self, audio_seconds: f64, work_seconds: f64) {
        let is_sane = |seconds: f64| seconds > 0.0 && seconds.is_finite();
        if !is_sane(audio_seconds) || !is_sane(work_seconds) {
            return;
        }
        self.expected_slope
            .get_or_insert(work_seconds / SECONDS_TO_DOUBLE);
        let kept = 1.0 - WEIGHT;
        let fold = |old: f64, new: f64| old * kept + new;
        self.weight = fold(self.weight, 1.0);
        self.audio = fold(self.audio, audio_seconds);
        self.work = fold(self.work, work_seconds);
        self.audio_squared = fold(self.audio_squared, audio_seconds * audio_seconds);
        self.audio_times_work = fold(self.audio_times_work, audio_seconds * work_seconds);
    }

    /// The current estimate; `None` before the first observation. Neither part is negative.
    pub fn cost(&self) -> Option<Cost> {
        let expected = self.expected_slope?;
        let mean_audio = self.audio / self.weight;
        let mean_work = self.work / self.weight;
        let variance = (self.audio_squared / self.weight - mean_audio * mean_audio).max(0.0);
        let covariance = self.audio_times_work / self.weight - mean_audio * mean_work;
        let slope = (covariance + PRIOR_VARIANCE * expected) / (variance + PRIOR_VARIANCE);
        // The line goes through the mean point; the limits keep both parts from becoming negative.
        let slope = slope.clamp(0.0, mean_work / mean_audio);
        Some(Cost {
            fixed: mean_work - slope * mean_audio,
            slope,
        })
    }

    /// Rolling seconds of work per second of audio; smaller is faster.
    pub fn real_time_factor(&self) -> Option<f64> {
        (self.weight > 0.0).then(|| self.work / self.audio)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn model(points: &[(f64, f64)]) -> CostModel {
        let mut model = CostModel::default();
        for (audio, work) in points {
            model.observe(*audio, *work);
        }
        model
    }

    #[test]
    fn there_is_no_cost_before_the_first_chunk_and_invalid_values_are_ignored() {
        let model = model(&[
            (0.0, 1.0),
            (1.0, 0.0),
            (f64::NAN, 1.0),
            (1.0, f64::INFINITY),
        ]);
        assert_eq!((model.cost(), model.real_time_factor()), (None, None));
    }

    #[test]
    fn one_short_clip_does_not_overestimate_long_audio() {
        let cost = model(&[(1.8, 2.3)]).cost().expect("measured");
        assert!((cost.of(1.8, 1.0) - 2.3).abs() < 1e-9);
        // The plain ratio would predict 38 s.
        assert!(cost.of(30.0, 1.0) < 5.0, "{cost:?}");
    }

    #[test]
    fn chunks_of_different_lengths_reveal_both_parts() {
        let points: Vec<_> = (0..60)
            .map(|i| f64::from(i % 7) * 4.0 + 2.0)
            .map(|audio| (audio, 1.5 + 0.05 * audio))
            .collect();
        let cost = model(&points).cost().expect("measured");
        assert!((cost.fixed - 1.5).abs() < 0.1, "{cost:?}");
        assert!((cost.slope - 0.05).abs() < 0.01, "{cost:?}");
    }

    #[test]
    fn the_rate_follows_a_machine_that_becomes_slower() {
        let mut model = model(&[(10.0, 1.0); 50]);
        for _ in 0..50 {
            model.observe(10.0, 3.0);
        }
        let factor = model.real_time_factor().expect("measured");
        assert!((factor - 0.3).abs() < 0.01, "{factor}");
    }

    proptest! {
        #[test]
        fn costs_are_never_negative_and_meet_the_mean(
            points in prop::collection::vec((0.1_f64..30.0, 0.01_f64..60.0), 1..80),
        ) {
            let model = model(&points);
            let cost = model.cost().expect("measured");
            prop_assert!(cost.fixed >= -1e-9 && cost.slope >= 0.0, "{:?}", cost);
            let factor = model.real_time_factor().expect("measured");
            prop_assert!(factor > 0.0);
            let mean = model.audio / model.weight;
            prop_assert!((cost.of(mean, 1.0) - mean * factor).abs() < 1e-6);
        }
    }
}
