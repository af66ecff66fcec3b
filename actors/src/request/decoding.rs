//! The decoding task of a Transcription: reports chunks as the request's memory budget allows.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::domain::chunk::{AudioChunk, AudioSource, MAX_CHUNK, samples_to_seconds};
use crate::domain::error::DecodeError;
use crate::domain::job::JobAudio;
use crate::ports::{AudioDecoder, ChunkStream, DecodeOptions, Decoded};
use crate::status::NodeStatus;
use crate::status::admission::outstanding_chunks;
use crate::status::chunk_length::{SHORT_STREAMED, streamed_length, target_length};
use crate::status::cost::Cost;

/// The share of a decoded chunk in the memory budgets of its request and of all requests.
#[derive(Debug)]
pub struct ChunkPermit {
    _of_request: OwnedSemaphorePermit,
    of_all: Option<OwnedSemaphorePermit>,
}

impl ChunkPermit {
    /// Gives back the share in the budget of all requests.
    #[must_use]
    pub fn of_its_request_alone(mut self) -> Self {
        self.of_all = None;
        self
    }
}

/// The result of the decoding task.
#[derive(Debug)]
pub struct DecodedAudio {
    /// Length of the audio in samples, silence included.
    pub samples: u64,
    /// Seconds spent waiting for the decoder.
    pub decode_seconds: f64,
}

/// The memory budget of a request: one chunk for each lane and a few more, within the budget of all
/// requests.
pub(crate) struct ChunkBudget {
    status: Arc<NodeStatus>,
    of_request: Arc<Semaphore>,
    of_all: Arc<Semaphore>,
    /// Total number of permits in `of_request`.
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

    /// Waits until the budgets allow another chunk. Lanes that started in the meantime raise the budget.
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

/// The state of decoding.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Position {
    /// Length of the audio in seconds, as far as it is known: what the container states, or what was
    /// decoded so far, whichever is longer.
    pub known: f64,
    /// Seconds from the start that are final: either part of a chunk, or silence.
    pub settled: f64,
    /// Seconds spent waiting for the decoder.
    pub decode_seconds: f64,
}

impl Position {
    fn of(stream: &dyn ChunkStream, waited: Duration) -> Self {
        let so_far = samples_to_seconds(stream.decoded_samples());
        let claimed = stream.claimed_duration().map_or(0.0, |d| d.as_secs_f64());
        Self {
            known: so_far.max(claimed),
            settled: samples_to_seconds(stream.settled_samples()),
            decode_seconds: waited.as_secs_f64(),
        }
    }
}

/// A report of the decoding task.
#[derive(Debug)]
pub(crate) enum DecodeProgress {
    /// A chunk is decoded.
    Chunk {
        /// Its audio.
        chunk: AudioChunk,
        /// The target length that the decoder was given.
        target: Duration,
        /// Its share of the memory budgets, released when the chunk is done.
        permit: ChunkPermit,
        /// The state of decoding after the chunk.
        position: Position,
    },
    /// Only silence since the last report.
    Silence(Position),
}

/// The target lengths of a request's chunks.
pub(crate) struct Lengths {
    /// Target lengths from an earlier, equal request: with them the audio is cut in the same places.
    pub(crate) before: Vec<Duration>,
    /// Whether the client receives text as it is made.
    pub(crate) streamed: bool,
    /// Whether the lengths are independent of the lanes' speed: among several languages, another cut may give a
    /// stretch another language.
    pub(crate) steady: bool,
}

impl Lengths {
    /// The target length of chunk `index`.
    fn of(&self, index: usize, cost: Option<Cost>) -> Duration {
        let cost = if self.steady { Some(Cost::FREE) } else { cost };
        match self.before.get(index) {
            Some(before) => *before,
            None if self.streamed => streamed_length(cost, index),
            None => target_length(cost),
        }
    }
}

/// Decodes the whole audio, one chunk for each permit. `report` returns whether the request still runs.
///
/// # Errors
/// The audio cannot be decoded, the request ended, or the server stops.
pub(crate) async fn decode(
    decoder: &dyn AudioDecoder,
    audio: &JobAudio,
    options: DecodeOptions,
    lengths: Lengths,
    budget: ChunkBudget,
    report: impl Fn(DecodeProgress) -> bool,
) -> Result<DecodedAudio, DecodeError> {
    match audio {
        JobAudio::File(file) => decode_file(decoder, file, options, lengths, budget, report).await,
        JobAudio::Decoded(chunk) => pass_on(chunk.clone(), budget, report).await,
    }
}

/// Reports audio that is decoded already.
async fn pass_on(
    chunk: AudioChunk,
    mut budget: ChunkBudget,
    report: impl Fn(DecodeProgress) -> bool,
) -> Result<DecodedAudio, DecodeError> {
    let samples = chunk.end_sample();
    let seconds = samples_to_seconds(samples);
    // Its length is given, so there is no target for the next one.
    let progress = DecodeProgress::Chunk {
        target: MAX_CHUNK,
        permit: budget.permit().await?,
        position: Position {
            known: seconds,
            settled: seconds,
            decode_seconds: 0.0,
        },
        chunk,
    };
    if !report(progress) {
        return Err(request_ended());
    }
    Ok(DecodedAudio {
        samples,
        decode_seconds: 0.0,
    })
}

fn request_ended() -> DecodeError {
    DecodeError::Unavailable("the request has ended".to_owned())
}

async fn decode_file(
    decoder: &dyn AudioDecoder,
    source: &AudioSource,
    options: DecodeOptions,
    mut lengths: Lengths,
    mut budget: ChunkBudget,
    report: impl Fn(DecodeProgress) -> bool,
) -> Result<DecodedAudio, DecodeError> {
    let mut waited = Duration::ZERO;
    let begin = Instant::now();
    let mut stream: Box<dyn ChunkStream> = decoder.open(source, options).await?;
    waited += begin.elapsed();
    stream.ready().await;
    let mut permit = None;
    if lengths.streamed {
        permit = Some(budget.permit().await?);
        let begin = Instant::now();
        // Not by the length that a container states, which may be missing, late or wrong.
        lengths.streamed = !stream.ends_within(SHORT_STREAMED).await?;
        waited += begin.elapsed();
    }
    let mut chunks = 0;
    let mut target = lengths.of(chunks, budget.status.cost());
    loop {
        let held = match permit.take() {
            Some(held) => held,
            None => budget.permit().await?,
        };
        let begin = Instant::now();
        let next = stream.next(target).await?;
        waited += begin.elapsed();
        let position = Position::of(stream.as_ref(), waited);
        let progress = match next {
            Some(Decoded::Chunk(chunk)) => {
                chunks += 1;
                let next = lengths.of(chunks, budget.status.cost());
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
            return Err(request_ended());
        }
    }
}

async fn acquire(permits: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, DecodeError> {
    let acquired = Arc::clone(permits).acquire_owned().await;
    acquired.map_err(|_closed| DecodeError::Unavailable("the server is stopping".to_owned()))
}
