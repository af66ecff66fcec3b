//! Post-processing of a chunk's text: plain functions, without an actor.

pub mod hallucination;
mod loops;
pub mod merger;
pub mod missed_speech;
pub(crate) mod second_pass;
pub mod segment_split;
pub mod word_times;
