//! How long chunks should be: a plain decision from what a chunk costs.
//!
//! A chunk's work is what a command may have to wait for, so it should fit a latency budget. But
//! whisper pays a fixed price for every chunk: below the length at which that price is half of the
//! work, shorter chunks would cost a long file more than they save a command.

use std::time::Duration;

use crate::status::cost::Cost;

/// The work that one chunk may be, where its length can see to that.
const LATENCY_BUDGET: Duration = Duration::from_secs(3);
/// Shorter chunks cut sentences and leave whisper without context.
pub const SHORTEST_TARGET: Duration = Duration::from_secs(8);
/// Longer ones leave no room to look for a pause before whisper's window ends.
pub const LONGEST_TARGET: Duration = Duration::from_secs(28);

/// The length that chunks should have, about: the longest one whose work fits the budget, within
/// the limits above. `cost`: what was measured on the hot lane.
pub fn target_length(cost: Option<Cost>) -> Duration {
    length_within(LATENCY_BUDGET, cost)
}

/// The longest whose work fits a budget.
fn length_within(budget: Duration, cost: Option<Cost>) -> Duration {
    let Some(Cost { fixed, slope }) = cost else {
        return LONGEST_TARGET;
    };
    let fits = (budget.as_secs_f64() - fixed) / slope;
    let pays = fixed / slope;
    // A slope of nothing makes these infinite or no number at all: any length is as good.
    let seconds = if slope > 0.0 {
        fits.max(pays)
    } else {
        f64::INFINITY
    };
    let (shortest, longest) = (SHORTEST_TARGET.as_secs_f64(), LONGEST_TARGET.as_secs_f64());
    Duration::from_secs_f64(seconds.clamp(shortest, longest))
}

/// The first chunk of a request whose text is read along is only so long.
const FIRST_STREAMED: Duration = Duration::from_secs(5);
/// Later ones double until a reader would wait for longer than this; whisper does better with more of a
/// sentence: with chunks of at most 12 s, it makes a twelfth more errors in long recordings.
const STREAMED_BUDGET: Duration = Duration::from_secs(1);

/// The length of a chunk of a request whose text is read along. What is short as a whole (`claimed`: by
/// its container's word) is not cut for that. `index`: the chunk's number.
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
    fn a_fast_lane_takes_long_chunks_and_a_slow_one_short_chunks() {
        assert_eq!(target_length(None), LONGEST_TARGET);
        assert!((target(0.1, 0.01) - 28.0).abs() < 1e-9);
        assert!((target(1.0, 0.1) - 20.0).abs() < 1e-9);
        assert!((target(1.0, 1.0) - 8.0).abs() < 1e-9);
    }

    #[test]
    fn where_most_of_the_work_is_fixed_short_chunks_would_save_nobody_anything() {
        assert!((target(6.0, 0.1) - 28.0).abs() < 1e-9);
        assert!((target(6.0, 0.5) - 12.0).abs() < 1e-9);
    }

    #[test]
    fn text_that_is_read_along_comes_soon_and_no_reader_waits_long() {
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
