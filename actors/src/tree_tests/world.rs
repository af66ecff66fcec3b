//! The scripted world around a tree: engines, their launcher, and a decoder.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Notify, watch};

use crate::domain::chunk::{AudioChunk, AudioSource, SAMPLE_RATE, SPEECH_FRAME, SpeechTrack};
use crate::domain::error::{DecodeError, EngineError, EngineExit, LaunchError};
use crate::domain::ids::{ChunkIndex, WorkerId};
use crate::domain::live::{PcmFormat, SpeechFrame};
use crate::domain::transcript::{ChunkTranscript, Segment};
use crate::ports::{
    AudioDecoder, Calibration, ChunkRequest, ChunkStream, DecodeOptions, Decoded, DetectedLanguage,
    Engine, EngineInfo, EngineLauncher, LanguageHeard, LiveStream,
};

/// Duration of a scripted engine's work on a chunk.
pub const WORK: Duration = Duration::from_secs(1);
/// Part of that time until the engine has detected the language.
pub const DETECTION: Duration = Duration::from_millis(200);
/// Duration of an engine's start, as it reports it and on the clock.
pub const START: Duration = Duration::from_secs(2);
/// The tree's limit for the start.
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

/// An engine's reaction to its next chunk. Without a plan it answers.
#[derive(Clone, Debug)]
pub enum ChunkPlan {
    Answer,
    Die(EngineExit),
    Hang,
    /// Hangs, and survives being killed.
    HangForGood,
    Fail,
    Panic,
}

/// The result of the next launch. Without a plan it is an engine that answers everything.
pub enum LaunchPlan {
    Up(Vec<ChunkPlan>),
    Fail(LaunchError),
}

/// Recorded events, in order.
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

/// The script of one test and its recorded events.
#[derive(Default)]
pub struct World {
    launches: Mutex<VecDeque<LaunchPlan>>,
    seen: Mutex<Vec<Seen>>,
    /// Number of chunks from all decoders.
    pub chunks_decoded: AtomicUsize,
    likely: Mutex<Vec<(ChunkIndex, Option<String>)>>,
    /// Requested chunk lengths, in seconds, one per chunk.
    pub targets: Mutex<Vec<u64>>,
    /// Number of living decoders.
    pub open_decoders: AtomicUsize,
    /// Whether engines ignore the abort flag, as during a pass through the encoder.
    pub deaf: AtomicBool,
    /// Memory that each engine reports.
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

    /// The chunks that engines received, with the language to use if the detection is uncertain.
    pub fn likely_languages(&self) -> Vec<(ChunkIndex, Option<String>)> {
        lock(&self.likely).clone()
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
    /// Whether the engine runs the fallback model.
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
        let likely = (request.audio.index, request.likely_language.clone());
        lock(&self.world.likely).push(likely);
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

/// Noise is detected as Norwegian and mumbling as Portuguese, with low probability; everything else is
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

/// Every chunk's text is its index, spoken once in its middle. Noise gets a text with a low probability.
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
                ChunkIndex::Whole(_) if request.audio.samples[1] == LIVE => {
                    live_text(request.audio.samples.len() / SPEECH_FRAME)
                }
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

/// The fallback model's text, with high confidence.
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
                device: "CPU".to_owned(),
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

/// Value of samples that crash every engine.
const POISON: i16 = 666;
/// Value of samples of which an engine transcribes only the first half, unless it gets the rest separately.
const HALF_HEARD: i16 = 9;
/// Text of that half, long enough for its duration.
pub const HALF_HEARD_TEXT: &str = "half of everything that was said, which is a lot of text";
/// Value of samples that are noise.
const NOISE: i16 = 7;
/// Value of samples whose text has a low probability.
const WEAK: i16 = 5;
/// Value of samples whose language has a low probability.
const MUMBLED: i16 = 4;

/// The path of a source is a script for the decoder, in words separated by `+`: `3` is three chunks of 10 s, `2s`
/// two stretches of 10 s of silence, `2n` two chunks of noise, `2h` two chunks of which whisper skips half, `2w` and
/// `2m` two chunks whose text or language has a low probability, `bad` ends in invalid audio, and `poison` is a
/// chunk that crashes every engine. The container states the length, unless the script has a `u`.
pub struct Decoder(pub Arc<World>);

#[derive(Clone, Copy)]
enum Part {
    /// A chunk of samples with this value.
    Chunk(i16),
    Silence,
    Broken,
    /// Nothing: the container states no length.
    NoClaim,
}

struct Chunks {
    world: Arc<World>,
    parts: VecDeque<Part>,
    claimed: Option<Duration>,
    passed: usize,
    next_index: usize,
}

const PART_SAMPLES: usize = 10 * SAMPLE_RATE as usize;

fn parts(script: &str) -> VecDeque<Part> {
    let mut parts = VecDeque::new();
    for word in script.split('+') {
        let number = word.trim_end_matches(char::is_alphabetic);
        let kind = &word[number.len()..];
        let part = match kind {
            "" => Part::Chunk(0),
            "h" => Part::Chunk(HALF_HEARD),
            "s" => Part::Silence,
            "n" => Part::Chunk(NOISE),
            "w" => Part::Chunk(WEAK),
            "m" => Part::Chunk(MUMBLED),
            "poison" => Part::Chunk(POISON),
            "u" => Part::NoClaim,
            "bad" => Part::Broken,
            other => panic!("no such script: {other}"),
        };
        let times = number.parse().unwrap_or(1);
        parts.extend(std::iter::repeat_n(part, times));
    }
    parts
}

#[async_trait]
impl AudioDecoder for Decoder {
    fn open_live(&self, format: PcmFormat) -> Result<Box<dyn LiveStream>, String> {
        match format.channels {
            0 => Err("no channels".to_owned()),
            _ => Ok(Box::new(LiveFrames)),
        }
    }

    async fn open(
        &self,
        source: &AudioSource,
        _options: DecodeOptions,
    ) -> Result<Box<dyn ChunkStream>, DecodeError> {
        let mut parts = parts(&source.path().to_string_lossy());
        let claims = !parts.iter().any(|part| matches!(part, Part::NoClaim));
        parts.retain(|part| !matches!(part, Part::NoClaim));
        let claimed = claims.then(|| Duration::from_secs(parts.len() as u64 * 10));
        self.0.open_decoders.fetch_add(1, Ordering::SeqCst);
        Ok(Box::new(Chunks {
            world: Arc::clone(&self.0),
            claimed,
            parts,
            passed: 0,
            next_index: 0,
        }))
    }
}

/// Live audio: each byte is a frame, and its value the probability of speech. [`POISONED_FRAME`] crashes every engine.
struct LiveFrames;

/// A frame of speech on which every engine crashes, if the chunk begins with it.
pub const POISONED_FRAME: u8 = 251;
/// Second sample of live audio: its text has a word for every ten frames, and a full stop after each fifth one.
const LIVE: i16 = 77;

impl LiveStream for LiveFrames {
    fn push(&mut self, bytes: &[u8]) -> Vec<SpeechFrame> {
        let frames = bytes.iter().map(|&speech| {
            let mut samples = vec![0; SPEECH_FRAME];
            samples[0] = if speech == POISONED_FRAME { POISON } else { 0 };
            samples[1] = LIVE;
            SpeechFrame { samples, speech }
        });
        frames.collect()
    }

    fn flush(&mut self) -> Vec<SpeechFrame> {
        Vec::new()
    }
}

/// The text of live audio of this many frames.
pub fn live_text(frames: usize) -> String {
    let word = |number: usize| {
        let stop = if number.is_multiple_of(5) { "." } else { "" };
        format!(" w{number}{stop}")
    };
    (1..=frames / 10).map(word).collect()
}

#[async_trait]
impl ChunkStream for Chunks {
    async fn ends_within(&mut self, limit: Duration) -> Result<bool, DecodeError> {
        Ok(self.parts.len() * PART_SAMPLES <= limit.as_secs() as usize * SAMPLE_RATE as usize)
    }

    async fn next(&mut self, target: Duration) -> Result<Option<Decoded>, DecodeError> {
        let start = (self.passed * PART_SAMPLES) as u64;
        let sample = match self.parts.pop_front() {
            None | Some(Part::NoClaim) => return Ok(None),
            Some(Part::Broken) => return Err(DecodeError::Undecodable("scripted".to_owned())),
            Some(Part::Silence) => {
                self.passed += 1;
                return Ok(Some(Decoded::Silence));
            }
            Some(Part::Chunk(sample)) => sample,
        };
        let index = self.next_index;
        self.passed += 1;
        self.next_index += 1;
        self.world.chunks_decoded.fetch_add(1, Ordering::SeqCst);
        lock(&self.world.targets).push(target.as_secs());
        let samples = Arc::from(vec![sample; PART_SAMPLES]);
        let mut chunk = AudioChunk::contiguous(index, start, samples);
        if sample == HALF_HEARD {
            chunk.speech = SpeechTrack::new(vec![250; PART_SAMPLES.div_ceil(SPEECH_FRAME)]);
        }
        Ok(Some(Decoded::Chunk(chunk)))
    }

    fn decoded_samples(&self) -> u64 {
        (self.passed * PART_SAMPLES) as u64
    }

    fn settled_samples(&self) -> u64 {
        self.decoded_samples()
    }

    fn claimed_duration(&self) -> Option<Duration> {
        self.claimed
    }
}

impl Drop for Chunks {
    fn drop(&mut self) {
        self.world.open_decoders.fetch_sub(1, Ordering::SeqCst);
    }
}
