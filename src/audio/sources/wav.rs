//! Reads WAV in this process: samples that [`Format`] describes, any rate and any number of channels.
//!
//! Other files (compressed WAV, RF64, unusual sample containers) are left to ffmpeg, which supports them.

use std::fs::File;
use std::io::{self, Seek};
use std::time::Duration;

use stt_actors::domain::error::DecodeError;
use tokio::task::JoinHandle;

use super::riff::{Content, Sound};
use crate::audio::convert::pcm::{Converter, Format};

/// Frames per block: a few seconds, so that switching threads costs little.
const BLOCK_FRAMES: usize = 65_536;
/// Bytes per read, so that memory stays small with any number of channels.
const READ_BYTES: usize = 2 * BLOCK_FRAMES;

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
        Content::Sound(sound) if sound.format().as_ref().is_some_and(Format::can_convert) => {
            Ok(Inspected::Pcm(WavSource::new(sound)?))
        }
        Content::NoData => Ok(Inspected::NoSamples),
        Content::Sound(_) | Content::Other => {
            file.rewind()?;
            Ok(Inspected::Other(file))
        }
    }
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
                Some((format, bytes)) if format.can_convert() => {
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
        let is_other = |converter: &mut Converter| converter.format() != format;
        if let Some(former) = self.converter.take_if(is_other) {
            former.finish(output);
        }
        let converter = match &mut self.converter {
            Some(converter) => converter,
            none => none.insert(Converter::new(format).map_err(DecodeError::Undecodable)?),
        };
        converter.push(bytes, output);
        Ok(())
    }
}
