//! Sources of samples, one per way of decoding: WAV (`wav`, with `riff` for its headers),
//! short FLAC and MP3 files in this process (`compressed`), and everything else in an ffmpeg process (`ffmpeg`). `flac` finds
//! joined files.

pub(super) mod compressed;
pub(super) mod ffmpeg;
mod flac;
mod riff;
pub(super) mod wav;

/// A part of the time line, 16 kHz mono.
#[derive(Debug)]
pub(super) enum Block {
    Samples(Vec<i16>),
    /// Time without sound, in samples.
    Gap(u64),
}

impl Block {
    /// Its length in samples.
    pub(super) fn samples(&self) -> u64 {
        match self {
            Self::Samples(samples) => samples.len() as u64,
            Self::Gap(samples) => *samples,
        }
    }
}
