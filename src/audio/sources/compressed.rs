//! Decodes short FLAC and MP3 files in this process: starting ffmpeg takes longer than decoding a voice
//! command.
//!
//! A file is decoded completely before any of it is used. Anything unusual (an error, a change of format,
//! bytes that are no frame) leaves the file to ffmpeg, which supports all formats and handles damage.
//!
//! Lengths in headers are not trusted: they describe the file before it was cut, edited or joined with another
//! one. All frames are decoded, and the bytes of the file tell whether some are missing.

use std::fs::File;
use std::io::{self, Cursor, Read, Seek};
use std::panic::AssertUnwindSafe;

use stt_actors::domain::chunk::SAMPLE_RATE;
use stt_actors::domain::error::DecodeError;
use symphonia::core::codecs::audio::{AudioDecoder, AudioDecoderOptions};
use symphonia::core::errors::Error;
use symphonia::core::formats::probe::Hint;
use symphonia::core::formats::{FormatOptions, FormatReader, TrackType};
use symphonia::core::io::{MediaSourceStream, MediaSourceStreamOptions};
use symphonia::core::meta::MetadataOptions;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinHandle;

use super::flac::{is_flac, metadata_length, parts, tag_length};
use crate::audio::convert::mono::Mono;
use crate::audio::convert::resample::{Resampler, can_resample};

/// Longer files are left to ffmpeg: its start takes little time compared to decoding them.
const MOST_BYTES: u64 = 4 << 20;
/// A small file can claim hours, or unusual rates. A file that decodes to more frames than two minutes at
/// usual rates is left to ffmpeg, which streams it.
const MOST_FRAMES: usize = 120 * 48_000;
/// Most bytes of an MP3 that are no frame: a header frame at the start, an incomplete one at the end, and short
/// tags.
const MOST_STRAY_BYTES: usize = 4096;

/// Whether a file looks like FLAC or MP3 and is short. Blocks. Leaves the file at its beginning.
pub(crate) fn is_candidate(file: &mut File) -> io::Result<bool> {
    Ok(file.metadata()?.len() <= MOST_BYTES && begins_as_known(file)?)
}

/// A short file that may be FLAC or MP3.
pub(crate) struct ShortSource {
    /// `None` while it is being decoded.
    file: Option<File>,
    /// Kept here, so that a caller that stops waiting loses nothing.
    decoding: Option<JoinHandle<io::Result<Decoded>>>,
}

/// Result of decoding a short file.
pub(crate) enum Decoded {
    /// All samples, 16 kHz mono.
    Samples(Vec<i16>),
    /// A file for ffmpeg, at its beginning.
    Unusual(File),
}

impl ShortSource {
    pub(crate) fn new(file: File) -> Self {
        Self {
            file: Some(file),
            decoding: None,
        }
    }

    /// Decodes on a blocking thread. The `turn` ends with the decoding, even if the caller stops waiting.
    /// Call it until it returns once.
    pub(crate) async fn decode(
        &mut self,
        turn: Option<OwnedSemaphorePermit>,
    ) -> Result<Decoded, DecodeError> {
        let failed = |error: &dyn std::fmt::Display| {
            DecodeError::Unavailable(format!("cannot read the audio file: {error}"))
        };
        if let Some(file) = self.file.take() {
            self.decoding = Some(tokio::task::spawn_blocking(move || {
                let _turn = turn;
                decode(file)
            }));
        }
        let Some(decoding) = &mut self.decoding else {
            return Err(failed(&"it was read already"));
        };
        let finished = decoding.await;
        self.decoding = None;
        finished
            .map_err(|error| failed(&error))?
            .map_err(|error| failed(&error))
    }
}

fn decode(mut file: File) -> io::Result<Decoded> {
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    file.rewind()?;
    // Some files are crafted to break decoders. After a panic, the decoder's state is dropped.
    let samples = std::panic::catch_unwind(AssertUnwindSafe(|| decode_all(&bytes)));
    Ok(match samples {
        Ok(Ok(samples)) if !samples.is_empty() => Decoded::Samples(samples),
        Ok(Ok(_)) => Decoded::Unusual(file),
        Ok(Err(error)) => {
            tracing::debug!(%error, "unusual file, ffmpeg decodes it");
            Decoded::Unusual(file)
        }
        Err(_panic) => {
            tracing::warn!("the decoder panicked, ffmpeg decodes the file");
            Decoded::Unusual(file)
        }
    })
}

/// FLAC, an MPEG frame of layer III, or a tag that usually comes before one of them.
fn begins_as_known(file: &mut File) -> io::Result<bool> {
    let mut head = [0; 4];
    let read = file.read_exact(&mut head);
    file.rewind()?;
    Ok(read.is_ok()
        && (head == *b"fLaC"
            || head.starts_with(b"ID3")
            || (head[0] == 0xff && head[1] & 0xe6 == 0xe2)))
}

/// Why a file is left to ffmpeg.
#[derive(Debug, thiserror::Error)]
enum Unusual {
    #[error(transparent)]
    Symphonia(#[from] Error),
    #[error("{0}")]
    Other(&'static str),
    #[error("{0}")]
    Rate(String),
}

/// Decodes all FLAC files of which this one consists, or one MP3 file.
fn decode_all(bytes: &[u8]) -> Result<Vec<i16>, Unusual> {
    let mut samples = Vec::new();
    let mut frames = 0;
    for part in parts(bytes) {
        let (rate, mixed) = decode_part(part, &mut frames)?;
        let mut resampler = Resampler::new(rate).map_err(Unusual::Rate)?;
        samples.reserve(mixed.len() * SAMPLE_RATE as usize / rate.max(1) as usize);
        resampler.push(&mixed, &mut samples);
        resampler.finish(&mut samples);
    }
    Ok(samples)
}

/// Decodes one file: its rate and its samples. Adds its length to `frames`.
fn decode_part(bytes: &[u8], frames: &mut usize) -> Result<(u32, Vec<f32>), Unusual> {
    let source = MediaSourceStream::new(
        Box::new(Cursor::new(bytes)),
        MediaSourceStreamOptions::default(),
    );
    let probe = symphonia::default::get_probe();
    let format = probe.probe(
        &Hint::new(),
        source,
        FormatOptions::default(),
        MetadataOptions::default(),
    )?;
    let track = format
        .default_track(TrackType::Audio)
        .ok_or(Unusual::Other("no sound"))?;
    let parameters = track.codec_params.as_ref().and_then(|p| p.audio());
    let parameters = parameters.ok_or(Unusual::Other("unknown sound"))?;
    let codecs = symphonia::default::get_codecs();
    // With `gapless`, the decoder would cut what exceeds the length in the header.
    let options = AudioDecoderOptions::default().gapless(false);
    let decoder = codecs.make_audio_decoder(parameters, &options)?;
    let expected = Expected {
        bytes: if is_flac(bytes) {
            bytes.len().saturating_sub(metadata_length(bytes))
        } else {
            (bytes.len() - tag_length(bytes)).saturating_sub(MOST_STRAY_BYTES)
        },
        delay: track.delay.unwrap_or(0) as usize,
        padding: track.padding.unwrap_or(0) as usize,
        frames: track.num_frames.unwrap_or(0) as usize,
    };
    let track = track.id;
    let (rate, mut mixed) = all_packets(format, decoder, track, expected.bytes, frames)?;
    expected.trim(&mut mixed);
    Ok((rate, mixed))
}

/// What a file should contain.
struct Expected {
    /// Least bytes of all frames.
    bytes: usize,
    /// Samples before and after the sound, which an encoder added.
    delay: usize,
    padding: usize,
    /// Samples of the sound.
    frames: usize,
}

impl Expected {
    /// Removes what the encoder added, if the header's numbers agree with the samples.
    fn trim(&self, samples: &mut Vec<f32>) {
        if samples.len() == self.delay + self.frames + self.padding {
            samples.truncate(self.delay + self.frames);
            samples.drain(..self.delay);
        }
    }
}

fn all_packets(
    mut format: Box<dyn FormatReader + '_>,
    mut decoder: Box<dyn AudioDecoder>,
    track: u32,
    expected_bytes: usize,
    frames: &mut usize,
) -> Result<(u32, Vec<f32>), Unusual> {
    let mut interleaved: Vec<f32> = Vec::new();
    let mut mixed = Vec::new();
    let mut sound: Option<(u32, Mono)> = None;
    let mut bytes = 0;
    while let Some(packet) = format.next_packet()? {
        if packet.track_id != track {
            continue;
        }
        bytes += packet.data.len();
        let block = decoder.decode(&packet)?;
        let (rate, channels) = (block.spec().rate(), block.spec().channels().count());
        if !can_resample(rate) {
            return Err(Unusual::Other("an odd rate"));
        }
        let (known_rate, mono) = sound.get_or_insert_with(|| (rate, Mono::new(channels, rate)));
        if *known_rate != rate || mono.channels() != channels {
            return Err(Unusual::Other("another format in the middle"));
        }
        interleaved.resize(block.samples_interleaved(), 0.0);
        block.copy_to_slice_interleaved(&mut interleaved);
        mono.push(&interleaved, &mut mixed);
        if *frames + mono.frames() > MOST_FRAMES {
            return Err(Unusual::Other("long"));
        }
    }
    let (rate, mut mono) = sound.ok_or(Unusual::Other("empty"))?;
    // The reader silently skips damaged frames, and everything that is no frame.
    if bytes < expected_bytes {
        return Err(Unusual::Other("bytes that are no frame"));
    }
    mono.finish(&mut mixed);
    *frames += mono.frames();
    Ok((rate, mixed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_is_removed_only_if_the_header_counted_these_samples() {
        let expected = Expected {
            bytes: 0,
            delay: 2,
            padding: 1,
            frames: 3,
        };
        let trimmed = |count: u8| {
            let mut samples: Vec<f32> = (0..count).map(f32::from).collect();
            expected.trim(&mut samples);
            samples
        };
        assert_eq!(trimmed(6), [2.0, 3.0, 4.0]);
        assert_eq!(trimmed(7).len(), 7);
        assert_eq!(trimmed(5).len(), 5);
    }
}
