//! Comparisons of two systems with their confidence intervals.

use serde::Serialize;

use crate::probe::statistics::mean;
use crate::probe::word_error_rate::Score;

/// Number of resamplings of a bootstrap.
const RESAMPLINGS: usize = 10_000;
/// A fixed seed, so that the same samples give the same interval.
const SEED: u64 = 2_026;

/// Comparison of two systems as a ratio or a difference, with its bounds if they are known. Also used for the
/// figure of a single system.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// Value from all samples.
    pub value: f64,
    /// Lower and upper bound.
    pub bounds: Option<(f64, f64)>,
}

/// Ratio of the means of pairs `(ours, theirs)`, theirs / ours, with the 95 % interval of a paired bootstrap.
/// `None` if there are no pairs.
pub fn ratio_by_bootstrap(pairs: &[(f64, f64)]) -> Option<Comparison> {
    let ratio = |drawn: &mut dyn Iterator<Item = &(f64, f64)>| {
        let sums = drawn.fold((0.0, 0.0), |sums, pair| (sums.0 + pair.0, sums.1 + pair.1));
        sums.1 / sums.0
    };
    bootstrap(pairs, ratio)
}

/// Difference of two word error rates in percentage points, theirs - ours, with the same interval.
pub fn word_error_difference(pairs: &[(Score, Score)]) -> Option<Comparison> {
    let difference = |drawn: &mut dyn Iterator<Item = &(Score, Score)>| {
        let (mut ours, mut theirs, mut words) = (0, 0, 0);
        for (our, their) in drawn {
            ours += our.edits;
            theirs += their.edits;
            words += our.words;
        }
        100.0 * (theirs as f64 - ours as f64) / words.max(1) as f64
    };
    bootstrap(pairs, difference)
}

/// A word error rate in percent, with the same interval.
pub fn word_error_rate(scores: &[Score]) -> Option<Comparison> {
    let rate = |drawn: &mut dyn Iterator<Item = &Score>| {
        let sums = drawn.fold(Score::default(), |sums, score| Score {
            edits: sums.edits + score.edits,
            words: sums.words + score.words,
        });
        100.0 * sums.rate()
    };
    bootstrap(scores, rate)
}

/// A figure of all samples, and its bounds in 95 % of the resamplings.
fn bootstrap<T>(
    samples: &[T],
    figure: impl Fn(&mut dyn Iterator<Item = &T>) -> f64,
) -> Option<Comparison> {
    if samples.is_empty() {
        return None;
    }
    let value = figure(&mut samples.iter());
    if samples.len() == 1 {
        let bounds = None;
        return Some(Comparison { value, bounds });
    }
    let mut random = fastrand::Rng::with_seed(SEED);
    let mut drawn: Vec<f64> = (0..RESAMPLINGS)
        .map(|_| figure(&mut (0..samples.len()).map(|_| &samples[random.usize(..samples.len())])))
        .collect();
    drawn.sort_by(f64::total_cmp);
    let at = |share: f64| drawn[(RESAMPLINGS as f64 * share) as usize];
    let bounds = Some((at(0.025), at(0.975)));
    Some(Comparison { value, bounds })
}

/// Ratio of the means of a few pairs, with the minimum and maximum ratio of a single pair.
pub fn ratio_by_range(pairs: &[(f64, f64)]) -> Option<Comparison> {
    let (ours, theirs): (Vec<f64>, Vec<f64>) = pairs.iter().copied().unzip();
    let value = mean(&theirs)? / mean(&ours)?;
    let ratios = || pairs.iter().map(|(ours, theirs)| theirs / ours);
    let bounds = (
        ratios().fold(f64::INFINITY, f64::min),
        ratios().fold(f64::NEG_INFINITY, f64::max),
    );
    let bounds = (pairs.len() > 1).then_some(bounds);
    Some(Comparison { value, bounds })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_constant_ratio_has_no_spread_and_no_samples_have_no_ratio() {
        let pairs: Vec<(f64, f64)> = (1..20).map(|n| (f64::from(n), f64::from(2 * n))).collect();
        let found = ratio_by_bootstrap(&pairs).unwrap();
        let bounds = found.bounds.unwrap();
        assert!((found.value - 2.0).abs() < 1e-9);
        assert!((bounds.0 - 2.0).abs() < 1e-9 && (bounds.1 - 2.0).abs() < 1e-9);
        assert_eq!(ratio_by_bootstrap(&[]), None);
        assert_eq!(ratio_by_bootstrap(&[(1.0, 2.0)]).unwrap().bounds, None);
    }

    #[test]
    fn the_same_samples_give_the_same_interval() {
        let pairs = [(1.0, 2.0), (1.5, 1.0), (3.0, 7.0)];
        assert_eq!(ratio_by_bootstrap(&pairs), ratio_by_bootstrap(&pairs));
    }

    #[test]
    fn word_errors_are_compared_in_points() {
        let score = |edits| Score { edits, words: 10 };
        let found = word_error_difference(&[(score(1), score(3)), (score(2), score(2))]).unwrap();
        assert!((found.value - 10.0).abs() < 1e-9);
        assert_eq!(found.bounds, Some((0.0, 20.0)));
    }

    #[test]
    fn words_of_all_texts_are_counted_together() {
        let scores = [(0, 1), (3, 9)].map(|(edits, words)| Score { edits, words });
        let found = word_error_rate(&scores).unwrap();
        assert!((found.value - 30.0).abs() < 1e-9);
        let (low, high) = found.bounds.unwrap();
        assert!(low.abs() < 1e-9 && (high - 100.0 / 3.0).abs() < 1e-9);
    }

    #[test]
    fn a_few_pairs_have_their_range_as_bounds() {
        let found = ratio_by_range(&[(1.0, 2.0), (2.0, 3.0)]).unwrap();
        assert!((found.value - 5.0 / 3.0).abs() < 1e-9);
        assert_eq!(found.bounds, Some((1.5, 2.0)));
        assert_eq!(ratio_by_range(&[(1.0, 2.0)]).unwrap().bounds, None);
        assert_eq!(ratio_by_range(&[]), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(8))]
        #[test]
        fn an_interval_lies_within_the_ratios_of_single_pairs(
            pairs in prop::collection::vec((0.1_f64..10.0, 0.1_f64..10.0), 2..20)
        ) {
            let found = ratio_by_bootstrap(&pairs).unwrap();
            let (low, high) = found.bounds.unwrap();
            let range = ratio_by_range(&pairs).unwrap().bounds.unwrap();
            prop_assert!(low <= high);
            prop_assert!(range.0 - 1e-9 <= low && high <= range.1 + 1e-9);
        }
    }
}
