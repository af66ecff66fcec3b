//! Decodes any format with an ffmpeg process.
//!
//! The file is ffmpeg's standard input, opened by this process and read by ffmpeg as `/dev/stdin`: a name
//! without directory, dash or extension. So only the content determines the format, ffmpeg cannot mistake a
//! path for an option or a protocol, and no path can appear in a message. ffmpeg may open only files, and
//! only formats that contain their own sound: playlists and scripts, which could name other files, are
//! rejected.
//!
//! ffmpeg runs in a process group of its own with an almost empty environment, and is killed when the source
//! is dropped (`process`). Its output is read on demand; it waits while its pipe is full. ffmpeg decodes and
//! resamples; its output has all channels and the time of each packet (`packets`), so that the time line
//! (`timeline`) and the mix are made here.
//!
//! If a file has several audio tracks, ffmpeg chooses one (`tracks`). A length that the file cannot have is
//! checked by counting its packets (`length`).

mod file_start;
mod length;
mod log;
mod packets;
mod process;
mod timeline;
mod tracks;

use std::collections::VecDeque;
use std::fs::File;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use stt_actors::domain::chunk::SAMPLE_RATE;
use stt_actors::domain::error::DecodeError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Block, flac};
use crate::audio::convert::mono::Mono;
use crate::audio::convert::resample::to_i16;
use crate::audio::stream::too_long;
use length::PacketCount;
use packets::PacketReader;
use process::{Input, Process, Task};
use timeline::{Part, Timeline};
use tracks::{Taken, TrackChoice};

/// By how much a container may overstate its length.
const ROUNDING: Duration = Duration::from_secs(1);

/// How ffmpeg runs.
#[derive(Clone, Debug)]
pub(crate) struct FfmpegSettings {
    pub(crate) program: PathBuf,
    /// The longest accepted audio.
    pub(crate) max_audio: Duration,
    /// The longest time without output while a stream waits for the process.
    pub(crate) stall: Duration,
    /// A slot for each process that may exist.
    pub(crate) slots: Arc<Semaphore>,
}

/// A file as a stream of 16 kHz mono blocks, decoded by ffmpeg.
pub(crate) struct FfmpegSource {
    settings: FfmpegSettings,
    file: File,
    /// Held while there is a process.
    slot: Option<OwnedSemaphorePermit>,
    state: State,
    choice: TrackChoice,
    /// The files that were joined to this one, once they are known; none if it is a single file.
    parts: Option<Vec<Range<u64>>>,
    /// The number of the current part.
    part: usize,
    any_sound: bool,
    /// The length that the container claims, or that was counted.
    length: Option<Duration>,
    /// Whether the length was checked.
    is_length_known: bool,
    /// Blocks that are ready.
    blocks: VecDeque<Block>,
}

enum State {
    /// The next read starts a process.
    Waiting,
    Decoding(Box<Decoding>),
    /// Packets are counted, because the claimed length is doubtful.
    Counting(Box<Process>, PacketCount),
    Ended,
}

impl FfmpegSource {
    pub(crate) fn new(settings: FfmpegSettings, file: File) -> Self {
        Self {
            settings,
            file,
            slot: None,
            state: State::Waiting,
            choice: TrackChoice::default(),
            parts: None,
            part: 0,
            any_sound: false,
            length: None,
            is_length_known: false,
            blocks: VecDeque::new(),
        }
    }

    /// The length that the container claims, once ffmpeg has reported it.
    pub(crate) fn claimed_duration(&self) -> Option<Duration> {
        self.length
    }

    /// Waits for a slot for the process. That may take as long as other files take.
    pub(crate) async fn ready(&mut self) {
        if matches!(self.state, State::Waiting) && self.slot.is_none() {
            // The semaphore is never closed; if it were, decoding would go on without a limit.
            self.slot = self.settings.slots.clone().acquire_owned().await.ok();
        }
    }

    /// The next part of the time line, `None` at the end. A caller that stops waiting and asks again loses
    /// nothing.
    pub(crate) async fn next_block(&mut self) -> Result<Option<Block>, DecodeError> {
        loop {
            if let Some(block) = self.blocks.pop_front() {
                return Ok(Some(block));
            }
            if matches!(self.state, State::Ended) {
                self.slot = None;
                return Ok(None);
            }
            if let Err(error) = self.step().await {
                self.state = State::Ended;
                self.slot = None;
                return Err(error);
            }
        }
    }

    /// Starts a process or reads from it.
    async fn step(&mut self) -> Result<(), DecodeError> {
        match &mut self.state {
            State::Waiting if self.parts.is_none() => self.find_parts().await,
            State::Waiting => self.start(),
            State::Decoding(_) => self.decode().await,
            State::Counting(process, count) => {
                let bytes = process.read().await?;
                let counted = count.feed(&bytes).then(|| count.length());
                counted.map_or(Ok(()), |counted| self.check_length(counted))
            }
            State::Ended => Ok(()),
        }
    }

    /// Finds out whether the file consists of several.
    async fn find_parts(&mut self) -> Result<(), DecodeError> {
        let unreadable = |error: &dyn std::fmt::Display| {
            DecodeError::Unavailable(format!("cannot read the audio file: {error}"))
        };
        let file = self.file.try_clone().map_err(|error| unreadable(&error))?;
        let parts = tokio::task::spawn_blocking(move || flac::joined_files(&file))
            .await
            .map_err(|error| unreadable(&error))?
            .map_err(|error| unreadable(&error))?;
        // The header of a part says nothing about the others.
        self.is_length_known = !parts.is_empty();
        self.parts = Some(parts);
        Ok(())
    }

    fn input(&self) -> Input<'_> {
        let part = self.parts.as_ref().and_then(|parts| parts.get(self.part));
        Input {
            file: &self.file,
            part: part.map(|part| (part.start, part.end)),
        }
    }

    /// Goes on with the next part, if there is one.
    fn next_part(&mut self) -> bool {
        self.part += 1;
        let count = self.parts.as_ref().map_or(0, Vec::len);
        self.part < count
    }

    fn start(&mut self) -> Result<(), DecodeError> {
        let task = Task::Decode(self.choice.track());
        let process = Process::start(&self.settings, self.input(), task)?;
        self.state = State::Decoding(Box::new(Decoding::new(process)));
        Ok(())
    }

    async fn decode(&mut self) -> Result<(), DecodeError> {
        let State::Decoding(decoding) = &mut self.state else {
            return Ok(());
        };
        // What the samples are is in the log.
        decoding.process.opened().await?;
        if !self.is_length_known {
            self.is_length_known = true;
            let claimed = decoding.process.log().claimed_duration();
            if claimed.is_some_and(|claimed| is_doubtful(claimed, &self.file, &self.settings)) {
                return self.count();
            }
            self.length = claimed;
        }
        self.choice.describe(&decoding.process.log());
        let bytes = decoding.process.read().await?;
        let blocks = if bytes.is_empty() {
            decoding.finish()
        } else {
            let limit = length_in_samples(self.settings.max_audio);
            decoding.take(&bytes, limit)?
        };
        let any_sound = decoding.any_sound;
        match self.choice.take(blocks) {
            Taken::Blocks(blocks) => self.blocks.extend(blocks),
            Taken::Silence => {}
            Taken::TooMuchSilence => {
                self.choice.next(None)?;
                self.state = State::Waiting;
                return Ok(());
            }
        }
        if bytes.is_empty() {
            let ended = decoding.process.end(any_sound).await;
            let ended = ended.map_err(|error| self.explained(error, any_sound));
            if self.choice.is_decided() {
                self.any_sound |= any_sound;
                self.state = State::Waiting;
                if self.next_part() {
                    return Ok(());
                }
                self.state = State::Ended;
                return if self.any_sound && !any_sound {
                    Ok(())
                } else {
                    ended
                };
            }
            self.choice.next(ended.err())?;
            self.state = State::Waiting;
        }
        Ok(())
    }

    /// Counts the packets, before the file is decoded.
    fn count(&mut self) -> Result<(), DecodeError> {
        let task = Task::List(self.choice.track());
        let process = Process::start(&self.settings, self.input(), task)?;
        let count = PacketCount::new(self.settings.max_audio + ROUNDING);
        self.state = State::Counting(Box::new(process), count);
        Ok(())
    }

    /// Rejects a file that is too long, and decodes any other.
    fn check_length(&mut self, counted: Duration) -> Result<(), DecodeError> {
        if counted > self.settings.max_audio + ROUNDING {
            return Err(too_long(self.settings.max_audio));
        }
        self.length = Some(counted).filter(|length| !length.is_zero());
        self.state = State::Waiting;
        Ok(())
    }

    /// The error for a file without sound, in words that help if its beginning is missing.
    fn explained(&self, error: DecodeError, any_sound: bool) -> DecodeError {
        match &error {
            DecodeError::Undecodable(_) | DecodeError::Empty(_) | DecodeError::NoAudioStream
                if !any_sound =>
            {
                let why = file_start::what_is_missing(&self.file);
                why.map_or(error, |why| DecodeError::Undecodable(why.into()))
            }
            _ => error,
        }
    }
}

/// Whether a file is too small for this length, or would be rejected for it.
fn is_doubtful(claimed: Duration, file: &File, settings: &FfmpegSettings) -> bool {
    let bytes = file.metadata().map_or(u64::MAX, |file| file.len());
    claimed > settings.max_audio + ROUNDING || length::is_implausible(claimed, bytes)
}

fn length_in_samples(length: Duration) -> u64 {
    length.as_secs() * u64::from(SAMPLE_RATE)
}

/// A process that decodes, and what becomes of its output.
struct Decoding {
    process: Process,
    reader: PacketReader,
    /// Created with the first packet.
    steps: Option<(Timeline, Mono)>,
    any_sound: bool,
}

impl Decoding {
    fn new(process: Process) -> Self {
        Self {
            process,
            reader: PacketReader::default(),
            steps: None,
            any_sound: false,
        }
    }

    /// Adds output of the process. `longest_gaps`: the limit of all gaps together, in samples.
    fn take(&mut self, bytes: &[u8], longest_gaps: u64) -> Result<Vec<Block>, DecodeError> {
        let packets = self
            .reader
            .feed(bytes)
            .map_err(|error| DecodeError::Unavailable(format!("reading from ffmpeg: {error}")))?;
        let mut parts = Vec::new();
        for packet in packets {
            let channels = self.reader.channels();
            let (timeline, _) = self.steps.get_or_insert_with(|| {
                let clock = self.process.log().clock();
                (
                    Timeline::new(channels, clock, longest_gaps),
                    Mono::new(channels, SAMPLE_RATE),
                )
            });
            self.any_sound = true;
            timeline.place(packet, &mut parts);
        }
        Ok(self.mixed(parts, false))
    }

    /// The last blocks.
    fn finish(&mut self) -> Vec<Block> {
        let mut parts = Vec::new();
        if let Some((timeline, _)) = &mut self.steps {
            timeline.finish(&mut parts);
        }
        self.mixed(parts, true)
    }

    fn mixed(&mut self, parts: Vec<Part>, is_end: bool) -> Vec<Block> {
        let Some((_, mono)) = &mut self.steps else {
            return Vec::new();
        };
        let mut blocks = Vec::new();
        let mut mixed = Vec::new();
        let add = |mixed: &mut Vec<f32>, blocks: &mut Vec<Block>| {
            if !mixed.is_empty() {
                blocks.push(Block::Samples(mixed.drain(..).map(to_i16).collect()));
            }
        };
        for part in parts {
            match part {
                Part::Samples(samples) => {
                    let scaled = samples.iter().map(|sample| f32::from(*sample) / 32_768.0);
                    mono.push(&scaled.collect::<Vec<f32>>(), &mut mixed);
                }
                Part::Gap(gap) => {
                    mono.finish(&mut mixed);
                    add(&mut mixed, &mut blocks);
                    blocks.push(Block::Gap(gap));
                }
            }
        }
        if is_end {
            mono.finish(&mut mixed);
        }
        add(&mut mixed, &mut blocks);
        blocks
    }
}
