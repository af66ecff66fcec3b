//! The world around a tree as a test scripts it: engines, their launcher, and a decoder.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Notify, watch};

use crate::ports::{
    AudioChunk, AudioDecoder, AudioSource, Calibration, ChunkRequest, ChunkStream, DecodeError,
    Engine, EngineError, EngineExit, EngineInfo, EngineLauncher, LaunchError, SAMPLE_RATE,
    WorkerId,
};
use crate::transcript::{ChunkTranscript, Segment};

/// How long a scripted engine works on a chunk.
pub const WORK: Duration = Duration::from_secs(1);
/// How long its start takes, by its own word and on the clock.
pub const START: Duration = Duration::from_secs(2);
/// The tree's bound on that.
pub const CHUNK_TIMEOUT: Duration = Duration::from_secs(60);

pub fn crash() -> EngineExit {
    EngineExit::Crashed {
        signal: "SIGSEGV".to_owned(),
    }
}

pub fn killed() -> EngineExit {
    EngineExit::Killed {
        signal: "SIGKILL".to_owned(),
    }
}

/// What an engine does with its next chunk. Without a plan it answers.
#[derive(Clone, Debug)]
pub enum ChunkPlan {
    Answer,
    Die(EngineExit),
    Hang,
    /// Hangs, and stays when it is killed.
    HangForGood,
    Fail,
    Panic,
}

/// What the next launch gives. Without a plan it gives an engine that answers everything.
pub enum LaunchPlan {
    Up(Vec<ChunkPlan>),
    Fail(LaunchError),
}

/// What happened, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    Launched(String),
    Chunk {
        worker: String,
        index: usize,
        language: Option<String>,
    },
    /// This worker crashed on poisonous audio.
    Poisoned(String),
    Aborted,
    Stopped,
}

/// The script and the record of one test.
#[derive(Default)]
pub struct World {
    launches: Mutex<VecDeque<LaunchPlan>>,
    seen: Mutex<Vec<Seen>>,
    /// Chunks that decoders have given.
    pub chunks_decoded: AtomicUsize,
    /// Decoders alive.
    pub open_decoders: AtomicUsize,
    /// What each engine says it holds.
    pub resident_bytes: AtomicU64,
}

impl World {
    pub fn plan(self: &Arc<Self>, plan: LaunchPlan) {
        lock(&self.launches).push_back(plan);
    }

    pub fn seen(&self) -> Vec<Seen> {
        lock(&self.seen).clone()
    }

    /// The workers launched so far, in order.
    pub fn launched(&self) -> Vec<String> {
        let seen = lock(&self.seen);
        let launched = seen.iter().filter_map(|seen| match seen {
            Seen::Launched(worker) => Some(worker.clone()),
            _ => None,
        });
        launched.collect()
    }

    pub fn count(&self, what: &Seen) -> usize {
        lock(&self.seen).iter().filter(|seen| *seen == what).count()
    }

    fn saw(&self, what: Seen) {
        lock(&self.seen).push(what);
    }
}

pub fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub struct ScriptedEngine {
    worker: String,
    info: EngineInfo,
    plans: Mutex<VecDeque<ChunkPlan>>,
    exit: watch::Sender<Option<EngineExit>>,
    abort: Notify,
    unkillable: AtomicBool,
    world: Arc<World>,
}

impl ScriptedEngine {
    fn die(&self, exit: EngineExit) {
        self.exit.send_if_modified(|current| {
            let first = current.is_none();
            current.get_or_insert(exit);
            first
        });
    }
}

#[async_trait]
impl Engine for ScriptedEngine {
    fn info(&self) -> &EngineInfo {
        &self.info
    }

    async fn transcribe(&self, request: ChunkRequest) -> Result<ChunkTranscript, EngineError> {
        self.world.saw(Seen::Chunk {
            worker: self.worker.clone(),
            index: request.audio.index,
            language: request.language.clone(),
        });
        let mut plan = lock(&self.plans).pop_front().unwrap_or(ChunkPlan::Answer);
        if request.audio.samples[0] == POISON {
            self.world.saw(Seen::Poisoned(self.worker.clone()));
            plan = ChunkPlan::Die(crash());
        }
        tokio::select! {
            () = tokio::time::sleep(WORK) => {}
            () = self.abort.notified() => {
                self.world.saw(Seen::Aborted);
                return Err(EngineError::Aborted);
            }
        }
        match plan {
            ChunkPlan::Answer => Ok(answer(&request)),
            ChunkPlan::Fail => Err(EngineError::Failed("scripted".to_owned())),
            ChunkPlan::Panic => panic!("scripted"),
            ChunkPlan::Die(exit) => {
                self.die(exit.clone());
                Err(EngineError::Exited(exit))
            }
            ChunkPlan::HangForGood => {
                self.unkillable.store(true, Ordering::SeqCst);
                std::future::pending().await
            }
            ChunkPlan::Hang => std::future::pending().await,
        }
    }

    fn abort(&self) {
        self.abort.notify_waiters();
    }

    async fn exited(&self) -> EngineExit {
        let mut exit = self.exit.subscribe();
        let exit = exit.wait_for(Option::is_some).await.expect("self is alive");
        exit.clone().expect("some")
    }

    async fn stop(&self, _grace: Duration) -> EngineExit {
        self.world.saw(Seen::Stopped);
        self.die(EngineExit::Stopped);
        EngineExit::Stopped
    }

    fn kill_timed_out(&self) {
        if !self.unkillable.load(Ordering::SeqCst) {
            self.die(EngineExit::TimedOut);
        }
    }

    fn resident_bytes(&self) -> Option<u64> {
        Some(self.world.resident_bytes.load(Ordering::SeqCst))
    }
}

/// Every chunk's text is its index, said once in its middle.
fn answer(request: &ChunkRequest) -> ChunkTranscript {
    ChunkTranscript {
        segments: vec![Segment {
            id: 0,
            seek: 0,
            start: 0.0,
            end: request.audio.duration_seconds(),
            text: format!(" {}", request.audio.index),
            tokens: vec![1, 2],
            temperature: request.temperature,
            avg_logprob: -0.5,
            compression_ratio: 1.0,
            no_speech_prob: 0.1,
        }],
        language: request.language.clone().unwrap_or_else(|| "es".to_owned()),
        language_probability: request.language.is_none().then_some(0.9),
        encoder_passes: 1,
        inference_seconds: WORK.as_secs_f64(),
    }
}

pub struct Launcher(pub Arc<World>);

#[async_trait]
impl EngineLauncher for Launcher {
    async fn launch(&self, worker: &WorkerId) -> Result<Arc<dyn Engine>, LaunchError> {
        self.0.saw(Seen::Launched(worker.to_string()));
        let plan = lock(&self.0.launches).pop_front();
        tokio::time::sleep(START).await;
        let plans = match plan {
            Some(LaunchPlan::Fail(error)) => return Err(error),
            Some(LaunchPlan::Up(plans)) => plans,
            None => Vec::new(),
        };
        Ok(Arc::new(ScriptedEngine {
            worker: worker.to_string(),
            info: EngineInfo {
                model: "scripted".to_owned(),
                multilingual: true,
                process_id: Some(self.0.launched().len() as u32),
                load_time: START,
                calibration: Some(Calibration {
                    audio_seconds: 10.0,
                    inference_seconds: WORK.as_secs_f64(),
                }),
            },
            plans: Mutex::new(plans.into()),
            exit: watch::Sender::new(None),
            abort: Notify::new(),
            unkillable: AtomicBool::new(false),
            world: Arc::clone(&self.0),
        }))
    }
}

/// Audio of such samples crashes every engine.
const POISON: i16 = 666;

/// A source's path says what it decodes to: `3` is three chunks of 10 s, `bad` is not audio and
/// `2bad` breaks off after two chunks; `poison` is a chunk that no engine survives.
pub struct Decoder(pub Arc<World>);

struct Chunks {
    world: Arc<World>,
    total: usize,
    broken: bool,
    sample: i16,
    given: usize,
}

const CHUNK_SAMPLES: usize = 10 * SAMPLE_RATE as usize;

#[async_trait]
impl AudioDecoder for Decoder {
    async fn open(&self, source: &AudioSource) -> Result<Box<dyn ChunkStream>, DecodeError> {
        let script = source.path().to_string_lossy();
        let poison = script == "poison";
        let chunks = script.trim_end_matches("bad").parse();
        let chunks = chunks.unwrap_or(usize::from(poison));
        self.0.open_decoders.fetch_add(1, Ordering::SeqCst);
        Ok(Box::new(Chunks {
            world: Arc::clone(&self.0),
            total: chunks,
            broken: script.ends_with("bad"),
            sample: if poison { POISON } else { 0 },
            given: 0,
        }))
    }
}

#[async_trait]
impl ChunkStream for Chunks {
    async fn next_chunk(&mut self) -> Result<Option<AudioChunk>, DecodeError> {
        if self.given == self.total {
            return if self.broken {
                Err(DecodeError::Undecodable("scripted".to_owned()))
            } else {
                Ok(None)
            };
        }
        let index = self.given;
        self.given += 1;
        self.world.chunks_decoded.fetch_add(1, Ordering::SeqCst);
        Ok(Some(AudioChunk {
            index,
            start_sample: (index * CHUNK_SAMPLES) as u64,
            samples: Arc::from(vec![self.sample; CHUNK_SAMPLES]),
        }))
    }

    fn decoded_samples(&self) -> u64 {
        (self.given * CHUNK_SAMPLES) as u64
    }

    fn claimed_duration(&self) -> Option<Duration> {
        let chunk = CHUNK_SAMPLES as u64 / u64::from(SAMPLE_RATE);
        Some(Duration::from_secs(self.total as u64 * chunk))
    }
}

impl Drop for Chunks {
    fn drop(&mut self) {
        self.world.open_decoders.fetch_sub(1, Ordering::SeqCst);
    }
}
