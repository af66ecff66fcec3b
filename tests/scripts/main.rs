//! The scripts that users get, run against stand-ins for servers and for pip.

mod models_from_wheels;
mod transcribe_replies;
mod transcribe_requests;
