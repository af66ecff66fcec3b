//! One request's audio: a source of samples, cut into chunks.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use stt_actors::ports::{AudioChunk, ChunkStream, DecodeError, SAMPLE_RATE};
use tokio::sync::Semaphore;

use super::chunker::Chunker;
use super::ffmpeg::FfmpegSource;
use super::wav::WavSource;

/// Where the samples come from.
pub(super) enum Source {
    Wav(WavSource),
    Ffmpeg(FfmpegSource),
}

impl Source {
    /// Waits for what the source needs before it can be read.
    async fn ready(&mut self) {
        match self {
            Self::Wav(_) => {}
            Self::Ffmpeg(ffmpeg) => ffmpeg.ready().await,
        }
    }

    async fn next_block(&mut self) -> Result<Option<Vec<i16>>, DecodeError> {
        match self {
            Self::Wav(wav) => wav.next_block().await,
            Self::Ffmpeg(ffmpeg) => ffmpeg.next_block().await,
        }
    }
}

/// The chunks of one source, decoded as they are asked for. A caller who stops waiting for a chunk
/// and asks again loses nothing.
pub(super) struct DecodedStream {
    source: Source,
    chunker: Chunker,
    /// Chunks that were cut and not yet taken.
    cut: VecDeque<AudioChunk>,
    ended: bool,
    max_audio: Duration,
    turns: Arc<Semaphore>,
}

impl DecodedStream {
    pub(super) fn new(source: Source, max_audio: Duration, turns: Arc<Semaphore>) -> Self {
        Self {
            source,
            chunker: Chunker::default(),
            cut: VecDeque::new(),
            ended: false,
            max_audio,
            turns,
        }
    }

    /// Decodes until there is a chunk to take, or the end.
    async fn decode(&mut self) -> Result<(), DecodeError> {
        // First the slot, then the turn: who waits for a slot must not keep others from working.
        self.source.ready().await;
        let turns = self.turns.clone();
        // The semaphore is never closed.
        let _turn = turns.acquire().await.ok();
        while self.cut.is_empty() && !self.ended {
            if let Some(samples) = self.source.next_block().await? {
                self.take(&samples)?;
            } else {
                self.ended = true;
                self.cut.extend(self.chunker.flush());
            }
        }
        if self.chunker.pushed_samples() == 0 {
            return Err(DecodeError::Empty("it has no sound in it".into()));
        }
        Ok(())
    }

    fn take(&mut self, samples: &[i16]) -> Result<(), DecodeError> {
        self.cut.extend(self.chunker.push(samples));
        let limit = self.max_audio.as_secs_f64() * f64::from(SAMPLE_RATE);
        if self.chunker.pushed_samples() as f64 > limit {
            return Err(too_long(self.max_audio));
        }
        Ok(())
    }
}

#[async_trait]
impl ChunkStream for DecodedStream {
    async fn next_chunk(&mut self) -> Result<Option<AudioChunk>, DecodeError> {
        if self.cut.is_empty() && !self.ended {
            self.decode().await?;
        }
        Ok(self.cut.pop_front())
    }

    fn decoded_samples(&self) -> u64 {
        self.chunker.pushed_samples()
    }

    fn claimed_duration(&self) -> Option<Duration> {
        match &self.source {
            Source::Wav(wav) => Some(wav.claimed_duration()),
            Source::Ffmpeg(ffmpeg) => ffmpeg.claimed_duration(),
        }
    }
}

/// The refusal of audio that is longer than `limit`.
pub(super) fn too_long(limit: Duration) -> DecodeError {
    DecodeError::TooLong {
        limit_seconds: limit.as_secs(),
    }
}
