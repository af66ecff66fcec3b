//! Audio of any format to chunks of 16 kHz mono.

pub mod chunker;
