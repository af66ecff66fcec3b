//! What the measurements in `examples/` share: the tables of a corpus, and decoding of audio files.

pub mod corpus;
pub mod decode;
