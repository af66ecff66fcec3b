//! Errors of a call.

use std::io;
use std::time::Duration;

use thiserror::Error;

use crate::status::StatusError;

/// Why a call failed. No message contains the key or the server's address, which may contain a password.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The request is invalid: for example the address, or a value that a header cannot have.
    #[error("invalid request: {0}")]
    Invalid(String),
    /// The connection failed: no server listens, the name is unknown, the certificate is not trusted, or
    /// the time limit was exceeded.
    #[error("cannot connect to the server: {0}")]
    Connect(String),
    /// A time limit was exceeded.
    #[error("no reply within {} s", .limit.as_secs_f64())]
    Timeout {
        /// The limit.
        limit: Duration,
        /// Whether it was the limit of the whole call, so that no attempt follows.
        whole: bool,
    },
    /// The connection broke before the reply was complete.
    #[error("the connection broke off: {0}")]
    Interrupted(String),
    /// The server returned an error.
    #[error(transparent)]
    Status(Box<StatusError>),
    /// The reply does not have the documented format.
    #[error("unusable reply: {0}")]
    BadReply(String),
    /// Reading the audio failed.
    #[error("cannot read the audio")]
    Source(#[source] io::Error),
}

impl Error {
    /// Whether the same call may succeed when it is repeated, on this server or on another.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Connect(_) | Self::Interrupted(_) | Self::BadReply(_) => true,
            Self::Timeout { whole, .. } => !whole,
            Self::Status(status) => status.is_retryable(),
            Self::Invalid(_) | Self::Source(_) => false,
        }
    }

    /// The server's error, if it returned one.
    pub fn status(&self) -> Option<&StatusError> {
        match self {
            Self::Status(status) => Some(status),
            _ => None,
        }
    }

    /// The time after which the server allows a retry.
    pub fn retry_after(&self) -> Option<Duration> {
        self.status()?.retry_after
    }

    /// Classifies an error of the HTTP library.
    pub(crate) fn of_transport(error: reqwest::Error) -> Self {
        // The address may contain a password.
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

/// The innermost cause, usually the operating system's message.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
