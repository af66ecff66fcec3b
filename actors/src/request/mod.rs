//! A client's request: decoding, transcription, merging and events, and the results that are kept for an
//! equal request.

pub mod decoding;
pub mod expiring_cache;
pub(crate) mod language;
pub mod resume;
pub mod stream;
pub(crate) mod subscribers;
pub mod transcription;
pub mod transcriptions;
