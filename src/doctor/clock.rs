//! The clock of this machine against those of its neighbours.

use std::time::SystemTime;

use super::finding::Finding;

/// Difference, in seconds, from which on a clock counts as wrong. A reply may take seconds, and the header `Date` has
/// whole ones.
const TOLERANCE: f64 = 8.0;

/// A clock of another machine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Clock {
    /// Seconds by which it is ahead of ours.
    ahead: f64,
}

impl Clock {
    /// A clock that shows `other` when ours shows `own`.
    pub(super) fn compare(other: SystemTime, own: SystemTime) -> Self {
        let ahead = match other.duration_since(own) {
            Ok(ahead) => ahead.as_secs_f64(),
            Err(behind) => -behind.duration().as_secs_f64(),
        };
        Self { ahead }
    }
}

/// Compares our clock with these; none gives no finding.
pub(super) fn examine(clocks: &[(&str, Clock)]) -> Option<Finding> {
    const CHECK: &str = "clock";
    let furthest =
        |a: &&(&str, Clock), b: &&(&str, Clock)| a.1.ahead.abs().total_cmp(&b.1.ahead.abs());
    let (name, clock) = clocks.iter().max_by(furthest)?;
    let seconds = clock.ahead.abs();
    if seconds <= TOLERANCE {
        let names: Vec<&str> = clocks.iter().map(|(name, _)| *name).collect();
        let what = format!("it agrees with the clock of {}", names.join(" and of "));
        return Some(Finding::ok(CHECK, what));
    }
    let direction = if clock.ahead > 0.0 {
        "behind"
    } else {
        "ahead of"
    };
    let what = format!("this machine's clock is {seconds:.0} s {direction} that of {name}");
    let why = "routers take the record of a node in Redis for old or for new by its time, and HTTPS certificates \
               may count as invalid";
    let fix = "sudo timedatectl set-ntp true, on both machines";
    Some(Finding::warning(CHECK, what, why).mended_by(fix))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::super::finding::Severity;
    use super::*;

    fn clock(ahead: f64) -> Clock {
        let own = UNIX_EPOCH + Duration::from_secs(1000);
        let other = UNIX_EPOCH + Duration::from_secs_f64(1000.0 + ahead);
        Clock::compare(other, own)
    }

    #[test]
    fn the_clock_that_differs_most_counts() {
        assert_eq!(examine(&[]), None);
        let near = [("Redis", clock(2.0)), ("the fallback", clock(-3.0))];
        let finding = examine(&near).expect("a finding");
        assert_eq!(finding.severity, Severity::Ok);
        let far = [("Redis", clock(2.0)), ("the fallback", clock(-90.0))];
        let finding = examine(&far).expect("a finding");
        assert_eq!(finding.severity, Severity::Warning);
        let expected = "this machine's clock is 90 s ahead of that of the fallback";
        assert_eq!(finding.what, expected);
        let finding = examine(&[("Redis", clock(60.0))]).expect("a finding");
        assert!(finding.what.contains("60 s behind"), "{finding:?}");
    }
}
