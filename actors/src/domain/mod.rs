//! The data that actors exchange: audio, jobs, transcripts, errors and identifiers. This module depends on
//! no actor.

pub mod chunk;
pub mod error;
pub mod finished;
pub mod ids;
pub mod job;
pub mod live;
pub mod trace;
pub mod transcript;
pub mod translation;
