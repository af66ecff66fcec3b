//! What travels through the tree: audio, jobs, transcripts, errors and the names of things. Nothing here
//! knows an actor.

pub mod chunk;
pub mod error;
pub mod ids;
pub mod job;
pub mod transcript;
pub mod translation;
