//! Decodes short FLAC and MP3 files in this process: starting ffmpeg takes longer than decoding a voice
//! command.
//!
//! A file is decoded completely before any of it is used. Anything unusual (an error, a change of format,
//! more sound than expected) leaves the file to ffmpeg, which supports all formats and handles damage.

use std::fs::File;
use std::io::{self, Read, Seek};
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

use crate::audio::convert::mono::Mono;
use crate::audio::convert::resample::{Resampler, can_resample};

/// Longer files are left to ffmpeg: its start takes little time compared to decoding them.
const MOST_BYTES: u64 = 4 << 20;
/// A small file can claim hours, or unusual rates. A file that decodes to more frames than two minutes at
/// usual rates is left to ffmpeg, which streams it.
const MOST_FRAMES: usize = 120 * 48_000;
/// An MP3 does not say exactly how much of its first and last frame is sound, so two frames may be missing.
const MOST_MISSING: u64 = 2 * 1152;

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
    let source = MediaSourceStream::new(
        Box::new(file.try_clone()?),
        MediaSourceStreamOptions::default(),
    );
    // Some files are crafted to break decoders. After a panic, the decoder's state is dropped.
    let samples = std::panic::catch_unwind(AssertUnwindSafe(|| decode_all(source)));
    file.rewind()?;
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

fn decode_all(source: MediaSourceStream<'_>) -> Result<Vec<i16>, Unusual> {
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
    let decoder = codecs.make_audio_decoder(parameters, &AudioDecoderOptions::default())?;
    let (claimed, track) = (track.num_frames, track.id);
    let mono = all_packets(format, decoder, track)?;
    // The decoder silently skips damaged frames; the count shows that they are missing.
    let missing = claimed.is_some_and(|claimed| claimed > mono.1.frames() as u64 + MOST_MISSING);
    if missing {
        return Err(Unusual::Other("less sound than there should be"));
    }
    resampled(mono)
}

fn all_packets(
    mut format: Box<dyn FormatReader + '_>,
    mut decoder: Box<dyn AudioDecoder>,
    track: u32,
) -> Result<(u32, Mono), Unusual> {
    let mut interleaved: Vec<f32> = Vec::new();
    let mut sound: Option<(u32, Mono)> = None;
    while let Some(packet) = format.next_packet()? {
        if packet.track_id != track {
            continue;
        }
        let block = decoder.decode(&packet)?;
        let (rate, channels) = (block.spec().rate(), block.spec().channels().count());
        if !can_resample(rate) {
            return Err(Unusual::Other("an odd rate"));
        }
        let (known_rate, mono) = sound.get_or_insert_with(|| (rate, Mono::new(channels)));
        if *known_rate != rate || mono.channels() != channels {
            return Err(Unusual::Other("another format in the middle"));
        }
        interleaved.resize(block.samples_interleaved(), 0.0);
        block.copy_to_slice_interleaved(&mut interleaved);
        mono.push(&interleaved);
        if mono.frames() > MOST_FRAMES {
            return Err(Unusual::Other("long"));
        }
    }
    sound.ok_or(Unusual::Other("empty"))
}

fn resampled((rate, mut mono): (u32, Mono)) -> Result<Vec<i16>, Unusual> {
    let mut samples =
        Vec::with_capacity(mono.frames() * SAMPLE_RATE as usize / rate.max(1) as usize);
    let mut resampler = Resampler::new(rate).map_err(Unusual::Rate)?;
    resampler.push(&mono.mean(), &mut samples);
    resampler.finish(&mut samples);
    Ok(samples)
}
