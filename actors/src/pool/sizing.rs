//! How many lanes the work is worth.
//!
//! One more worker pays if the work is done sooner with it than without: with `W` seconds of work and a start of
//! `S` seconds, the N-th lane saves `W/(N−1) − W/N` seconds and loses its start, during which the other lanes
//! continue. The result is the largest N with `N·(N−1) < 2·W/S`.

/// The work and the cost of a start.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Demand {
    /// Remaining work, in seconds of one lane: waiting, running and not yet decoded.
    pub work_seconds: f64,
    /// Number of chunks: more lanes than chunks are of no use.
    pub chunks: usize,
    /// Start time of a cold worker, in seconds.
    pub start_seconds: f64,
}

/// The number of lanes that the work is worth, the hot one included; 0 without work.
pub fn lanes_worth(demand: Demand) -> usize {
    if demand.chunks == 0 || demand.work_seconds <= 0.0 {
        return 0;
    }
    // With a start time of zero, the number would be unlimited.
    let ratio = 2.0 * demand.work_seconds / demand.start_seconds.max(0.01);
    let mut lanes = (0.5 + (0.25 + ratio).sqrt()).floor();
    // N must stay below the boundary, and the root may be rounded up.
    while lanes > 1.0 && lanes * (lanes - 1.0) >= ratio {
        lanes -= 1.0;
    }
    (lanes as usize).clamp(1, demand.chunks)
}

/// Limits on the number of cold workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolLimits {
    /// `COLD_POOL_SIZE`, or a default from the machine's cores.
    pub size: usize,
    /// Temporary limit after a worker ran out of memory.
    pub memory_cap: Option<usize>,
}

impl PoolLimits {
    /// The number of cold workers for this demand.
    pub fn wanted(self, demand: Demand) -> usize {
        let cold = lanes_worth(demand).saturating_sub(1);
        cold.min(self.size)
            .min(self.memory_cap.unwrap_or(usize::MAX))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn demand(work_seconds: f64, chunks: usize, start_seconds: f64) -> Demand {
        Demand {
            work_seconds,
            chunks,
            start_seconds,
        }
    }

    #[test]
    fn no_work_wants_no_lane_and_one_chunk_wants_one() {
        assert_eq!(lanes_worth(demand(0.0, 0, 8.0)), 0);
        assert_eq!(lanes_worth(demand(1000.0, 1, 0.5)), 1);
    }

    #[test]
    fn a_start_that_takes_longer_than_the_work_is_not_worth_it() {
        // N·(N−1) < 2·W/S: a second lane pays once the work is longer than the start.
        assert_eq!(lanes_worth(demand(8.0, 9, 8.0)), 1);
        assert_eq!(lanes_worth(demand(8.1, 9, 8.0)), 2);
        assert_eq!(lanes_worth(demand(24.0, 9, 8.0)), 2);
        assert_eq!(lanes_worth(demand(24.1, 9, 8.0)), 3);
    }

    #[test]
    fn limits_hold_and_the_stricter_one_counts() {
        let much = demand(1e6, 500, 1.0);
        let limits = |size, memory_cap| PoolLimits { size, memory_cap };
        assert_eq!(limits(10, None).wanted(much), 10);
        assert_eq!(limits(10, Some(2)).wanted(much), 2);
        assert_eq!(limits(0, None).wanted(much), 0);
        assert_eq!(limits(10, None).wanted(demand(0.0, 0, 1.0)), 0);
    }

    proptest! {
        #[test]
        fn it_is_the_largest_number_that_meets_the_formula(
            work in 0.001_f64..100_000.0,
            start in 0.01_f64..100.0,
            chunks in 1_usize..1000,
        ) {
            let lanes = lanes_worth(demand(work, chunks, start));
            let ratio = 2.0 * work / start;
            let by_search = (1..=chunks)
                .take_while(|n| *n == 1 || (n * (n - 1)) as f64 + 1e-9 < ratio)
                .last()
                .unwrap_or(1);
            // At the boundary itself, rounding decides.
            prop_assert!(lanes.abs_diff(by_search) <= usize::from((by_search * (by_search + 1)) as f64 - ratio < 1e-6));
        }

        #[test]
        fn more_work_never_wants_fewer_lanes_nor_a_slower_start_more(
            work in 0.0_f64..1000.0,
            more in 0.0_f64..1000.0,
            start in 0.01_f64..50.0,
            slower in 0.0_f64..50.0,
            chunks in 0_usize..100,
        ) {
            let base = lanes_worth(demand(work, chunks, start));
            prop_assert!(lanes_worth(demand(work + more, chunks, start)) >= base);
            prop_assert!(lanes_worth(demand(work, chunks, start + slower)) <= base);
        }
    }
}
