//! OpenAI's realtime transcription: a WebSocket that takes audio and sends its text turn by turn.
//!
//! The tree does the work in a live session; this room translates between its events and those of the protocol. The
//! protocol has two shapes: the current one, and the one of its beta, which some clients still use. [`config`] reads
//! and reports the configuration of a session in both, [`events`] builds what the server sends, [`client`] handles what
//! a client sends, and [`session`] runs a connection. [`secrets`] keeps the ephemeral keys for pages.

mod client;
pub mod config;
mod error;
mod events;
mod fields;
mod items;
mod outbox;
pub mod secrets;
pub mod session;

pub use client::check_language;
pub use config::{SessionConfig, Shape};
pub use secrets::ClientSecrets;

/// A new id with the prefix of what it identifies.
pub fn new_id(prefix: &str) -> String {
    format!("{prefix}_{}", uuid::Uuid::new_v4().simple())
}

/// Seconds since 1970.
pub fn unix_time() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}
