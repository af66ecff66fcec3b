//! The target length of chunks, from the cost of a chunk.
//!
//! A command may have to wait for a running chunk, so the work of a chunk should fit a latency budget.
//! But every chunk has a fixed cost: below the length at which that is half of the work, shorter chunks
//! would cost a long file more than they save a command.

use std::time::Duration;

use crate::status::cost::Cost;

/// The work of one chunk should not take longer than this.
const LATENCY_BUDGET: Duration = Duration::from_secs(3);
/// Shorter chunks cut sentences and leave whisper without context.
pub const SHORTEST_TARGET: Duration = Duration::from_secs(8);
/// Longer chunks leave no room for finding a pause before whisper's window of 30 s ends.
pub const LONGEST_TARGET: Duration = Duration::from_secs(28);

/// The target length of chunks: the longest whose work fits the latency budget, between
/// [`SHORTEST_TARGET`] and [`LONGEST_TARGET`]. `cost`: as measured on the hot lane.
pub fn target_length(cost: Option<Cost>) -> Duration {
    length_within(LATENCY_BUDGET, cost)
}

/// The longest length whose work fits a budget.
fn length_within(budget: Duration, cost: Option<Cost>) -> Duration {
    let Some(Cost { fixed, slope }) = cost else {
        return LONGEST_TARGET;
    };
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
/// The length doubles with each chunk until its work takes this long. Longer chunks are more accurate:
/// with chunks of at most 12 s, whisper makes a twelfth more errors in long recordings.
const STREAMED_BUDGET: Duration = Duration::from_secs(1);

/// The target length of chunk `index` of a streamed request. Short audio, by the length that its
/// container states (`claimed`), is not cut into shorter chunks.
pub fn streamed_length(cost: Option<Cost>, claimed: Option<Duration>, index: usize) -> Duration {
    if claimed.is_some_and(|claimed| claimed <= FIRST_STREAMED * 2) {
        return target_length(cost);
    }
    let doublings = index.min(8) as u32;
    let growing = FIRST_STREAMED * 2_u32.pow(doublings);
    growing.min(length_within(STREAMED_BUDGET, cost))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn target(fixed: f64, slope: f64) -> f64 {
        target_length(Some(Cost { fixed, slope })).as_secs_f64()
    }

    #[test]
    fn a_fast_lane_gets_long_chunks_and_a_slow_lane_short_ones() {
        assert_eq!(target_length(None), LONGEST_TARGET);
        assert!((target(0.1, 0.01) - 28.0).abs() < 1e-9);
        assert!((target(1.0, 0.1) - 20.0).abs() < 1e-9);
        assert!((target(1.0, 1.0) - 8.0).abs() < 1e-9);
    }

    #[test]
    fn a_high_fixed_cost_makes_chunks_longer() {
        assert!((target(6.0, 0.1) - 28.0).abs() < 1e-9);
        assert!((target(6.0, 0.5) - 12.0).abs() < 1e-9);
    }

    #[test]
    fn streamed_requests_begin_with_short_chunks_and_double_within_the_budget() {
        let hour = Some(Duration::from_secs(3600));
        for claimed in [None, hour] {
            let length = |index| streamed_length(None, claimed, index).as_secs();
            assert_eq!([0, 1, 2, 3, 1000].map(length), [5, 10, 20, 28, 28]);
        }
        let clip = Some(Duration::from_secs(10));
        assert_eq!(streamed_length(None, clip, 0), LONGEST_TARGET);
        let slower = Some(Cost {
            fixed: 0.1,
            slope: 0.06,
        });
        assert_eq!(streamed_length(slower, hour, 5), Duration::from_secs(15));
        let slow = Some(Cost {
            fixed: 1.0,
            slope: 1.0,
        });
        assert_eq!(streamed_length(slow, hour, 5), SHORTEST_TARGET);
    }

    proptest! {
        #[test]
        fn it_is_always_within_the_limits(fixed in 0.0_f64..100.0, slope in 0.0_f64..10.0) {
            let target = target_length(Some(Cost { fixed, slope }));
            prop_assert!((SHORTEST_TARGET..=LONGEST_TARGET).contains(&target));
        }
    }
}
