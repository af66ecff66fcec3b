//! Sources of samples, one per way of decoding: plain PCM WAV (`wav`, whose header `riff` reads), short FLAC and MP3
//! files in this process (`compressed`), and everything else in an ffmpeg process (`ffmpeg`, whose messages
//! `ffmpeg_log` reads).

pub(super) mod compressed;
pub(super) mod ffmpeg;
mod ffmpeg_log;
mod riff;
pub(super) mod wav;
