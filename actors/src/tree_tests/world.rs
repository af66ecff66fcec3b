//! The world around a tree as a test scripts it: engines, their launcher, and a decoder.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Notify, watch};

use crate::domain::chunk::{AudioChunk, AudioSource, SAMPLE_RATE, SPEECH_FRAME, SpeechTrack};
use crate::domain::error::{DecodeError, EngineError, EngineExit, LaunchError};
use crate::domain::ids::{ChunkIndex, WorkerId};
use crate::domain::transcript::{ChunkTranscript, Segment};
use crate::ports::{
    AudioDecoder, Calibration, ChunkRequest, ChunkStream, DecodeOptions, Decoded, DetectedLanguage,
    Engine, EngineInfo, EngineLauncher, LanguageHeard,
};

/// How long a scripted engine works on a chunk.
pub const WORK: Duration = Duration::from_secs(1);
/// How long it takes of that until it has heard the language.
pub const DETECTION: Duration = Duration::from_millis(200);
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
        index: ChunkIndex,
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
    /// The lengths that decoders were asked for, in seconds, a chunk each.
    pub targets: Mutex<Vec<u64>>,
    /// Decoders alive.
    pub open_decoders: AtomicUsize,
    /// Engines hear no abort: they are in their pass through the encoder.
    pub deaf: AtomicBool,
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
    /// It has the larger model.
    fn is_larger(&self) -> bool {
        self.worker.starts_with("fallback")
    }

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

    async fn transcribe(
        &self,
        request: ChunkRequest,
        heard: LanguageHeard,
    ) -> Result<ChunkTranscript, EngineError> {
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
        let work = async {
            tokio::time::sleep(DETECTION).await;
            if request.language.is_none() {
                heard(detected(request.audio.samples[0]));
            }
            tokio::time::sleep(WORK.saturating_sub(DETECTION)).await;
        };
        tokio::select! {
            () = work => {}
            () = self.abort.notified() => {
                self.world.saw(Seen::Aborted);
                return Err(EngineError::Aborted);
            }
        }
        match plan {
            ChunkPlan::Answer if self.is_larger() => Ok(better(&request)),
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
        if !self.world.deaf.load(Ordering::SeqCst) {
            self.abort.notify_waiters();
        }
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

/// Noise is taken for Norwegian and mumbling for Portuguese, without conviction; everything else is
/// Spanish.
fn detected(sample: i16) -> DetectedLanguage {
    let (code, probability) = match sample {
        NOISE => ("nn", 0.3),
        MUMBLED => ("pt", 0.5),
        _ => ("es", 0.9),
    };
    DetectedLanguage {
        code: code.to_owned(),
        probability,
    }
}

/// Every chunk's text is its index, said once in its middle. Noise is given a text that whisper
/// itself does not believe in.
fn answer(request: &ChunkRequest) -> ChunkTranscript {
    let is_noise = request.audio.samples[0] == NOISE;
    let is_half_heard = request.audio.samples[0] == HALF_HEARD && !request.audio.index.is_part();
    let heard = detected(request.audio.samples[0]);
    ChunkTranscript {
        segments: vec![Segment {
            id: 0,
            seek: 0,
            start: 0.0,
            end: request.audio.duration_seconds() * if is_half_heard { 0.5 } else { 1.0 },
            text: match request.audio.index {
                ChunkIndex::Whole(_) if is_half_heard => format!(" {HALF_HEARD_TEXT}"),
                ChunkIndex::Whole(number) => format!(" {number}"),
                ChunkIndex::Part(_) => " and the rest".to_owned(),
            },
            tokens: vec![1, 2],
            logprobs: Vec::new(),
            temperature: request.temperature,
            avg_logprob: match request.audio.samples[0] {
                NOISE => -1.5,
                WEAK => -1.0,
                _ => -0.5,
            },
            compression_ratio: 1.0,
            no_speech_prob: if is_noise { 0.9 } else { 0.1 },
            words: Vec::new(),
        }],
        language: request.language.clone().unwrap_or(heard.code),
        language_probability: request.language.is_none().then_some(heard.probability),
        encoder_passes: 1,
        doubt: None,
        inference_seconds: WORK.as_secs_f64(),
    }
}

/// The larger model's text: it says so, and has no doubt.
fn better(request: &ChunkRequest) -> ChunkTranscript {
    better_text(request.audio.index.number(), request.language.as_deref())
}

pub fn better_text(index: usize, language: Option<&str>) -> ChunkTranscript {
    ChunkTranscript {
        segments: vec![Segment::said(0.0, 10.0, &format!(" better {index}"))],
        language: language.unwrap_or("gl").to_owned(),
        language_probability: language.is_none().then_some(0.99),
        inference_seconds: WORK.as_secs_f64(),
        ..ChunkTranscript::default()
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
/// Of such audio an engine writes the first half, unless it is given the rest on its own.
const HALF_HEARD: i16 = 9;
/// What it writes: enough for the time that it claims.
pub const HALF_HEARD_TEXT: &str = "half of what somebody said there";
/// Audio of such samples is noise.
const NOISE: i16 = 7;
/// Of such audio the text is a guess.
const WEAK: i16 = 5;
/// Of such audio the language is a guess.
const MUMBLED: i16 = 4;

/// A source's path says what it decodes to, in words separated by `+`: `3` is three chunks of 10 s,
/// `2s` are two stretches of 10 s of silence, `2n` are two chunks of noise, `2h` two
/// of which whisper leaves out half, `2w` and `2m` two whose text or language is a guess, `bad` is not audio from
/// there on, and `poison` is a chunk that no engine survives.
pub struct Decoder(pub Arc<World>);

#[derive(Clone, Copy)]
enum Piece {
    /// A chunk of such samples.
    Chunk(i16),
    Silence,
    Broken,
}

struct Chunks {
    world: Arc<World>,
    pieces: VecDeque<Piece>,
    claimed: u64,
    passed: usize,
    next_index: usize,
}

const PIECE_SAMPLES: usize = 10 * SAMPLE_RATE as usize;

fn pieces(script: &str) -> VecDeque<Piece> {
    let mut pieces = VecDeque::new();
    for word in script.split('+') {
        let number = word.trim_end_matches(char::is_alphabetic);
        let kind = &word[number.len()..];
        let piece = match kind {
            "" => Piece::Chunk(0),
            "h" => Piece::Chunk(HALF_HEARD),
            "s" => Piece::Silence,
            "n" => Piece::Chunk(NOISE),
            "w" => Piece::Chunk(WEAK),
            "m" => Piece::Chunk(MUMBLED),
            "poison" => Piece::Chunk(POISON),
            "bad" => Piece::Broken,
            other => panic!("no such script: {other}"),
        };
        let times = number.parse().unwrap_or(1);
        pieces.extend(std::iter::repeat_n(piece, times));
    }
    pieces
}

#[async_trait]
impl AudioDecoder for Decoder {
    async fn open(
        &self,
        source: &AudioSource,
        _options: DecodeOptions,
    ) -> Result<Box<dyn ChunkStream>, DecodeError> {
        let pieces = pieces(&source.path().to_string_lossy());
        self.0.open_decoders.fetch_add(1, Ordering::SeqCst);
        Ok(Box::new(Chunks {
            world: Arc::clone(&self.0),
            claimed: pieces.len() as u64,
            pieces,
            passed: 0,
            next_index: 0,
        }))
    }
}

#[async_trait]
impl ChunkStream for Chunks {
    async fn next(&mut self, target: Duration) -> Result<Option<Decoded>, DecodeError> {
        let start = (self.passed * PIECE_SAMPLES) as u64;
        let sample = match self.pieces.pop_front() {
            None => return Ok(None),
            Some(Piece::Broken) => return Err(DecodeError::Undecodable("scripted".to_owned())),
            Some(Piece::Silence) => {
                self.passed += 1;
                return Ok(Some(Decoded::Silence));
            }
            Some(Piece::Chunk(sample)) => sample,
        };
        let index = self.next_index;
        self.passed += 1;
        self.next_index += 1;
        self.world.chunks_decoded.fetch_add(1, Ordering::SeqCst);
        lock(&self.world.targets).push(target.as_secs());
        let samples = Arc::from(vec![sample; PIECE_SAMPLES]);
        let mut chunk = AudioChunk::contiguous(index, start, samples);
        if sample == HALF_HEARD {
            chunk.speech = SpeechTrack::new(vec![250; PIECE_SAMPLES.div_ceil(SPEECH_FRAME)]);
        }
        Ok(Some(Decoded::Chunk(chunk)))
    }

    fn decoded_samples(&self) -> u64 {
        (self.passed * PIECE_SAMPLES) as u64
    }

    fn settled_samples(&self) -> u64 {
        self.decoded_samples()
    }

    fn claimed_duration(&self) -> Option<Duration> {
        Some(Duration::from_secs(self.claimed * 10))
    }
}

impl Drop for Chunks {
    fn drop(&mut self) {
        self.world.open_decoders.fetch_sub(1, Ordering::SeqCst);
    }
}
