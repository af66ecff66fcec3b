//! The whole tree with scripted engines and decoders on a paused clock: time passes only when
//! nothing else can happen, so minutes take microseconds and nothing depends on the machine.

mod faults;
mod requests;
mod shutdown;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use ractor::ActorCell;
use tokio::sync::{Notify, watch};

use crate::dispatcher::DispatcherMessage;
use crate::ports::{
    AudioChunk, AudioDecoder, AudioSource, ChunkRequest, ChunkStream, DecodeError, Engine,
    EngineError, EngineExit, EngineInfo, EngineLauncher, LaunchError, SAMPLE_RATE, WorkerId,
};
use crate::transcript::{ChunkTranscript, Segment};
use crate::{Job, Options, Ports, Stt, TreeConfig, TreeEnded};

/// How long a scripted engine works on a chunk.
pub const WORK: Duration = Duration::from_secs(1);
/// The tree's bound on that.
pub const CHUNK_TIMEOUT: Duration = Duration::from_secs(60);

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
        index: usize,
        language: Option<String>,
    },
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
}

impl World {
    pub fn plan(self: &Arc<Self>, plan: LaunchPlan) {
        lock(&self.launches).push_back(plan);
    }

    pub fn seen(&self) -> Vec<Seen> {
        lock(&self.seen).clone()
    }

    pub fn count(&self, what: &Seen) -> usize {
        lock(&self.seen).iter().filter(|seen| *seen == what).count()
    }

    fn saw(&self, what: Seen) {
        lock(&self.seen).push(what);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub struct ScriptedEngine {
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
            index: request.audio.index,
            language: request.language.clone(),
        });
        let plan = lock(&self.plans).pop_front().unwrap_or(ChunkPlan::Answer);
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
        None
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

struct Launcher(Arc<World>);

#[async_trait]
impl EngineLauncher for Launcher {
    async fn launch(&self, worker: &WorkerId) -> Result<Arc<dyn Engine>, LaunchError> {
        self.0.saw(Seen::Launched(worker.to_string()));
        let plan = lock(&self.0.launches).pop_front();
        let plans = match plan {
            Some(LaunchPlan::Fail(error)) => return Err(error),
            Some(LaunchPlan::Up(plans)) => plans,
            None => Vec::new(),
        };
        Ok(Arc::new(ScriptedEngine {
            info: EngineInfo {
                model: "scripted".to_owned(),
                multilingual: true,
                process_id: None,
                load_time: Duration::ZERO,
                calibration: None,
            },
            plans: Mutex::new(plans.into()),
            exit: watch::Sender::new(None),
            abort: Notify::new(),
            unkillable: AtomicBool::new(false),
            world: Arc::clone(&self.0),
        }))
    }
}

/// A source's path says what it decodes to: `3` is three chunks of 10 s, `bad` is not audio and
/// `2bad` breaks off after two chunks.
struct Decoder(Arc<World>);

struct Chunks {
    world: Arc<World>,
    total: usize,
    broken: bool,
    given: usize,
}

const CHUNK_SAMPLES: usize = 10 * SAMPLE_RATE as usize;

#[async_trait]
impl AudioDecoder for Decoder {
    async fn open(&self, source: &AudioSource) -> Result<Box<dyn ChunkStream>, DecodeError> {
        let script = source.path().to_string_lossy();
        let chunks = script.trim_end_matches("bad").parse().unwrap_or(0);
        self.0.open_decoders.fetch_add(1, Ordering::SeqCst);
        Ok(Box::new(Chunks {
            world: Arc::clone(&self.0),
            total: chunks,
            broken: script.ends_with("bad"),
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
            samples: Arc::from(vec![0; CHUNK_SAMPLES]),
        }))
    }

    fn decoded_samples(&self) -> u64 {
        (self.given * CHUNK_SAMPLES) as u64
    }

    fn claimed_duration(&self) -> Option<Duration> {
        None
    }
}

impl Drop for Chunks {
    fn drop(&mut self) {
        self.world.open_decoders.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A running tree that must be ended with [`Tree::end`].
pub struct Tree {
    pub stt: Stt,
    pub world: Arc<World>,
    ended: TreeEnded,
}

impl Tree {
    /// A tree over a world with these launches planned; not waiting until it is ready.
    pub async fn start(launches: Vec<LaunchPlan>) -> Self {
        let world = Arc::new(World::default());
        for plan in launches {
            world.plan(plan);
        }
        let ports = Ports {
            launcher: Arc::new(Launcher(Arc::clone(&world))),
            decoder: Arc::new(Decoder(Arc::clone(&world))),
        };
        let config = TreeConfig {
            chunk_timeout: CHUNK_TIMEOUT,
            stop_grace: Duration::from_secs(5),
            start_estimate: Duration::from_secs(8),
            max_queue: Duration::from_secs(600),
        };
        let (stt, ended) = Stt::start(ports, config).await.expect("the tree starts");
        Self { stt, world, ended }
    }

    /// The same, with its first engine up.
    pub async fn ready(launches: Vec<LaunchPlan>) -> Self {
        let tree = Self::start(launches).await;
        tree.stt.ready().await.expect("ready");
        tree
    }

    /// Drains, and fails if any actor is left: each holds a share of the status.
    pub async fn end(mut self) {
        self.stt.drain(Duration::from_secs(600));
        self.ended.wait().await;
        eventually("no actor is left", || {
            Arc::strong_count(&self.stt.status) == 1
        })
        .await;
        assert_eq!(self.world.open_decoders.load(Ordering::SeqCst), 0);
    }

    /// The Dispatcher that runs now.
    pub fn dispatcher(&self) -> ActorCell {
        self.children::<DispatcherMessage>().remove(0)
    }

    /// The Supervisor's children that hear messages of this type.
    pub fn children<M: ractor::Message>(&self) -> Vec<ActorCell> {
        let children = self.stt.supervisor.get_cell().get_children();
        let mut found: Vec<_> = children
            .into_iter()
            .filter(|child| child.is_message_type_of::<M>() == Some(true))
            .collect();
        found.sort_by_key(ActorCell::get_id);
        found
    }
}

pub fn job(script: &str) -> Job {
    Job {
        request_id: Arc::from("test"),
        source: AudioSource::file(script),
        options: Options::default(),
    }
}

/// Waits, in scripted time, until a condition holds.
pub async fn eventually(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..10_000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never happened: {what}");
}
