//! How slow an upload may be.
//!
//! A client that sends nothing for long is cut off elsewhere; one that trickles would hold its place,
//! its connection and its file for as long as it likes.

use std::time::Duration;

use tokio::time::Instant;

/// Slower than this on the average of a window, and it is no upload: a phone on a bad line brings ten
/// times as much.
const SLOWEST_BYTES_PER_SECOND: u64 = 500;
/// What the average is over.
pub const WINDOW: Duration = Duration::from_secs(30);

/// A line may stall for a window.
const MOST_SLOW_WINDOWS: u32 = 1;

/// An upload, watched.
#[derive(Debug)]
pub struct Pace {
    window_began: Instant,
    bytes: u64,
    /// Windows in a row that were too slow.
    slow: u32,
}

impl Pace {
    /// It begins now.
    pub fn begin() -> Self {
        Self {
            window_began: Instant::now(),
            bytes: 0,
            slow: 0,
        }
    }

    /// Takes in that so many bytes came. Gives whether it goes on fast enough.
    pub fn keeps(&mut self, bytes: usize) -> bool {
        self.bytes += bytes as u64;
        let elapsed = self.window_began.elapsed();
        if elapsed < WINDOW {
            return true;
        }
        let enough = SLOWEST_BYTES_PER_SECOND as f64 * elapsed.as_secs_f64();
        let is_slow = (self.bytes as f64) < enough;
        let slow = if is_slow { self.slow + 1 } else { 0 };
        *self = Self {
            slow,
            ..Self::begin()
        };
        slow <= MOST_SLOW_WINDOWS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn after(seconds: u64, bytes: usize, pace: &mut Pace) -> bool {
        tokio::time::advance(Duration::from_secs(seconds)).await;
        pace.keeps(bytes)
    }

    #[tokio::test(start_paused = true)]
    async fn a_trickle_is_noticed_after_two_windows_and_a_slow_line_is_not() {
        let mut trickle = Pace::begin();
        for _ in 0..59 {
            assert!(after(1, 100, &mut trickle).await);
        }
        assert!(!after(1, 100, &mut trickle).await);
        let mut slow = Pace::begin();
        for _ in 0..100 {
            assert!(after(10, 8000, &mut slow).await);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_fast_beginning_does_not_pay_for_a_trickle_later() {
        let mut pace = Pace::begin();
        assert!(after(1, 100_000_000, &mut pace).await);
        assert!(after(29, 100, &mut pace).await);
        assert!(after(30, 100, &mut pace).await);
        assert!(!after(30, 100, &mut pace).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_line_that_stalls_for_a_window_may_go_on() {
        let mut pace = Pace::begin();
        assert!(after(31, 6000, &mut pace).await);
        assert!(after(31, 100_000, &mut pace).await);
        assert!(after(31, 100, &mut pace).await);
    }
}
