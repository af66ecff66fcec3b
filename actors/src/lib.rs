//! The supervision tree of uttera-stt.
//!
//! ```text
//! Supervisor                 restarts children, starts and stops them in order
//!  ├─ Dispatcher             the one shared work queue: brings chunks and lanes together
//!  ├─ Transcriptions         supervises the requests
//!  │   └─ Transcription × n  one request: decode → chunks → merge → events
//!  └─ HotWorker              the lane whose engine is always loaded
//! ```
//!
//! Everything outside is behind the traits of [`ports`]; everyone outside uses [`Stt`]. What the
//! actors decide is decided in plain structs ([`work_queue`], [`restart_budget`]), which are
//! tested without an actor in sight.

mod caught;
pub mod config;
pub mod dispatcher;
pub mod error;
pub mod handle;
pub mod hot_worker;
pub mod job;
pub mod lane;
pub mod ports;
pub mod restart_budget;
pub mod status;
pub mod supervisor;
pub mod transcript;
pub mod transcription;
pub mod transcriptions;
pub mod work_queue;

#[cfg(test)]
mod tree_tests;

pub use config::{Ports, TreeConfig};
pub use error::SttError;
pub use handle::{StartError, Stt, TranscriptStream, TreeEnded};
pub use job::{Event, Job, JobId, Options, Progress};
pub use status::{HotState, Snapshot};
