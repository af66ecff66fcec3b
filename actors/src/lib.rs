//! The supervision tree of uttera-stt.

pub mod ports;
pub mod transcript;
