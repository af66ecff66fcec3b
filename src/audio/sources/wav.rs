//! Reads WAV in this process: samples that [`Format`] describes, any rate and any number of channels.
//!
//! Other files (compressed WAV, RF64, unusual sample containers) are left to ffmpeg, which supports them.

use std::fs::File;
use std::io::{self, Seek};
use std::time::Duration;

use stt_actors::domain::chunk::SAMPLE_RATE;
use stt_actors::domain::error::DecodeError;
use tokio::task::JoinHandle;

use super::pcm::{Encoding, Format};
use super::riff::{Content, Sound};
use crate::audio::convert::mono::Mono;
use crate::audio::convert::resample::{Resampler, can_resample};

/// Frames per block: a few seconds, so that switching threads costs little.
const BLOCK_FRAMES: usize = 65_536;
/// Bytes per read, so that memory stays small with any number of channels.
const READ_BYTES: usize = 2 * BLOCK_FRAMES;

/// Most channels; no recorder has as many.
const MOST_CHANNELS: u16 = 64;

/// Result of inspecting a file.
pub(crate) enum Inspected {
    /// Samples that this process reads.
    Pcm(WavSource),
    /// A WAV header without samples.
    NoSamples,
    /// Anything else.
    Other(File),
}

/// Inspects the content of `file`. Blocks.
pub(crate) fn inspect(mut file: File) -> io::Result<Inspected> {
    match Sound::open(file.try_clone()?)? {
        Content::Sound(sound) if sound.format().as_ref().is_some_and(can_convert) => {
            Ok(Inspected::Pcm(WavSource::new(sound)?))
        }
        Content::NoData => Ok(Inspected::NoSamples),
        Content::Sound(_) | Content::Other => {
            file.rewind()?;
            Ok(Inspected::Other(file))
        }
    }
}

/// Whether the format is one of a recorder, so that converting it takes little memory.
fn can_convert(format: &Format) -> bool {
    format.channels <= MOST_CHANNELS && can_resample(format.rate)
}

/// A block, or `None` at the end.
type Block = Result<Option<Vec<i16>>, DecodeError>;

/// A WAV file as a stream of 16 kHz mono blocks.
pub(crate) struct WavSource {
    claimed: Duration,
    /// `None` while a block is being read.
    worker: Option<Box<Worker>>,
    /// The block being read. Kept here, so that a caller that stops waiting loses nothing.
    reading: Option<JoinHandle<(Box<Worker>, Block)>>,
}

struct Worker {
    sound: Sound,
    /// Created with the first block, and again when the format changes.
    converter: Option<Converter>,
    ended: bool,
}

impl WavSource {
    fn new(sound: Sound) -> io::Result<Self> {
        Ok(Self {
            claimed: Duration::from_secs_f64(sound.seconds()?),
            worker: Some(Box::new(Worker {
                sound,
                converter: None,
                ended: false,
            })),
            reading: None,
        })
    }

    /// The duration of the headers' claims, limited by the file's size.
    pub(crate) fn claimed_duration(&self) -> Duration {
        self.claimed
    }

    /// The next samples, `None` at the end. Reads on a blocking thread.
    pub(crate) async fn next_block(&mut self) -> Block {
        // The end is known without another thread.
        if self.worker.as_ref().is_some_and(|worker| worker.ended) {
            return Ok(None);
        }
        if let Some(mut worker) = self.worker.take() {
            self.reading = Some(tokio::task::spawn_blocking(move || {
                let block = worker.next_block();
                (worker, block)
            }));
        }
        let Some(reading) = &mut self.reading else {
            return Ok(None);
        };
        let finished = reading.await;
        self.reading = None;
        let (worker, block) = finished
            .map_err(|error| DecodeError::Unavailable(format!("the WAV reader ended: {error}")))?;
        self.worker = Some(worker);
        block
    }
}

impl Worker {
    fn next_block(&mut self) -> Block {
        let mut output = Vec::new();
        let mut frames = 0;
        // A file may consist of thousands of small pieces.
        while !self.ended && frames < BLOCK_FRAMES {
            let read = self.sound.read(READ_BYTES).map_err(|error| {
                DecodeError::Unavailable(format!("cannot read the audio file: {error}"))
            })?;
            match read {
                Some((format, bytes)) if can_convert(&format) => {
                    frames += bytes.len() / format.frame_bytes().max(1) as usize;
                    self.convert(format, &bytes, &mut output)?;
                }
                _ => self.ended = true,
            }
        }
        if self.ended
            && let Some(converter) = self.converter.take()
        {
            converter.finish(&mut output);
        }
        Ok(Some(output))
    }

    fn convert(
        &mut self,
        format: Format,
        bytes: &[u8],
        output: &mut Vec<i16>,
    ) -> Result<(), DecodeError> {
        let is_other = |converter: &mut Converter| converter.format != format;
        if let Some(former) = self.converter.take_if(is_other) {
            former.finish(output);
        }
        let converter = match &mut self.converter {
            Some(converter) => converter,
            none => none.insert(Converter::new(format)?),
        };
        converter.push(bytes, output);
        Ok(())
    }
}

/// Converts samples of one format to 16 kHz mono.
struct Converter {
    format: Format,
    /// `None` for the format that fast clients send, which needs no conversion.
    steps: Option<(Mono, Resampler)>,
}

impl Converter {
    fn new(format: Format) -> Result<Self, DecodeError> {
        let is_plain = format
            == Format {
                channels: 1,
                rate: SAMPLE_RATE,
                encoding: Encoding::Integer,
                bytes: 2,
                is_big_endian: false,
            };
        let steps = if is_plain {
            None
        } else {
            let resampler = Resampler::new(format.rate).map_err(|error| {
                DecodeError::Undecodable(format!("a rate of {} Hz: {error}", format.rate))
            })?;
            let mono = Mono::new(usize::from(format.channels), format.rate);
            Some((mono, resampler))
        };
        Ok(Self { format, steps })
    }

    fn push(&mut self, bytes: &[u8], output: &mut Vec<i16>) {
        let Some((mono, resampler)) = &mut self.steps else {
            let samples = bytes.chunks_exact(2);
            output.extend(samples.map(|pair| i16::from_le_bytes([pair[0], pair[1]])));
            return;
        };
        let mut samples = Vec::with_capacity(bytes.len() / usize::from(self.format.bytes.max(1)));
        self.format.read(bytes, &mut samples);
        let mut mixed =
            Vec::with_capacity(samples.len() / usize::from(self.format.channels.max(1)));
        mono.push(&samples, &mut mixed);
        resampler.push(&mixed, output);
    }

    fn finish(self, output: &mut Vec<i16>) {
        let Some((mut mono, mut resampler)) = self.steps else {
            return;
        };
        let mut mixed = Vec::new();
        mono.finish(&mut mixed);
        resampler.push(&mixed, output);
        resampler.finish(output);
    }
}
