//! A minimum rate for uploads.
//!
//! A client that sends a few bytes now and then would hold its admission slot, connection and file for an
//! hour. (A client that sends nothing runs into the stall timeout.)

use std::time::Duration;

use tokio::time::Instant;

/// The minimum average rate in a window. A phone on a bad line reaches ten times as much.
const MIN_BYTES_PER_SECOND: u64 = 500;
/// The length of a window.
pub const WINDOW: Duration = Duration::from_secs(30);

/// The most slow windows in a row: a connection may stall for one.
const MAX_SLOW_WINDOWS: u32 = 1;

/// Measures the rate of one upload.
#[derive(Debug)]
pub struct UploadRate {
    window_start: Instant,
    bytes: u64,
    /// Windows in a row that were too slow.
    slow_windows: u32,
}

impl UploadRate {
    /// Starts to measure now.
    pub fn new() -> Self {
        Self {
            window_start: Instant::now(),
            bytes: 0,
            slow_windows: 0,
        }
    }

    /// Counts bytes that arrived, and returns whether the upload is still fast enough.
    pub fn is_sufficient_after(&mut self, bytes: usize) -> bool {
        self.bytes += bytes as u64;
        let elapsed = self.window_start.elapsed();
        if elapsed < WINDOW {
            return true;
        }
        let enough = MIN_BYTES_PER_SECOND as f64 * elapsed.as_secs_f64();
        let is_slow = (self.bytes as f64) < enough;
        let slow_windows = if is_slow { self.slow_windows + 1 } else { 0 };
        *self = Self {
            slow_windows,
            ..Self::new()
        };
        slow_windows <= MAX_SLOW_WINDOWS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn after(seconds: u64, bytes: usize, rate: &mut UploadRate) -> bool {
        tokio::time::advance(Duration::from_secs(seconds)).await;
        rate.is_sufficient_after(bytes)
    }

    #[tokio::test(start_paused = true)]
    async fn a_trickle_fails_after_two_windows_and_a_slow_upload_passes() {
        let mut trickle = UploadRate::new();
        for _ in 0..59 {
            assert!(after(1, 100, &mut trickle).await);
        }
        assert!(!after(1, 100, &mut trickle).await);
        let mut slow = UploadRate::new();
        for _ in 0..100 {
            assert!(after(10, 8000, &mut slow).await);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_fast_start_does_not_excuse_a_trickle_later() {
        let mut rate = UploadRate::new();
        assert!(after(1, 100_000_000, &mut rate).await);
        assert!(after(29, 100, &mut rate).await);
        assert!(after(30, 100, &mut rate).await);
        assert!(!after(30, 100, &mut rate).await);
    }

    #[tokio::test(start_paused = true)]
    async fn an_upload_may_stall_for_one_window() {
        let mut rate = UploadRate::new();
        assert!(after(31, 6000, &mut rate).await);
        assert!(after(31, 100_000, &mut rate).await);
        assert!(after(31, 100, &mut rate).await);
    }
}
