//! Short FLAC and MP3 files, decoded in this process: to start ffmpeg takes longer than to decode a voice
//! command.
//!
//! A file is decoded whole before anything of it is used. Whatever is unusual about it (an error, a
//! change of format, more sound than expected) leaves it to ffmpeg, which knows all formats and what to
//! make of damage.

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

/// Longer files are ffmpeg's: its start is short beside the work on them.
const MOST_BYTES: u64 = 4 << 20;
/// A small file can claim hours, or rates that nobody records in. What decodes to more frames than two
/// minutes of the usual ones is ffmpeg's, piece by piece.
const MOST_FRAMES: usize = 120 * 48_000;
/// An MP3 does not say exactly how much of its first and last frame is sound: two frames.
const MOST_MISSING: u64 = 2 * 1152;

/// Whether a file looks as if it were for this module. Blocking. The file is left at its beginning.
pub(crate) fn is_candidate(file: &mut File) -> io::Result<bool> {
    Ok(file.metadata()?.len() <= MOST_BYTES && begins_as_known(file)?)
}

/// A short file that may be for this module.
pub(crate) struct ShortSource {
    /// `None` while it is being decoded.
    file: Option<File>,
    /// Kept here, so that a caller who stopped waiting loses nothing.
    decoding: Option<JoinHandle<io::Result<Decoded>>>,
}

/// What a short file turned out to be.
pub(crate) enum Decoded {
    /// All samples, 16 kHz mono.
    Samples(Vec<i16>),
    /// Not for this module; at its beginning.
    Unusual(File),
}

impl ShortSource {
    pub(crate) fn new(file: File) -> Self {
        Self {
            file: Some(file),
            decoding: None,
        }
    }

    /// Decodes on a thread where blocking is allowed, in a `turn` that ends with that, whether or not
    /// anybody waits for it. Once it has been answered, it is over.
    pub(crate) async fn decode(
        &mut self,
        turn: Option<OwnedSemaphorePermit>,
    ) -> Result<Decoded, DecodeError> {
        let failed = |error: &dyn std::fmt::Display| {
            DecodeError::Unavailable(format!("the audio file could not be read: {error}"))
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
    // Files are made to break decoders.
    // What is left half done by a panic goes with it.
    let samples = std::panic::catch_unwind(AssertUnwindSafe(|| decode_all(source)));
    file.rewind()?;
    Ok(match samples {
        Ok(Ok(samples)) if !samples.is_empty() => Decoded::Samples(samples),
        Ok(Ok(_)) => Decoded::Unusual(file),
        Ok(Err(error)) => {
            tracing::debug!(%error, "left to ffmpeg");
            Decoded::Unusual(file)
        }
        Err(_panic) => {
            tracing::warn!("the decoder panicked; the file is left to ffmpeg");
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
    // Frames that were damaged are passed over without a word, but are missed here.
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
