//! One client's request: decoding, transcription, merging, events, and what is kept for a request that
//! comes again.

pub mod decoding;
pub mod expiring_cache;
pub(crate) mod language;
pub mod resume;
pub(crate) mod subscribers;
pub mod transcription;
pub mod transcriptions;
