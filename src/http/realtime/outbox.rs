//! Sends to a client, with a limit for one that does not read.

use std::time::Duration;

use actix_ws::{CloseReason, Session};

use super::session::End;

/// A client that takes nothing for this long is disconnected. What waits for it is a few dozen events.
const SLOWEST_READER: Duration = Duration::from_secs(60);
/// The time for the last frame.
const CLOSE_TIME: Duration = Duration::from_secs(5);

/// The server's side of a WebSocket.
#[derive(Clone)]
pub struct Outbox(Session);

impl Outbox {
    /// Sends through this WebSocket.
    pub fn new(session: Session) -> Self {
        Self(session)
    }

    /// Sends an event.
    ///
    /// # Errors
    /// The client is gone, or does not read.
    pub async fn send(&mut self, event: String) -> Result<(), End> {
        in_time(self.0.text(event)).await
    }

    /// Sends a ping.
    ///
    /// # Errors
    /// The client is gone, or does not read.
    pub async fn ping(&mut self) -> Result<(), End> {
        in_time(self.0.ping(b"")).await
    }

    /// Answers a ping.
    ///
    /// # Errors
    /// The client is gone, or does not read.
    pub async fn pong(&mut self, content: &[u8]) -> Result<(), End> {
        in_time(self.0.pong(content)).await
    }

    /// Closes the connection.
    pub async fn close(self, reason: Option<CloseReason>) {
        // A client that does not take it is gone.
        let _ = tokio::time::timeout(CLOSE_TIME, self.0.close(reason)).await;
    }
}

async fn in_time(sent: impl Future<Output = Result<(), actix_ws::Closed>>) -> Result<(), End> {
    match tokio::time::timeout(SLOWEST_READER, sent).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(End::Gone),
        Err(_elapsed) => Err(End::Slow),
    }
}
