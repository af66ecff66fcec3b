//! The edges of uttera-stt: command line, settings, HTTP, Wyoming, the agent check, audio, engines and models, and the clients of
//! Redis, LibreTranslate and a fallback node.
//!
//! The supervision tree is the crate `stt-actors`. [`serve`] composes it with the edges.

pub mod agent_check;
pub mod allow_list;
pub mod audio;
pub mod board;
pub mod cli;
pub mod doctor;
pub mod engine;
pub mod fallback;
pub mod host_memory;
pub mod http;
pub mod jobs;
pub mod keys;
pub mod language;
pub mod libretranslate;
pub mod metrics;
pub mod models;
pub mod nvml;
pub mod page;
pub mod redis;
pub mod render;
pub mod serve;
pub mod settings;
pub mod telemetry;
pub mod throttle;
pub mod tls;
pub mod wyoming;

mod notify;
mod priority;
mod shutdown;

/// Whether this build supports a GPU (cargo feature `cuda` or `vulkan`).
pub const BUILT_FOR_GPU: bool = cfg!(any(feature = "cuda", feature = "vulkan"));
