//! What the commands that test a running server share: [`bench`](crate::bench),
//! [`conformance`](crate::conformance), [`smoke`](crate::smoke) and [`load`](crate::load).
//!
//! A command sends a [`recording`], the user's file or built-in [`speech`], to a [`server`] through a
//! [`client`] and receives a [`transcript`]. [`word_error_rate`] scores the text, [`statistics`] summarises
//! the times. An [`outcome`] is the result of a check, [`progress`] displays how far a run has come, and
//! [`drawing`] holds what the pictures share.

pub mod args;
pub mod client;
pub mod drawing;
pub mod outcome;
pub mod progress;
pub mod recording;
pub mod server;
pub mod speech;
pub mod statistics;
pub mod transcript;
pub mod word_error_rate;
pub mod wyoming;

/// The current time for reports: UTC, to the second.
pub fn now() -> String {
    let now = time::OffsetDateTime::now_utc();
    let now = now.replace_nanosecond(0).unwrap_or(now);
    let format = &time::format_description::well_known::Rfc3339;
    now.format(format).unwrap_or_default()
}

/// A count with its noun, such as "1 client" or "2 clients".
pub fn counted(count: usize, thing: &str) -> String {
    let ending = if count == 1 { "" } else { "s" };
    format!("{count} {thing}{ending}")
}
