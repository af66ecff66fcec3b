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
//!  ├─ Translations           translates transcripts, where a translator is configured
//!  ├─ VramWatcher            samples the memory that workers need
//!  └─ Registrar              keeps this node's record where routers look
//! ```
//!
//! Everything outside is behind the traits of [`ports`]; everyone outside uses [`Stt`]. What the
//! actors decide is decided in plain structs and functions, which are tested without an actor in
//! sight: who is next ([`waiting`], [`work_queue`]), how many workers there are ([`pool_sizing`],
//! [`idle_timer`], [`memory`], [`cost`], [`restart_budget`]), how audio is cut ([`chunk_length`]), what
//! becomes of a text ([`hallucination`], [`missed_speech`], [`pauses`]), and what is kept for a request
//! that comes again ([`finished_work`], [`cache`]). What others may know is in
//! [`status`], and what follows from it in [`snapshot`].

mod task;

pub mod config;
pub mod domain;
pub mod fallback;
pub mod handle;
pub mod lane;
pub mod metrics;
pub mod pool;
pub mod ports;
pub mod queue;
pub mod registrar;
pub mod request;
pub mod status;
pub mod supervisor;
pub mod text;
pub mod translation;

#[cfg(test)]
mod tree_tests;

pub use config::{Ports, TreeConfig};
pub use domain::error::{SttError, TranslationError, TranslatorError};
pub use domain::ids::JobId;
pub use domain::job::{Client, Event, Identity, Job, Options, Priority, Progress};
pub use domain::translation::{TargetLanguage, TranslationJob};
pub use fallback::policy::EscalationPolicy;
pub use handle::{Admission, PendingTranslation, StartError, Stt, TranscriptStream, TreeEnded};
pub use lane::idle::IdlePolicy;
pub use lane::recycling::RecyclingLimits;
pub use pool::PoolConfig;
pub use ports::FallbackPort;
pub use status::admission::AdmissionRequest;
pub use status::load::WaitEstimate;
pub use status::snapshot::{FallbackCounts, HotState, Snapshot};
