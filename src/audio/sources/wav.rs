//! Reads PCM WAV in this process with hound: 8, 16, 24 and 32 bit and 32 bit float, any rate and any number
//! of channels.
//!
//! Other files (compressed WAV, RF64, live streams without a length in the header, unusual sample containers)
//! are left to ffmpeg, which supports them.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::time::Duration;

use hound::{SampleFormat, WavReader};
use stt_actors::domain::chunk::SAMPLE_RATE;
use stt_actors::domain::error::DecodeError;
use tokio::task::JoinHandle;

use super::riff::{self, Layout};
use crate::audio::convert::mono::Mono;
use crate::audio::convert::resample::{Resampler, can_resample};

/// Frames per read: a few seconds, so that switching threads costs little and memory stays small.
const BLOCK_FRAMES: usize = 65_536;

/// Most channels; no recorder has as many.
const MOST_CHANNELS: u16 = 64;

/// Result of inspecting a file.
pub(crate) enum Inspected {
    /// Plain PCM WAV.
    Pcm(WavSource),
    /// A WAV header without samples.
    NoSamples,
    /// Anything else.
    Other(File),
}

/// Inspects the content of `file`. Blocks.
pub(crate) fn inspect(mut file: File) -> io::Result<Inspected> {
    let layout = riff::layout(&mut BufReader::new(&mut file))?;
    file.rewind()?;
    let for_hound = match layout {
        Layout::Pcm(data) => data.channels <= MOST_CHANNELS && can_resample(data.rate),
        // Not passed to hound unchecked: it skips odd RIFF chunks differently and could find a header that
        // claims gigabytes.
        Layout::NoData => return Ok(Inspected::NoSamples),
        Layout::Other => false,
    };
    if !for_hound {
        return Ok(Inspected::Other(file));
    }
    let length = file.metadata()?.len();
    let opened = WavReader::new(BufReader::with_capacity(1 << 16, file.try_clone()?));
    match opened {
        // hound must agree with our reading of the header.
        Ok(reader) if reader.len() > 0 && is_sane(reader.spec()) => {
            Ok(Inspected::Pcm(WavSource::new(reader, length)))
        }
        Ok(_) | Err(_) => {
            file.rewind()?;
            Ok(Inspected::Other(file))
        }
    }
}

fn is_sane(spec: hound::WavSpec) -> bool {
    spec.channels <= MOST_CHANNELS && can_resample(spec.sample_rate)
}

/// Samples, or `None` at the end.
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
    spec: hound::WavSpec,
    input: Input,
    /// Created with the first block.
    resampler: Option<Resampler>,
    mono: Mono,
    ended: bool,
}

/// How samples are read from the file.
enum Input {
    /// One by one with hound.
    Converted(WavReader<BufReader<File>>),
    /// In whole blocks, without conversion, for the format that fast clients send: the file at its next
    /// sample, and the number of bytes left.
    Plain(BufReader<File>, u64),
}

impl Input {
    fn new(reader: WavReader<BufReader<File>>) -> Self {
        let spec = reader.spec();
        let is_plain = spec.channels == 1
            && spec.sample_rate == SAMPLE_RATE
            && spec.bits_per_sample == 16
            && spec.sample_format == SampleFormat::Int;
        if is_plain {
            let bytes = 2 * u64::from(reader.len());
            Self::Plain(reader.into_inner(), bytes)
        } else {
            Self::Converted(reader)
        }
    }
}

impl WavSource {
    fn new(reader: WavReader<BufReader<File>>, file_length: u64) -> Self {
        let spec = reader.spec();
        // A header may claim more than the file holds.
        let frame_bytes = u64::from(spec.channels) * u64::from(spec.bits_per_sample.max(8) / 8);
        let frames = u64::from(reader.duration()).min(file_length / frame_bytes.max(1));
        Self {
            claimed: Duration::from_secs_f64(frames as f64 / f64::from(spec.sample_rate.max(1))),
            worker: Some(Box::new(Worker {
                spec,
                input: Input::new(reader),
                resampler: None,
                mono: Mono::new(usize::from(spec.channels)),
                ended: false,
            })),
            reading: None,
        }
    }

    /// The duration of the header's claim, limited by the file's size.
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
        if self.ended {
            return Ok(None);
        }
        let mut output = Vec::new();
        if let Input::Plain(file, left) = &mut self.input {
            self.ended = read_plain(file, left, &mut output)?;
        } else {
            self.read_and_resample(&mut output)?;
        }
        Ok(Some(output))
    }

    fn read_and_resample(&mut self, output: &mut Vec<i16>) -> Result<(), DecodeError> {
        let spec = self.spec;
        match spec.sample_format {
            SampleFormat::Float => self.read_summed(|sample: f32| sample)?,
            SampleFormat::Int => {
                let scale = 1.0 / (1_u64 << (spec.bits_per_sample - 1)) as f32;
                self.read_summed(|sample: i32| sample as f32 * scale)?;
            }
        }
        let mono = self.mono.mean();
        let resampler = match &mut self.resampler {
            Some(resampler) => resampler,
            none => none.insert(Resampler::new(spec.sample_rate).map_err(|error| {
                DecodeError::Undecodable(format!("a rate of {} Hz: {error}", spec.sample_rate))
            })?),
        };
        resampler.push(&mono, output);
        if self.ended {
            resampler.finish(output);
        }
        Ok(())
    }

    /// Reads a block; `scaled` brings a sample to full scale 1.
    fn read_summed<S: hound::Sample + Copy>(
        &mut self,
        scaled: impl Fn(S) -> f32,
    ) -> Result<(), DecodeError> {
        let mut mono = std::mem::replace(&mut self.mono, Mono::new(0));
        let read = self.read_frames::<S>(|frame| {
            mono.push_frame(frame.iter().map(|sample| scaled(*sample)));
        });
        self.mono = mono;
        read
    }

    /// Passes up to a block of frames to `each`, and records the end of the data. A file that is shorter than
    /// its header claims simply ends; an incomplete last frame is dropped.
    fn read_frames<S: hound::Sample>(
        &mut self,
        mut each: impl FnMut(&[S]),
    ) -> Result<(), DecodeError> {
        let Input::Converted(reader) = &mut self.input else {
            self.ended = true;
            return Ok(());
        };
        let channels = usize::from(self.spec.channels);
        let mut samples = reader.samples::<S>();
        let mut frame = Vec::with_capacity(channels);
        for _ in 0..BLOCK_FRAMES {
            frame.clear();
            while frame.len() < channels {
                match samples.next() {
                    Some(Ok(sample)) => frame.push(sample),
                    Some(Err(error)) if !is_end_of_file(&error) => return Err(reading(&error)),
                    Some(Err(_)) | None => {
                        self.ended = true;
                        return Ok(());
                    }
                }
            }
            each(&frame);
        }
        Ok(())
    }
}

/// Reads a block of samples that need no conversion. Returns whether it was the last one. A file that is
/// shorter than its header claims simply ends.
fn read_plain(
    file: &mut BufReader<File>,
    left: &mut u64,
    output: &mut Vec<i16>,
) -> Result<bool, DecodeError> {
    let wanted = (*left).min(2 * BLOCK_FRAMES as u64);
    let mut bytes = Vec::with_capacity(wanted as usize);
    file.take(wanted)
        .read_to_end(&mut bytes)
        .map_err(|error| unreadable(&error))?;
    let samples = bytes.chunks_exact(2);
    output.extend(samples.map(|pair| i16::from_le_bytes([pair[0], pair[1]])));
    *left -= wanted;
    Ok(*left == 0 || (bytes.len() as u64) < wanted)
}

/// hound reports the end of the file as its own error, without an error code of the system.
fn is_end_of_file(error: &hound::Error) -> bool {
    matches!(error, hound::Error::IoError(error) if error.raw_os_error().is_none())
}

fn reading(error: &hound::Error) -> DecodeError {
    match error {
        hound::Error::IoError(error) => unreadable(error),
        other => DecodeError::Undecodable(format!("damaged WAV: {other}")),
    }
}

fn unreadable(error: &io::Error) -> DecodeError {
    DecodeError::Unavailable(format!("cannot read the audio file: {error}"))
}
