//! The target length of chunks, from the cost of a chunk.
//!
//! A command may have to wait for a running chunk, so the work of a chunk should fit a latency budget.
//! But every chunk has a fixed cost: below the length at which that is half of the work, shorter chunks
//! would cost a long file more than they save a command. Before anything is measured, chunks are short.

use std::time::Duration;

use crate::status::cost::Cost;

/// The work of one chunk should not take longer than this.
const LATENCY_BUDGET: Duration = Duration::from_secs(3);
/// Shorter chunks cut sentences and leave whisper without context.
pub const SHORTEST_TARGET: Duration = Duration::from_secs(8);
/// Longer chunks leave no room for finding a pause before whisper's window of 30 s ends.
pub const LONGEST_TARGET: Duration = Duration::from_secs(28);

/// The target length of chunks: the longest whose work fits the latency budget, between
/// [`SHORTEST_TARGET`] and [`LONGEST_TARGET`]. `cost`: as measured on the hot lane; `None`: not yet.
pub fn target_length(cost: Option<Cost>) -> Duration {
    length_within(LATENCY_BUDGET, cost)
}

/// The longest length whose work fits a budget.
fn length_within(budget: Duration, cost: Option<Cost>) -> Duration {
    let Cost { fixed, slope } = cost.unwrap_or(Cost::UNMEASURED);
    let fits = (budget.as_secs_f64() - fixed) / slope;
    let pays = fixed / slope;
    // With a slope of zero these are infinite or NaN: every length costs the same.
    let seconds = if slope > 0.0 {
        fits.max(pays)
    } else {
        f64::INFINITY
    };
    let (shortest, longest) = (SHORTEST_TARGET.as_secs_f64(), LONGEST_TARGET.as_secs_f64());
    Duration::from_secs_f64(seconds.clamp(shortest, longest))
}

/// Target length of the first chunk of a streamed request.
const FIRST_STREAMED: Duration = Duration::from_secs(5);
/// Streamed audio that ends within this is not cut into shorter chunks.
pub const SHORT_STREAMED: Duration = Duration::from_secs(10);
/// The length doubles with each chunk until its work takes this long. Longer chunks are more accurate:
/// with chunks of at most 12 s, whisper makes a twelfth more errors in long recordings.
const STREAMED_BUDGET: Duration = Duration::from_secs(1);

/// The target length of chunk `index` of a streamed request that is longer than [`SHORT_STREAMED`].
pub fn streamed_length(cost: Option<Cost>, index: usize) -> Duration {
    let doublings = index.min(8) as u32;
    let growing = FIRST_STREAMED * 2_u32.pow(doublings);
    growing.min(length_within(STREAMED_BUDGET, cost))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cost(fixed: f64, slope: f64) -> Cost {
        Cost { fixed, slope }
    }

    fn target(fixed: f64, slope: f64) -> f64 {
        target_length(Some(cost(fixed, slope))).as_secs_f64()
    }

    #[test]
    fn a_fast_lane_gets_long_chunks_and_a_slow_lane_short_ones() {
        assert!((target(0.1, 0.01) - 28.0).abs() < 1e-9);
        assert!((target(1.0, 0.1) - 20.0).abs() < 1e-9);
        assert!((target(1.0, 1.0) - 8.0).abs() < 1e-9);
    }

    #[test]
    fn before_the_cost_is_known_chunks_are_short() {
        assert_eq!(target_length(None), SHORTEST_TARGET);
    }

    #[test]
    fn a_high_fixed_cost_makes_chunks_longer() {
        assert!((target(6.0, 0.1) - 28.0).abs() < 1e-9);
        assert!((target(6.0, 0.5) - 12.0).abs() < 1e-9);
    }

    #[test]
    fn streamed_requests_begin_with_short_chunks_and_double_within_the_budget() {
        let length = |fixed, slope, index| streamed_length(Some(cost(fixed, slope)), index);
        let fast = |index| length(0.1, 0.01, index).as_secs();
        assert_eq!([0, 1, 2, 3, 1000].map(fast), [5, 10, 20, 28, 28]);
        assert_eq!(length(0.1, 0.06, 5), Duration::from_secs(15));
        assert_eq!(length(1.0, 1.0, 5), SHORTEST_TARGET);
        let unmeasured = [0, 1, 2].map(|index| streamed_length(None, index).as_secs());
        assert_eq!(unmeasured, [5, 8, 8]);
    }

    proptest! {
        #[test]
        fn it_is_always_within_the_limits(fixed in 0.0_f64..100.0, slope in 0.0_f64..10.0) {
            let target = target_length(Some(cost(fixed, slope)));
            prop_assert!((SHORTEST_TARGET..=LONGEST_TARGET).contains(&target));
        }
    }
}
