//! Client of uttera-stt.

mod audio;
mod builder;
mod call;
mod client;
mod error;
mod headers;
mod node;
mod pool;
mod reply;
mod retry;
mod run;
mod statistics;
mod status;
mod telemetry;
mod tls;
mod transcript;
mod upload;

pub use audio::Audio;
pub use builder::ClientBuilder;
pub use client::Client;
pub use error::Error;
pub use headers::ServerHeaders;
pub use retry::RetryPolicy;
pub use statistics::{Outcomes, Statistics};
pub use status::StatusError;
pub use telemetry::{Attempt, Telemetry};
pub use transcript::{Segment, Timings, TranscribeOptions, Transcript, Word};
