//! Decoding and voice activity detection, through the library.

mod corpus;
mod decode;
mod lengths;
mod placement;
mod processes;
mod refused;
mod voice_activity;
