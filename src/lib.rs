//! The server.

pub mod audio;
