//! Why there is no transcript.

use std::io;
use std::time::Duration;

use thiserror::Error;

use crate::status::StatusError;

/// Why a call failed. No text of it has the key or the server's address, which may hold a password.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// What was asked for makes no request: an address that is none, a field that no header can hold.
    #[error("the request cannot be made: {0}")]
    Invalid(String),
    /// No connection: nobody listens, the name is unknown, the certificate is refused, the time for it
    /// is over.
    #[error("no connection to the server: {0}")]
    Connect(String),
    /// A time limit was over.
    #[error("no reply within {} s", .limit.as_secs_f64())]
    Timeout {
        /// The limit.
        limit: Duration,
        /// Whether it was that of the call as a whole, so that nothing may follow.
        whole: bool,
    },
    /// The connection broke before the reply was complete.
    #[error("the connection broke off: {0}")]
    Interrupted(String),
    /// The server says no, and why.
    #[error(transparent)]
    Status(Box<StatusError>),
    /// A reply that is not what the interface promises.
    #[error("the reply makes no sense: {0}")]
    BadReply(String),
    /// The audio itself cannot be read.
    #[error("the audio cannot be read")]
    Source(#[source] io::Error),
}

impl Error {
    /// Whether the same call may well do when it is made again, here or at another server.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Connect(_) | Self::Interrupted(_) | Self::BadReply(_) => true,
            Self::Timeout { whole, .. } => !whole,
            Self::Status(status) => status.is_retryable(),
            Self::Invalid(_) | Self::Source(_) => false,
        }
    }

    /// What the server said, where it said something.
    pub fn status(&self) -> Option<&StatusError> {
        match self {
            Self::Status(status) => Some(status),
            _ => None,
        }
    }

    /// How long the server wants to be left alone.
    pub fn retry_after(&self) -> Option<Duration> {
        self.status()?.retry_after
    }

    /// What became of a request, from what the HTTP library says.
    pub(crate) fn of_transport(error: reqwest::Error) -> Self {
        // The address may hold a password.
        let error = error.without_url();
        let reason = root_cause(&error);
        if error.is_connect() {
            Self::Connect(reason)
        } else if error.is_builder() {
            Self::Invalid(reason)
        } else {
            Self::Interrupted(reason)
        }
    }
}

/// What lies beneath all wrappings: the operating system's own words, mostly.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
