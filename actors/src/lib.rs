//! The supervision tree of uttera-stt.
//!
//! ```text
//! Supervisor                 restarts children, starts and stops them in order
//!  ├─ Dispatcher             owns the shared work queue: gives chunks to lanes
//!  ├─ Transcriptions         supervises the requests
//!  │   └─ Transcription × n  one request: decode → chunks → merge → events
//!  ├─ LiveSessions           supervises the live sessions
//!  │   └─ LiveSession × n    one connection's audio: speech → turns → parts → events
//!  ├─ HotWorker              the lane whose engine stays loaded
//!  ├─ ColdPool               decides how many cold workers there are
//!  │   └─ ColdWorker × n     a lane that starts when work piles up and ends when it is idle
//!  ├─ FallbackModel          a second model on this node, for texts that are not trusted
//!  │   ├─ Dispatcher         its queue
//!  │   └─ ColdPool           its worker, started on demand
//!  ├─ Translations           translates transcripts, where a translator is configured
//!  ├─ VramWatcher            samples the memory that workers need
//!  └─ Registrar              publishes this node's record for routers
//! ```
//!
//! The rest of the server uses [`Stt`], and the tree uses the rest of the server through the traits of
//! [`ports`]. Decisions are plain structs and functions with tests of their own; actors carry them out.
//!
//! The code is divided into rooms. A room uses only rooms above it in this table; the test `tests/rooms.rs`
//! checks that, and prints the actual list:
//!
//! | room | contains | uses |
//! |---|---|---|
//! | [`domain`] | what travels: audio, jobs, transcripts, errors, ids | – |
//! | [`ports`] | the traits to the outside: engines, decoders, memory, directory, fallback, translator | `domain` |
//! | `task` | tasks beside an actor | – |
//! | [`metrics`] | metrics of single events | `domain` |
//! | [`status`] | the node's status: numbers, estimates, admission slots | these |
//! | [`text`] | what happens to a chunk's text: hallucinations, missed speech, splitting, word times | these |
//! | [`translation`] | the Translations actor | these |
//! | [`queue`] | the Dispatcher, the order of waiting chunks, retries, and the messages of lanes | `status` |
//! | [`registrar`] | the Registrar | `status` |
//! | [`lane`] | one worker around one engine: idle time, recycling, restarts | `queue`, `status` |
//! | [`pool`] | the ColdPool and the VramWatcher: demand, size, memory | `lane`, `queue`, `status` |
//! | [`fallback`] | which texts escalate, and where to | `pool`, `lane`, `queue`, `status`, `text` |
//! | [`request`] | one request: decoding, language, texts, escalation, subscribers, caches | `fallback`, `queue`, `status`, `text` |
//! | [`live`] | live audio: sessions, turns, text while speaking | `request`, `status` |
//! | [`config`] | the configuration of a tree | `fallback`, `pool`, `lane`, `live` |
//! | [`supervisor`] | the Supervisor: start, restart, shutdown | all of them |
//! | [`handle`] | [`Stt`] | `supervisor`, `request`, `live`, `config`, `status` |
//!
//! Every room may use `domain`, `ports`, `task` and `metrics`, as far as these are above it.

mod task;

/// The target of log lines with text of speech.
pub const TRANSCRIPTS: &str = "stt_actors::transcripts";

pub mod config;
pub mod domain;
pub mod fallback;
pub mod handle;
pub mod lane;
pub mod live;
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
pub use domain::error::{LiveError, SttError, TranslationError, TranslatorError};
pub use domain::ids::JobId;
pub use domain::job::{
    Client, Event, Identity, Job, Options, Priority, Progress, Urgency, WorkKind,
};
pub use domain::trace::{Trace, TraceContext};
pub use domain::translation::{TargetLanguage, TranslationJob};
pub use fallback::policy::EscalationPolicy;
pub use handle::{Admission, PendingTranslation, PendingUpload, StartError, Stt, TreeEnded};
pub use lane::idle::IdlePolicy;
pub use lane::recycling::RecyclingLimits;
pub use live::LiveConfig;
pub use live::sessions::{LiveEvents, LiveInput};
pub use pool::PoolConfig;
pub use ports::FallbackPort;
pub use request::stream::TranscriptStream;
pub use status::admission::AdmissionRequest;
pub use status::drain::{Drain, DrainPlan};
pub use status::lanes::{LaneSnapshot, LaneState, LaneWork, WaitingChunks};
pub use status::load::WaitEstimate;
pub use status::snapshot::{FallbackCounts, HotState, Snapshot};
