//! Checks a claimed length without decoding: the durations of all packets, which ffmpeg lists in the format
//! framecrc.

use std::time::Duration;

/// No speech codec needs fewer bits per second over a whole file. A file that claims to be longer than its bytes
/// allow at this rate is probably shorter.
const LOWEST_BIT_RATE: f64 = 6000.0;

/// Longer lines are no packets.
const LONGEST_LINE: usize = 512;

/// Whether a file of this size can hardly be so long.
pub(super) fn is_implausible(claimed: Duration, bytes: u64) -> bool {
    bytes as f64 * 8.0 < claimed.as_secs_f64() * LOWEST_BIT_RATE
}

/// The length of the packets so far.
pub(super) struct PacketCount {
    line: Vec<u8>,
    /// Seconds per unit of a duration.
    unit: f64,
    seconds: f64,
    limit: Duration,
}

impl PacketCount {
    /// A count that ends when it exceeds `limit`.
    pub(super) fn new(limit: Duration) -> Self {
        Self {
            line: Vec::new(),
            unit: 0.0,
            seconds: 0.0,
            limit,
        }
    }

    /// Adds output of ffmpeg; nothing means its end. Returns whether the count has ended.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> bool {
        for &byte in bytes {
            if byte == b'\n' {
                let line = std::mem::take(&mut self.line);
                self.count(&String::from_utf8_lossy(&line));
            } else if self.line.len() < LONGEST_LINE {
                self.line.push(byte);
            }
        }
        bytes.is_empty() || self.length() > self.limit
    }

    /// The length of all packets.
    pub(super) fn length(&self) -> Duration {
        Duration::try_from_secs_f64(self.seconds).unwrap_or(Duration::MAX)
    }

    /// Reads `#tb 0: 1/48000`, or `0, dts, pts, duration, size, checksum`.
    fn count(&mut self, line: &str) {
        if let Some((numerator, denominator)) = line
            .strip_prefix("#tb 0: ")
            .and_then(|unit| unit.split_once('/'))
        {
            let parse = |number: &str| number.trim().parse::<f64>().unwrap_or(0.0);
            self.unit = parse(numerator) / parse(denominator).max(1.0);
        } else if !line.starts_with('#') {
            let duration = line
                .split(',')
                .nth(3)
                .and_then(|column| column.trim().parse::<f64>().ok());
            self.seconds += duration.unwrap_or(0.0).max(0.0) * self.unit;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &[u8] = b"#software: Lavf59.27.100\n#tb 0: 1/1000\n#media_type 0: audio\n\
        0,        -25,        -25,       20,       80, 0x1f2e3d4c\n\
        0,  999999999,  999999999,       20,       80, 0x1f2e3d4c, F=0x0\n\
        0,         15,         15,    -5000,       80, 0x1f2e3d4c\n";

    #[test]
    fn durations_are_added_whatever_the_times_are() {
        for size in [1, 7, 1000] {
            let mut count = PacketCount::new(Duration::from_secs(60));
            assert!(LIST.chunks(size).all(|part| !count.feed(part)));
            assert!(count.feed(b""), "the end");
            assert_eq!(count.length(), Duration::from_millis(40));
        }
    }

    #[test]
    fn the_count_ends_at_its_limit() {
        let mut count = PacketCount::new(Duration::from_millis(30));
        assert!(count.feed(LIST));
    }

    #[test]
    fn a_length_is_implausible_if_no_codec_is_so_small() {
        let hour = Duration::from_secs(3600);
        assert!(is_implausible(hour, 80_000));
        assert!(!is_implausible(hour, 4_000_000));
        assert!(is_implausible(Duration::from_secs(100_000), 28_000_000));
    }
}
