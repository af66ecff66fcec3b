//! A report of each attempt, for the logs and metrics of the calling program.

use std::sync::Arc;
use std::time::Duration;

use crate::error::Error;
use crate::headers::ServerHeaders;

/// A finished attempt.
#[derive(Debug)]
#[non_exhaustive]
pub struct Attempt<'a> {
    /// The server's address, without user and password.
    pub server: &'a str,
    /// HTTP method.
    pub method: &'a str,
    /// Path of the request.
    pub path: &'a str,
    /// Number of the attempt, from 1.
    pub attempt: u32,
    /// HTTP status, if the server replied.
    pub status: Option<u16>,
    /// The error, if the attempt failed.
    pub error: Option<&'a Error>,
    /// Time from the start to the end of the reply; for a streamed reply, to the end of its head.
    pub duration: Duration,
    /// Wait before the next attempt, if one follows.
    pub will_retry: Option<Duration>,
    /// The reply's headers, with the request id and the server's timings.
    pub headers: &'a ServerHeaders,
}

/// A hook for attempts. The client calls it between attempts, so it should return quickly.
pub trait Telemetry: Send + Sync + 'static {
    /// Called after each attempt.
    fn attempt(&self, attempt: &Attempt<'_>);
}

impl<F> Telemetry for F
where
    F: Fn(&Attempt<'_>) + Send + Sync + 'static,
{
    fn attempt(&self, attempt: &Attempt<'_>) {
        self(attempt);
    }
}

/// The hook, if one is set.
pub(crate) type Hook = Option<Arc<dyn Telemetry>>;
