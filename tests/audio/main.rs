//! Decoding and voice activity detection, through the library.

mod corpus;
mod decode;
mod processes;
mod refused;
mod voice_activity;
