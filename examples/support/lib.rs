//! What the measurements in `examples/` share: the tables of a corpus, decoding and writing of audio files.

pub mod corpus;
pub mod decode;
pub mod wav;
