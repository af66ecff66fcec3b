//! The audio of one request: a source of samples, cut into chunks of speech.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use stt_actors::domain::chunk::{AudioChunk, SAMPLE_RATE, samples_to_seconds};
use stt_actors::domain::error::DecodeError;
use stt_actors::ports::{self, ChunkStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::chunker::Chunker;
use super::sources::Block;
use super::sources::compressed::{Decoded, ShortSource};
use super::sources::ffmpeg::{FfmpegSettings, FfmpegSource};
use super::sources::wav::WavSource;

/// Most audio without speech to decode in one turn, in samples.
const LONGEST_TURN: u64 = 30 * SAMPLE_RATE as u64;

/// Samples per call of the chunker: two seconds.
const DECODED_BLOCK: usize = 2 * SAMPLE_RATE as usize;

/// The right to decode; `None`: without a limit.
type Turn = Option<OwnedSemaphorePermit>;

/// Where the samples come from.
pub(super) enum Source {
    Wav(WavSource),
    Ffmpeg(Box<FfmpegSource>),
    /// Not decoded yet, with the settings of ffmpeg, which decodes unusual files.
    Short(ShortSource, FfmpegSettings),
    /// All samples, and how many of them the stream has read.
    Decoded(Vec<i16>, usize),
}

impl Source {
    /// Waits until the source can be read.
    async fn ready(&mut self) {
        match self {
            Self::Wav(_) | Self::Short(..) | Self::Decoded(..) => {}
            Self::Ffmpeg(ffmpeg) => ffmpeg.ready().await,
        }
    }

    /// The length that the container claims, if it does.
    fn claimed_duration(&self) -> Option<Duration> {
        match self {
            Self::Wav(wav) => Some(wav.claimed_duration()),
            Self::Ffmpeg(ffmpeg) => ffmpeg.claimed_duration(),
            Self::Short(..) => None,
            Self::Decoded(samples, _) => Some(length(samples)),
        }
    }

    async fn next_block(&mut self) -> Result<Option<Block>, DecodeError> {
        Ok(match self {
            Self::Wav(wav) => wav.next_block().await?.map(Block::Samples),
            Self::Ffmpeg(ffmpeg) => ffmpeg.next_block().await?,
            Self::Short(..) => None,
            Self::Decoded(samples, given) => {
                let block = samples[*given..].chunks(DECODED_BLOCK).next();
                *given += block.map_or(0, <[i16]>::len);
                block.map(|block| Block::Samples(block.to_vec()))
            }
        })
    }

    /// Decodes a short file in this turn and becomes the result. Returns the turn if the source is not a
    /// short file.
    async fn look_into(&mut self, turn: Turn) -> Result<Option<Turn>, DecodeError> {
        let Self::Short(short, ffmpeg) = self else {
            return Ok(Some(turn));
        };
        *self = match short.decode(turn).await? {
            Decoded::Samples(samples) => Self::Decoded(samples, 0),
            Decoded::Unusual(file) => {
                Self::Ffmpeg(Box::new(FfmpegSource::new(ffmpeg.clone(), file)))
            }
        };
        Ok(None)
    }
}

fn length(samples: &[i16]) -> Duration {
    Duration::from_secs_f64(samples_to_seconds(samples.len() as u64))
}

/// The chunks of one source, decoded on demand. A caller that stops waiting for a chunk and asks again loses
/// nothing.
pub(super) struct DecodedStream {
    source: Source,
    chunker: Chunker,
    /// Blocks that were decoded ahead.
    ahead: VecDeque<Block>,
    /// Chunks that are ready.
    cut: VecDeque<AudioChunk>,
    ended: bool,
    /// Samples of sound so far, without the gaps in it.
    sound_samples: u64,
    max_audio: Duration,
    turns: Arc<Semaphore>,
}

impl DecodedStream {
    pub(super) fn new(
        source: Source,
        chunker: Chunker,
        max_audio: Duration,
        turns: Arc<Semaphore>,
    ) -> Self {
        Self {
            source,
            chunker,
            ahead: VecDeque::new(),
            cut: VecDeque::new(),
            ended: false,
            sound_samples: 0,
            max_audio,
            turns,
        }
    }

    /// Waits until the source may decode.
    async fn turn(&mut self) -> Result<Turn, DecodeError> {
        loop {
            // First the slot, then the turn: a stream that waits for a slot must not hold a turn.
            self.source.ready().await;
            // The semaphore is never closed.
            let turn = self.turns.clone().acquire_owned().await.ok();
            if let Some(turn) = self.source.look_into(turn).await? {
                return Ok(turn);
            }
        }
    }

    /// The next block, which may have been decoded ahead.
    async fn next_block(&mut self) -> Result<Option<Block>, DecodeError> {
        match self.ahead.pop_front() {
            Some(block) => Ok(Some(block)),
            None => self.source.next_block().await,
        }
    }

    /// Decodes until a chunk is ready, the source ends, or the turn has lasted long enough.
    async fn decode(&mut self) -> Result<(), DecodeError> {
        let _turn = self.turn().await?;
        let until = self.chunker.pushed_samples() + LONGEST_TURN;
        while self.cut.is_empty() && !self.ended && self.chunker.pushed_samples() < until {
            let Some(block) = self.next_block().await? else {
                self.ended = true;
                self.cut.extend(self.chunker.flush());
                break;
            };
            self.take(&block)?;
            // Yield, so that a long silence does not block this thread.
            tokio::task::yield_now().await;
        }
        if self.ended && self.sound_samples == 0 {
            return Err(DecodeError::Empty("it has no sound in it".into()));
        }
        Ok(())
    }

    fn take(&mut self, block: &Block) -> Result<(), DecodeError> {
        match block {
            Block::Samples(samples) => {
                self.sound_samples += samples.len() as u64;
                self.cut.extend(self.chunker.push(samples));
            }
            Block::Gap(samples) => self.cut.extend(self.chunker.skip(*samples)),
        }
        let limit = self.max_audio.as_secs_f64() * f64::from(SAMPLE_RATE);
        if self.sound_samples as f64 > limit {
            return Err(too_long(self.max_audio));
        }
        Ok(())
    }
}

#[async_trait]
impl ChunkStream for DecodedStream {
    async fn ready(&mut self) {
        self.source.ready().await;
    }

    async fn ends_within(&mut self, limit: Duration) -> Result<bool, DecodeError> {
        let _turn = self.turn().await?;
        let limit = limit.as_secs_f64() * f64::from(SAMPLE_RATE);
        while self.ahead.iter().map(Block::samples).sum::<u64>() as f64 <= limit {
            match self.source.next_block().await? {
                Some(block) => self.ahead.push_back(block),
                None => return Ok(true),
            }
        }
        Ok(false)
    }

    async fn next(&mut self, target: Duration) -> Result<Option<ports::Decoded>, DecodeError> {
        self.chunker.aim_at(target);
        if self.cut.is_empty() && !self.ended {
            self.decode().await?;
        }
        Ok(match self.cut.pop_front() {
            Some(chunk) => Some(ports::Decoded::Chunk(chunk)),
            None if self.ended => None,
            None => Some(ports::Decoded::Silence),
        })
    }

    fn decoded_samples(&self) -> u64 {
        self.chunker.pushed_samples()
    }

    fn settled_samples(&self) -> u64 {
        // Chunks that are ready here are not settled yet.
        let waiting = self.cut.front().map(AudioChunk::start_sample);
        waiting.unwrap_or_else(|| self.chunker.settled_samples())
    }

    fn claimed_duration(&self) -> Option<Duration> {
        self.source.claimed_duration()
    }
}

/// The error for audio that is longer than `limit`.
pub(super) fn too_long(limit: Duration) -> DecodeError {
    DecodeError::TooLong {
        limit_seconds: limit.as_secs(),
    }
}
