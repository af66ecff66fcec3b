//! PCM WAV, read in this process with hound: 8, 16, 24 and 32 bit and 32 bit float, any rate and
//! any number of channels.
//!
//! What is not certainly that (compressed WAV, RF64, headers of live streams that never learned
//! their length, unusual sample containers) is left to ffmpeg, which knows all of it.

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

/// Frames that are read in one go: a few seconds, so that a hand-over between threads costs
/// nothing and memory stays small.
const BLOCK_FRAMES: usize = 65_536;

/// More channels than any recorder has.
const MOST_CHANNELS: u16 = 64;

/// What a file turned out to be.
pub(crate) enum Inspected {
    /// For this module.
    Pcm(WavSource),
    /// A WAV header that no sound follows.
    NoSamples,
    /// Anything else.
    Other(File),
}

/// Looks at the content of `file`. Blocking.
pub(crate) fn inspect(mut file: File) -> io::Result<Inspected> {
    let layout = riff::layout(&mut BufReader::new(&mut file))?;
    file.rewind()?;
    let for_hound = match layout {
        Layout::Pcm(data) => data.channels <= MOST_CHANNELS && can_resample(data.rate),
        // Nothing of it was checked: hound, which skips odd chunks differently, could find a
        // header that asks for gigabytes.
        Layout::NoData => return Ok(Inspected::NoSamples),
        Layout::Other => false,
    };
    if !for_hound {
        return Ok(Inspected::Other(file));
    }
    let length = file.metadata()?.len();
    let opened = WavReader::new(BufReader::with_capacity(1 << 16, file.try_clone()?));
    match opened {
        // hound must have read the same header.
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
    /// The block being read: kept here, so that a caller who stopped waiting loses nothing.
    reading: Option<JoinHandle<(Box<Worker>, Block)>>,
}

struct Worker {
    spec: hound::WavSpec,
    input: Input,
    /// Made with the first block.
    resampler: Option<Resampler>,
    mono: Mono,
    ended: bool,
}

/// How samples are read.
enum Input {
    /// By hound, one after the other.
    Converted(WavReader<BufReader<File>>),
    /// As they are: the file at its next sample, and how many bytes of samples are left. What clients
    /// that mean to be fast send is read in whole blocks.
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
        // A header may claim more than is there; never believe it beyond the file's end.
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

    /// By the header, but never longer than the file.
    pub(crate) fn claimed_duration(&self) -> Duration {
        self.claimed
    }

    /// The next samples, `None` at the end. Reads on a thread where blocking is allowed.
    pub(crate) async fn next_block(&mut self) -> Block {
        // No other thread is needed to learn that it is over.
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

    /// Hands up to a block's worth of frames to `each`, and notes the end of the data. A file that
    /// ends before its header says so just ends; an incomplete last frame is dropped.
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

/// A block of samples that need no conversion; whether it was the last one. A file that ends before its
/// header says so just ends.
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

/// hound reports the end of the file as an error of its own making, without a system's code.
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
    DecodeError::Unavailable(format!("the audio file could not be read: {error}"))
}
