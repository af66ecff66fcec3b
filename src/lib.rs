//! The edges of uttera-stt: HTTP, audio, engines, models, settings.

pub mod engine;
