//! What the commands share that ask a running server: [`bench`](crate::bench),
//! [`conformance`](crate::conformance), [`smoke`](crate::smoke) and [`load`](crate::load).
//!
//! A [`server`] is asked through one kind of [`client`] for a [`transcript`] of a [`recording`], the
//! user's or [`speech`] that is built in. What it wrote is scored by [`word_error_rate`], its times by
//! [`statistics`]. An [`outcome`] and an exit status say what came of it, [`progress`] how far it is, and
//! [`drawing`] has what pictures have in common.

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

/// The time, in UTC and to the second, as reports have it.
pub fn now() -> String {
    let now = time::OffsetDateTime::now_utc();
    let now = now.replace_nanosecond(0).unwrap_or(now);
    let format = &time::format_description::well_known::Rfc3339;
    now.format(format).unwrap_or_default()
}

/// So many things, as people say it.
pub fn counted(count: usize, thing: &str) -> String {
    let ending = if count == 1 { "" } else { "s" };
    format!("{count} {thing}{ending}")
}
