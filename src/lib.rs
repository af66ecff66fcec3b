//! The edges of uttera-stt: HTTP, audio, engines, models, settings.
//!
//! The supervision tree itself is the crate `stt-actors`; [`serve`] puts everything together.

pub mod audio;
pub mod cli;
pub mod engine;
pub mod fallback;
pub mod host_memory;
pub mod http;
pub mod keys;
pub mod language;
pub mod libretranslate;
pub mod metrics;
pub mod models;
pub mod nvml;
pub mod redis;
pub mod render;
pub mod serve;
pub mod settings;
pub mod telemetry;

mod priority;
mod shutdown;
mod tls;

/// Whether this build can use a GPU: by cargo feature of the same name.
pub const BUILT_FOR_GPU: bool = cfg!(any(feature = "cuda", feature = "vulkan"));
