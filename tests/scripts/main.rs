//! The shell scripts that users get, run against stand-in servers.

mod transcribe_replies;
mod transcribe_requests;
