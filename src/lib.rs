//! The server.

pub mod models;
