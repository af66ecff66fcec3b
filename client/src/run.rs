//! Runs a call from its first attempt to its last.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::call::{Call, Read};
use crate::error::Error;
use crate::node::{Node, Seen};
use crate::pool::Lease;
use crate::retry::RetryPolicy;
use crate::telemetry::Attempt;

/// The servers to choose from.
pub(crate) trait Nodes: Send + Sync {
    /// Picks a server for the next attempt, if possible one that was not tried; `None`: there is none.
    fn pick(&self, tried: &[usize]) -> Option<Picked>;

    /// Whether another server, which was not tried, is available now.
    fn has_another(&self, tried: &[usize]) -> bool;
}

/// A server for one attempt.
pub(crate) struct Picked {
    pub index: usize,
    pub node: Arc<Node>,
    /// The attempt's entry in the pool's accounts.
    pub lease: Lease,
}

/// Time limits and retries.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub retry: RetryPolicy,
    /// For the whole call.
    pub timeout: Option<Duration>,
    pub attempt_timeout: Option<Duration>,
    /// Time limit for silence within a streamed reply.
    pub idle_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            retry: RetryPolicy::default(),
            timeout: Some(Duration::from_secs(600)),
            attempt_timeout: None,
            idle_timeout: Duration::from_secs(60),
        }
    }
}

/// Makes attempts until one succeeds or no further one is allowed.
pub(crate) async fn run<T>(
    nodes: &dyn Nodes,
    limits: &Limits,
    call: &Call,
    read: Read<T>,
) -> Result<(T, Lease), Error> {
    let deadline = Deadline::of(call.timeout.or(limits.timeout));
    let mut attempts = Attempts::default();
    loop {
        let Some(picked) = nodes.pick(&attempts.tried) else {
            let error = Error::Connect("no server has registered itself".to_owned());
            let wait = attempts.wait_for_a_server(&limits.retry, &error);
            let Some(wait) = wait.filter(|wait| deadline.allows(*wait)) else {
                return Err(error);
            };
            tokio::time::sleep(wait).await;
            continue;
        };
        let begin = Instant::now();
        let mut seen = Seen::default();
        let attempt = picked.node.attempt(call, read, &mut seen);
        let result = deadline.bound(limits.attempt_timeout, attempt).await;
        let Picked {
            index,
            node,
            mut lease,
        } = picked;
        if !(call.streamed && result.is_ok()) {
            lease.over(result.as_ref().err());
        }
        attempts.made += 1;
        let wait = result.as_ref().err().and_then(|error| {
            let wait = attempts.wait(nodes, &limits.retry, index, error);
            wait.filter(|wait| call.can_be_sent() && deadline.allows(*wait))
        });
        let over = Attempt {
            server: &node.shown,
            method: call.method.as_str(),
            path: &call.path,
            attempt: attempts.made,
            status: seen.status,
            error: result.as_ref().err(),
            duration: begin.elapsed(),
            will_retry: wait,
            headers: &seen.headers,
        };
        let latency = (!call.streamed).then_some(over.duration);
        node.recorder.record(over.error, latency);
        if let Some(hook) = &node.telemetry {
            hook.attempt(&over);
        }
        match (result, wait) {
            (Ok(reply), _) => return Ok((reply, lease)),
            (Err(error), None) => return Err(error),
            (Err(_), Some(wait)) => {
                drop(lease);
                // A timer takes a millisecond even for a wait of zero.
                if !wait.is_zero() {
                    tokio::time::sleep(wait).await;
                }
            }
        }
    }
}

/// The attempts so far.
#[derive(Default)]
struct Attempts {
    made: u32,
    /// Servers tried since the last wait.
    tried: Vec<usize>,
    /// How often all available servers were tried.
    rounds: u32,
}

impl Attempts {
    /// The wait before the next attempt after a failed one; `None`: no further attempt. Another server is
    /// tried at once; when all were tried, the policy decides.
    fn wait(
        &mut self,
        nodes: &dyn Nodes,
        policy: &RetryPolicy,
        index: usize,
        error: &Error,
    ) -> Option<Duration> {
        self.tried.push(index);
        if error.is_retryable() && nodes.has_another(&self.tried) {
            return Some(Duration::ZERO);
        }
        self.wait_for_a_server(policy, error)
    }

    /// The wait before all servers are tried again.
    fn wait_for_a_server(&mut self, policy: &RetryPolicy, error: &Error) -> Option<Duration> {
        self.rounds += 1;
        self.tried.clear();
        policy.wait(self.rounds, error, fastrand::f64())
    }
}

/// The time limit of a call.
struct Deadline {
    limit: Duration,
    at: Option<Instant>,
}

impl Deadline {
    fn of(limit: Option<Duration>) -> Self {
        Self {
            limit: limit.unwrap_or_default(),
            // A limit that overflows the clock counts as none.
            at: limit.and_then(|limit| Instant::now().checked_add(limit)),
        }
    }

    /// Whether time is left after a wait.
    fn allows(&self, wait: Duration) -> bool {
        let at = Instant::now().checked_add(wait);
        self.at.is_none_or(|end| at.is_some_and(|at| at < end))
    }

    /// Ends an attempt at its own time limit or at that of the call.
    async fn bound<T>(
        &self,
        own: Option<Duration>,
        attempt: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let own_end = own.and_then(|own| Some((Instant::now().checked_add(own)?, own)));
        let (end, limit, whole) = match (self.at, own_end) {
            (Some(at), Some((own_end, own))) if own_end < at => (own_end, own, false),
            (Some(at), _) => (at, self.limit, true),
            (None, Some((own_end, own))) => (own_end, own, false),
            (None, None) => return attempt.await,
        };
        let over = |_| Err(Error::Timeout { limit, whole });
        tokio::time::timeout_at(end, attempt)
            .await
            .unwrap_or_else(over)
    }
}
