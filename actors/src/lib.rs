//! The supervision tree of uttera-stt.
//!
//! ```text
//! Supervisor                 restarts children, starts and stops them in order
//!  ├─ Dispatcher             the one shared work queue: brings chunks and lanes together
//!  ├─ Transcriptions         supervises the requests
//!  │   └─ Transcription × n  one request: decode → chunks → merge → events
//!  ├─ HotWorker              the lane whose engine is always loaded
//!  ├─ ColdPool               decides how many cold workers there should be
//!  │   └─ ColdWorker × n     a lane that comes with the work and goes without
//!  ├─ FallbackModel          a larger model for texts that are not trusted, where one is named
//!  │   ├─ Dispatcher         its queue
//!  │   └─ ColdPool           its worker, which comes with the work and goes without
//!  ├─ VramWatcher            samples the memory that workers need
//!  └─ Registrar              keeps this node's record where routers look
//! ```
//!
//! Everything outside is behind the traits of [`ports`]; everyone outside uses [`Stt`]. What the
//! actors decide is decided in plain structs and functions, which are tested without an actor in
//! sight: who is next ([`waiting`], [`work_queue`]), how many workers there are ([`pool_sizing`],
//! [`reaper`], [`memory`], [`cost`], [`restart_budget`]), how audio is cut ([`chunk_length`]), what
//! becomes of a text ([`hallucination`], [`missed_speech`], [`pauses`]), and what is kept for a request
//! that comes again ([`finished_work`], [`shelf`]). What others may know is in
//! [`status`], and what follows from it in [`snapshot`].

mod atomic_f64;
mod audience;
mod caught;
mod lane_task;
mod language_hold;
mod second_pass;

pub mod admission;
pub mod chunk;
pub mod chunk_length;
pub mod cold_pool;
pub mod cold_worker;
pub mod config;
pub mod cost;
pub mod decoding;
pub mod dispatcher;
pub mod error;
pub mod escalation;
pub mod fallback;
pub mod fallback_model;
pub mod finished_work;
pub mod hallucination;
pub mod handle;
pub mod hot_worker;
pub mod job;
pub mod lane;
pub mod lane_end;
pub mod learned_cap;
pub mod memory;
pub mod metrics;
pub mod missed_speech;
pub mod pauses;
pub mod pool_sizing;
pub mod ports;
pub mod reaper;
pub mod registrar;
pub mod restart_budget;
pub mod shelf;
pub mod snapshot;
pub mod status;
pub mod supervisor;
pub mod transcript;
pub mod transcription;
pub mod transcriptions;
pub mod vram_watcher;
pub mod waiting;
pub mod wear;
pub mod word_times;
pub mod work_queue;

#[cfg(test)]
mod tree_tests;

pub use admission::{Newcomer, Outlook};
pub use config::{FallbackPort, PoolConfig, Ports, TreeConfig};
pub use error::SttError;
pub use escalation::EscalationPolicy;
pub use handle::{Admission, StartError, Stt, TranscriptStream, TreeEnded};
pub use job::{Client, Event, Identity, Job, JobId, Options, Priority, Progress};
pub use reaper::IdlePolicy;
pub use snapshot::{FallbackCounts, HotState, Snapshot};
pub use wear::WearLimits;
