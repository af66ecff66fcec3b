#![doc = include_str!("../README.md")]

mod audio;
mod builder;
mod call;
mod client;
mod error;
mod events;
mod headers;
mod jobs;
pub mod language;
mod node;
mod pool;
mod reply;
mod retry;
mod run;
mod speech;
mod sse;
mod statistics;
mod status;
mod telemetry;
mod tls;
mod transcript;
mod upload;

pub use audio::Audio;
pub use builder::ClientBuilder;
pub use client::{Client, Model};
pub use error::Error;
pub use events::{Delta, EventStream, SpeechEvent, StreamDone};
pub use headers::ServerHeaders;
pub use jobs::{Job, JobCallback, JobFailure, JobOptions, JobStatus};
#[cfg(feature = "redis")]
pub use pool::RedisNodes;
pub use pool::{Ejection, NodeStatus, PoolBuilder, Recovery, Standing, SttPool};
pub use retry::RetryPolicy;
pub use speech::{
    Granularity, Removed, ResponseFormat, Speech, SpeechOptions, TokenLogprob, Transcription,
    Usage, VerboseTranscription,
};
pub use statistics::{Outcomes, Statistics, percentile};
pub use status::StatusError;
pub use telemetry::{Attempt, Telemetry};
pub use transcript::{Segment, Timings, TranscribeOptions, Transcript, Word};
