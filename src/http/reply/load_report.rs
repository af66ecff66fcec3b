//! The header `endpoint-load-metrics` (ORCA), from which Envoy weighs nodes: how busy this node is, and how many
//! requests with audio it answers a second.
//!
//! Envoy's weighted round robin divides the rate by the utilization and takes the quotient as the weight. It ignores
//! reports in which either is zero. Both are therefore means over the last seconds, and never zero.

use std::sync::{Arc, Mutex, PoisonError};

use actix_web::http::header::{HeaderName, HeaderValue};
use stt_actors::Snapshot;
use tokio::time::Instant;

/// The header.
pub const ENDPOINT_LOAD_METRICS: HeaderName = HeaderName::from_static("endpoint-load-metrics");

/// Time constant of the means, in seconds: Envoy computes weights about once a second.
const MEMORY_SECONDS: f64 = 10.0;
/// The smallest utilization in a report.
const LEAST_UTILIZATION: f64 = 0.001;

/// The means over the last seconds. Clones refer to the same means.
#[derive(Clone, Debug, Default)]
pub struct LoadReport(Arc<Mutex<Means>>);

#[derive(Debug, Default)]
struct Means {
    /// When the last reply was counted.
    counted_at: Option<Instant>,
    /// Replies a second.
    rate: f64,
    /// Requests in the node for each lane; more than 1 while some wait.
    utilization: f64,
}

impl LoadReport {
    /// Counts the reply to a request with audio, and returns the value of the header.
    pub fn count(&self, snapshot: &Snapshot) -> Option<HeaderValue> {
        let mut means = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // The request whose reply this is may have given its slot back already.
        let requests = snapshot.requests.max(1) as f64;
        means.count(Instant::now(), requests / snapshot.lanes().max(1) as f64);
        let text = means.text(snapshot.load_score());
        drop(means);
        HeaderValue::from_str(&text).ok()
    }
}

impl Means {
    fn count(&mut self, now: Instant, utilization: f64) {
        let Some(last) = self.counted_at.replace(now) else {
            (self.rate, self.utilization) = (1.0 / MEMORY_SECONDS, utilization);
            return;
        };
        let elapsed = now.saturating_duration_since(last).as_secs_f64();
        let kept = (-elapsed / MEMORY_SECONDS).exp();
        self.rate = self.rate * kept + 1.0 / MEMORY_SECONDS;
        // The node had this utilization since the last reply, and a reply that follows at once still counts a little.
        let weight = (1.0 - kept).max(0.01);
        self.utilization += (utilization - self.utilization) * weight;
    }

    fn text(&self, load_score: f64) -> String {
        let utilization = self.utilization.max(LEAST_UTILIZATION);
        let rate = self.rate;
        format!(
            "TEXT application_utilization={utilization:.4},rps_fractional={rate:.4},\
             named_metrics.load_score={load_score:.3}"
        )
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_means_follow_what_happens_and_are_never_zero() {
        let mut means = Means::default();
        let begin = Instant::now();
        means.count(begin, 0.0);
        assert!(
            means
                .text(0.0)
                .contains("application_utilization=0.0010,rps_fractional=0.1000")
        );
        // Four replies a second for a minute, by a node with two requests for each lane.
        for number in 1..=240 {
            means.count(begin + Duration::from_millis(250) * number, 2.0);
        }
        assert!((means.rate - 4.0).abs() < 0.2, "{means:?}");
        assert!((means.utilization - 2.0).abs() < 0.02, "{means:?}");
        // A minute later, little is left of it.
        means.count(begin + Duration::from_secs(120), 0.5);
        assert!((means.rate - 0.1).abs() < 0.02, "{means:?}");
        assert!((means.utilization - 0.5).abs() < 0.02, "{means:?}");
        assert!(means.text(0.25).ends_with("named_metrics.load_score=0.250"));
    }
}
