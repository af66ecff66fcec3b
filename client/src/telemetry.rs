//! What happened at each attempt, for logs and metrics of the program around.

use std::sync::Arc;
use std::time::Duration;

use crate::error::Error;
use crate::headers::ServerHeaders;

/// One attempt, when it is over.
#[derive(Debug)]
#[non_exhaustive]
pub struct Attempt<'a> {
    /// The server's address, without what may be secret in it.
    pub server: &'a str,
    /// HTTP method.
    pub method: &'a str,
    /// Path below the address.
    pub path: &'a str,
    /// From 1.
    pub attempt: u32,
    /// HTTP status, where there was a reply.
    pub status: Option<u16>,
    /// Why it failed, if it did.
    pub error: Option<&'a Error>,
    /// From its beginning to the end of the reply; of a streamed reply to the end of its head.
    pub duration: Duration,
    /// After how long another attempt follows, if one does.
    pub will_retry: Option<Duration>,
    /// The reply's headers: the name of the request, where the server's time went.
    pub headers: &'a ServerHeaders,
}

/// Hears of attempts. It is called between them, so it should be quick.
pub trait Telemetry: Send + Sync + 'static {
    /// An attempt is over.
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

/// Who hears, if anybody does.
pub(crate) type Hook = Option<Arc<dyn Telemetry>>;
