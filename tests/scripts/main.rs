//! The scripts for users, run against stand-ins for servers, GPUs and pip, and the documentation.

mod documentation;
mod gpu;
mod kubernetes;
mod models_from_wheels;
mod packaging;
mod soak;
mod transcribe_replies;
mod transcribe_requests;
