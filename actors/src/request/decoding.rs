//! A Transcription's decoding task: brings its chunks, a few at a time, as memory allows.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::domain::chunk::{AudioChunk, AudioSource, samples_to_seconds};
use crate::domain::error::DecodeError;
use crate::ports::{AudioDecoder, ChunkStream, DecodeOptions, Decoded};
use crate::status::NodeStatus;
use crate::status::admission::outstanding_chunks;
use crate::status::chunk_length::{streamed_length, target_length};
use crate::status::cost::Cost;

/// A decoded chunk's share of what its request and of what all requests may hold in memory.
#[derive(Debug)]
pub struct ChunkPermit {
    _of_request: OwnedSemaphorePermit,
    of_all: Option<OwnedSemaphorePermit>,
}

impl ChunkPermit {
    /// Gives back what is everybody's.
    #[must_use]
    pub fn of_its_request_alone(mut self) -> Self {
        self.of_all = None;
        self
    }
}

/// What the decoding task says at the end.
#[derive(Debug)]
pub struct DecodedAudio {
    /// Length of the audio in samples, silence included.
    pub samples: u64,
    /// Seconds that were spent waiting for the decoder.
    pub decode_seconds: f64,
}

/// What a request may hold in memory: a few chunks beyond one for each lane, and its share of what
/// all requests together may.
pub(crate) struct ChunkBudget {
    status: Arc<NodeStatus>,
    of_request: Arc<Semaphore>,
    of_all: Arc<Semaphore>,
    /// Permits that `of_request` was made of.
    granted: usize,
}

impl ChunkBudget {
    pub(crate) fn new(status: Arc<NodeStatus>, of_all: Arc<Semaphore>) -> Self {
        let granted = outstanding_chunks(status.lanes());
        Self {
            status,
            of_request: Arc::new(Semaphore::new(granted)),
            of_all,
            granted,
        }
    }

    /// Waits until one more chunk may be held. Lanes that came up meanwhile are counted in.
    async fn permit(&mut self) -> Result<ChunkPermit, DecodeError> {
        let allowed = outstanding_chunks(self.status.lanes());
        if allowed > self.granted {
            self.of_request.add_permits(allowed - self.granted);
            self.granted = allowed;
        }
        Ok(ChunkPermit {
            _of_request: acquire(&self.of_request).await?,
            of_all: Some(acquire(&self.of_all).await?),
        })
    }
}

/// How far decoding is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Position {
    /// Seconds of audio known of: the container's claim, or what was decoded so far.
    pub known: f64,
    /// Up to which second it is settled what is speech.
    pub settled: f64,
    /// Seconds that were spent waiting for the decoder.
    pub decode_seconds: f64,
}

/// A report of the decoding task on the way.
#[derive(Debug)]
pub(crate) enum DecodeProgress {
    /// A chunk is decoded.
    Chunk {
        /// Its audio.
        chunk: AudioChunk,
        /// The length that was asked for.
        target: Duration,
        /// Its share of the memory, released when the chunk is done.
        permit: ChunkPermit,
        /// The state of decoding after it.
        position: Position,
    },
    /// Nothing but silence since the last report.
    Silence(Position),
}

/// How long chunks shall be.
pub(crate) struct Lengths {
    /// Those of the same request when it was here before: only with them are the cuts the same.
    pub(crate) before: Vec<Duration>,
    /// Somebody reads along.
    pub(crate) streamed: bool,
}

impl Lengths {
    /// That of a chunk of a request which, by its container's word, is so long in all.
    fn of(&self, index: usize, claimed: Option<Duration>, cost: Option<Cost>) -> Duration {
        match self.before.get(index) {
            Some(before) => *before,
            None if self.streamed => streamed_length(cost, claimed, index),
            None => target_length(cost),
        }
    }
}

/// Decodes the whole source, a chunk at a time as permits come back. `report` returns whether the request
/// still runs.
pub(crate) async fn decode(
    decoder: &dyn AudioDecoder,
    source: &AudioSource,
    options: DecodeOptions,
    lengths: Lengths,
    mut budget: ChunkBudget,
    report: impl Fn(DecodeProgress) -> bool,
) -> Result<DecodedAudio, DecodeError> {
    let mut waited = Duration::ZERO;
    let begin = Instant::now();
    let mut stream: Box<dyn ChunkStream> = decoder.open(source, options).await?;
    waited += begin.elapsed();
    stream.ready().await;
    let mut permit = None;
    let mut chunks = 0;
    let mut target = lengths.of(chunks, stream.claimed_duration(), budget.status.cost());
    loop {
        let held = match permit.take() {
            Some(held) => held,
            None => budget.permit().await?,
        };
        let begin = Instant::now();
        let next = stream.next(target).await?;
        waited += begin.elapsed();
        let so_far = samples_to_seconds(stream.decoded_samples());
        let claimed = stream.claimed_duration().map_or(0.0, |d| d.as_secs_f64());
        let position = Position {
            known: so_far.max(claimed),
            settled: samples_to_seconds(stream.settled_samples()),
            decode_seconds: waited.as_secs_f64(),
        };
        let progress = match next {
            Some(Decoded::Chunk(chunk)) => {
                let claimed = stream.claimed_duration();
                chunks += 1;
                let next = lengths.of(chunks, claimed, budget.status.cost());
                DecodeProgress::Chunk {
                    chunk,
                    target: std::mem::replace(&mut target, next),
                    permit: held,
                    position,
                }
            }
            Some(Decoded::Silence) => {
                permit = Some(held);
                DecodeProgress::Silence(position)
            }
            None => {
                return Ok(DecodedAudio {
                    samples: stream.decoded_samples(),
                    decode_seconds: position.decode_seconds,
                });
            }
        };
        if !report(progress) {
            return Err(DecodeError::Unavailable("the request has ended".to_owned()));
        }
    }
}

async fn acquire(permits: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, DecodeError> {
    let acquired = Arc::clone(permits).acquire_owned().await;
    acquired.map_err(|_closed| DecodeError::Unavailable("the server is stopping".to_owned()))
}
