//! Worker processes as the engines of the supervision tree: the launcher, and a handle for each worker.
//!
//! A worker is this executable, run as `uttera-stt worker`. Its standard input is one end of a socket pair
//! that carries the [`protocol`]; its standard output and error are a pipe into the log, so that nothing that
//! native code prints can corrupt a frame. A worker has a process group of its own, because Ctrl-C at the
//! terminal must not kill lanes that are draining.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use stt_actors::domain::error::{EngineError, EngineExit, LaunchError};
use stt_actors::domain::ids::{LaneKind, WorkerId};
use stt_actors::domain::transcript::ChunkTranscript;
use stt_actors::ports::{
    Calibration, ChunkRequest, Engine, EngineInfo, EngineLauncher, LanguageHeard,
};
use tokio::net::UnixStream;
use tokio::process::Command as Process;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::codec::Framed;

use crate::engine::EngineChoice;
use crate::engine::protocol::{
    self, Failure, FromWorker, LoadRequest, ToWorker, TranscribeRequest,
};
use crate::host_memory::resident_bytes;
use crate::priority;
use child_owner::{ChildOwner, End};
use link::{Caller, Command, Frames};

mod child_owner;
mod link;
mod log_relay;
mod warm_up;

/// A killed process ends at once, unless it is stuck in a driver.
const KILL_LIMIT: Duration = Duration::from_secs(10);

/// Environment variables that a worker needs. The others, which include secrets, are not passed on.
const PASSED_ON: &[&str] = &[
    "PATH",
    "HOME",
    "LANG",
    "LD_LIBRARY_PATH",
    "CUDA_VISIBLE_DEVICES",
    "GGML_VK_VISIBLE_DEVICES",
    "MESA_VK_DEVICE_SELECT",
    "VK_DRIVER_FILES",
    "VK_ICD_FILENAMES",
    "RUST_BACKTRACE",
    "RUST_LOG",
];

/// The environment of a worker, and of a process that only asks the drivers.
pub(super) fn environment() -> impl Iterator<Item = (&'static str, OsString)> {
    let passed_on = PASSED_ON
        .iter()
        .filter_map(|name| Some((*name, std::env::var_os(name)?)));
    // NVML numbers GPUs by their position on the bus. CUDA must do the same, so that an index means the same GPU
    // everywhere.
    passed_on.chain([("CUDA_DEVICE_ORDER", OsString::from("PCI_BUS_ID"))])
}

/// A model, ready on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadyModel {
    /// Its name in the catalogue, or the name of its file.
    pub name: String,
    /// The ggml file.
    pub path: PathBuf,
}

/// The source of the model. The launcher asks at every launch, so that a restarted worker finds a model that
/// was added meanwhile.
#[async_trait]
pub trait ModelSource: Send + Sync + 'static {
    /// The model, or a message that says why there is none.
    async fn ready_model(&self) -> Result<ReadyModel, String>;

    /// How long a worker should take to start with this model; `None`: unknown. May read small files.
    fn expected_start(&self) -> Option<Duration> {
        None
    }

    /// Remembers how long a worker took to start. May write a small file.
    fn record_start(&self, _took: Duration) {}
}

/// How workers are started.
#[derive(Clone)]
pub struct WorkerConfig {
    /// The executable: the server's own.
    pub executable: PathBuf,
    /// CPU threads per worker.
    pub threads: u32,
    /// Use the GPU with this index; `None`: the CPU.
    pub gpu: Option<u32>,
    /// Beam size of the search; 1: greedy.
    pub beam_size: u32,
    /// Which implementation of Whisper is used.
    pub engine: EngineChoice,
    /// How long a worker may take to say hello: usually milliseconds, longer on a machine that swaps.
    pub hello_limit: Duration,
    /// How long loading the model may take.
    pub load_limit: Duration,
}

/// Starts workers.
pub struct WorkerLauncher {
    config: WorkerConfig,
    models: Arc<dyn ModelSource>,
    /// Whether a worker of this launcher has transcribed the clip.
    proven: AtomicBool,
}

impl WorkerLauncher {
    /// A launcher whose workers load the model of `models`.
    pub fn new(config: WorkerConfig, models: Arc<dyn ModelSource>) -> Self {
        Self {
            config,
            models,
            proven: AtomicBool::new(false),
        }
    }

    fn spawn(&self, worker: &WorkerId) -> std::io::Result<(Frames, ChildOwner)> {
        let (ours, theirs) = StdUnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let (log, log_writer) = std::io::pipe()?;
        let mut command = Process::new(&self.config.executable);
        command
            // The name in process lists.
            .arg0("uttera-stt")
            .arg("worker")
            .env_clear()
            .envs(environment())
            // By default ggml's threads spin while they wait. Work that two workers with as many threads as
            // cores do in 16 s then takes 275 s.
            .env("OMP_WAIT_POLICY", "passive")
            // ggml would start a debugger to print a backtrace before it aborts.
            .env("GGML_NO_BACKTRACE", "1")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(log_writer.try_clone()?)
            .stderr(log_writer)
            .process_group(0)
            .kill_on_drop(true);
        if worker.kind() == LaneKind::Cold {
            // SAFETY: between fork and exec only async-signal-safe functions may run; these are bare system
            // calls. Errors are ignored: the worker runs at any priority.
            unsafe {
                command.pre_exec(|| {
                    let _ = priority::lower_priority(priority::COLD_WORKER);
                    Ok(())
                });
            }
        }
        let child = command.spawn()?;
        let owner = ChildOwner::own(child);
        log_relay::start(worker.clone(), log)?;
        let frames = Framed::new(UnixStream::from_std(ours)?, protocol::codec());
        Ok((frames, owner))
    }

    /// Waits for the hello and for the model to load, each within its limit.
    async fn greet(
        &self,
        frames: &mut Frames,
        model: &ReadyModel,
    ) -> Result<Greeting, LaunchError> {
        match within(self.config.hello_limit, link::receive(frames)).await? {
            FromWorker::Hello { version } if version == protocol::VERSION => {}
            other => {
                return Err(LaunchError::Worker(format!(
                    "worker and server have different versions ({other:?}); restart the server"
                )));
            }
        }
        let load = LoadRequest {
            path: model.path.clone(),
            threads: self.config.threads,
            gpu: self.config.gpu,
            beam_size: self.config.beam_size,
            engine: self.config.engine,
        };
        link::send(frames, &ToWorker::Load(load))
            .await
            .map_err(|error| LaunchError::Worker(error.to_string()))?;
        match within(self.config.load_limit, link::receive(frames)).await? {
            FromWorker::Loaded {
                multilingual,
                device,
            } => Ok(Greeting {
                multilingual,
                device,
            }),
            FromWorker::LoadFailed {
                reason,
                out_of_memory: true,
            } => Err(LaunchError::OutOfMemory(reason)),
            FromWorker::LoadFailed { reason, .. } => Err(LaunchError::Model(reason)),
            other => Err(LaunchError::Worker(format!("unexpected answer {other:?}"))),
        }
    }
}

/// What a worker says about itself when its model is loaded.
struct Greeting {
    multilingual: bool,
    device: String,
}

impl WorkerLauncher {
    /// Transcribes a clip before the engine counts as ready. On a GPU, the first call of each process is slow
    /// and does not predict the next one, so a second follows. On a CPU, one success per launcher proves that
    /// the model works.
    async fn warm_up(&self, engine: &Worker) -> Result<Option<Calibration>, LaunchError> {
        let on_gpu = self.config.gpu.is_some();
        if self.proven.load(Ordering::Relaxed) && !on_gpu {
            return Ok(None);
        }
        let mut calibration = self.transcribe_clip(engine).await?;
        if on_gpu {
            calibration = self.transcribe_clip(engine).await?;
        }
        self.proven.store(true, Ordering::Relaxed);
        Ok(Some(calibration))
    }

    async fn transcribe_clip(&self, engine: &Worker) -> Result<Calibration, LaunchError> {
        let clip = warm_up::clip().map_err(|error| LaunchError::Worker(error.to_string()))?;
        let audio_seconds = clip.audio.duration_seconds();
        match tokio::time::timeout(
            self.config.load_limit,
            engine.transcribe(clip, Box::new(drop)),
        )
        .await
        {
            Ok(Ok(transcript)) => Ok(Calibration {
                audio_seconds,
                inference_seconds: transcript.inference_seconds,
            }),
            Ok(Err(EngineError::Exited(exit))) => Err(end_of_launch(exit)),
            Ok(Err(error)) => Err(LaunchError::Worker(error.to_string())),
            Err(_elapsed) => Err(LaunchError::TimedOut {
                seconds: self.config.load_limit.as_secs(),
            }),
        }
    }
}

/// The launch error for a worker that ended before it was ready.
fn end_of_launch(exit: EngineExit) -> LaunchError {
    match exit {
        EngineExit::OutOfMemory => LaunchError::OutOfMemory("an allocation failed".to_owned()),
        other => LaunchError::Exited(other),
    }
}

/// Waits for the end of a worker and kills it if necessary: its memory must be free before the next worker
/// loads.
async fn end_of(owner: &ChildOwner) -> EngineExit {
    if let Ok(exit) = tokio::time::timeout(KILL_LIMIT, owner.exited()).await {
        return exit;
    }
    owner.ask(End::Kill(EngineExit::TimedOut));
    let killed = tokio::time::timeout(KILL_LIMIT, owner.exited()).await;
    killed.unwrap_or(EngineExit::TimedOut)
}

/// Waits for a message within a limit. The end of the stream becomes [`LaunchError::Exited`].
async fn within(
    limit: Duration,
    message: impl Future<Output = std::io::Result<Option<FromWorker>>>,
) -> Result<FromWorker, LaunchError> {
    match tokio::time::timeout(limit, message).await {
        Ok(Ok(Some(message))) => Ok(message),
        Ok(Ok(None)) => Err(LaunchError::Exited(EngineExit::Stopped)),
        Ok(Err(error)) => Err(LaunchError::Worker(error.to_string())),
        Err(_elapsed) => Err(LaunchError::TimedOut {
            seconds: limit.as_secs(),
        }),
    }
}

#[async_trait]
impl EngineLauncher for WorkerLauncher {
    async fn launch(&self, worker: &WorkerId) -> Result<Arc<dyn Engine>, LaunchError> {
        let model = (self.models.ready_model())
            .await
            .map_err(LaunchError::Model)?;
        let begin = Instant::now();
        let (mut frames, owner) = self
            .spawn(worker)
            .map_err(|error| LaunchError::Worker(error.to_string()))?;
        let process_id = owner.process_id();
        let greeting = match self.greet(&mut frames, &model).await {
            Ok(greeting) => greeting,
            Err(LaunchError::Exited(_)) => {
                // The worker closed its end of the socket; its exit status follows.
                return Err(end_of_launch(end_of(&owner).await));
            }
            Err(error) => {
                owner.ask(End::Kill(EngineExit::Stopped));
                // Its memory must be free before the next one loads.
                let _ = tokio::time::timeout(KILL_LIMIT, owner.exited()).await;
                return Err(error);
            }
        };
        let (commands, inbox) = mpsc::unbounded_channel();
        tokio::spawn(link::run(frames, inbox, owner.clone()));
        let mut engine = Worker {
            info: EngineInfo {
                model: model.name,
                multilingual: greeting.multilingual,
                device: greeting.device,
                process_id,
                load_time: begin.elapsed(),
                calibration: None,
            },
            commands,
            owner,
        };
        match self.warm_up(&engine).await {
            Ok(calibration) => engine.info.calibration = calibration,
            Err(error) => {
                engine.owner.ask(End::Kill(EngineExit::Stopped));
                let _ = tokio::time::timeout(KILL_LIMIT, engine.exited()).await;
                return Err(error);
            }
        }
        if engine.info.calibration.is_some() {
            let (models, took) = (Arc::clone(&self.models), begin.elapsed());
            tokio::task::spawn_blocking(move || models.record_start(took));
        }
        // On a GPU every worker transcribes the clip at its start, so the load time includes it.
        if self.config.gpu.is_some() {
            engine.info.load_time = begin.elapsed();
        }
        Ok(Arc::new(engine))
    }

    fn expected_start(&self) -> Option<Duration> {
        self.models.expected_start()
    }
}

/// A running worker. Dropping it closes the socket, which ends the process.
struct Worker {
    info: EngineInfo,
    commands: mpsc::UnboundedSender<Command>,
    owner: ChildOwner,
}

#[async_trait]
impl Engine for Worker {
    fn info(&self) -> &EngineInfo {
        &self.info
    }

    async fn transcribe(
        &self,
        request: ChunkRequest,
        heard: LanguageHeard,
    ) -> Result<ChunkTranscript, EngineError> {
        let (answer, answered) = oneshot::channel();
        let request = TranscribeRequest {
            id: 0,
            audio: protocol::samples_to_bytes(&request.audio.samples),
            task: request.task,
            language: request.language,
            languages: request.languages,
            likely_language: request.likely_language,
            prompt: request.prompt,
            temperature: request.temperature,
        };
        // If the link has ended, the sender of the answer is dropped.
        let caller = Caller {
            heard: Some(heard),
            answer,
        };
        let _ = self.commands.send(Command::Transcribe(request, caller));
        match answered.await {
            Ok(Ok(transcript)) => Ok(transcript),
            Ok(Err(Failure::Aborted)) => Err(EngineError::Aborted),
            Ok(Err(Failure::Engine(reason))) => Err(EngineError::Failed(reason)),
            Err(_dropped) => Err(EngineError::Exited(self.owner.exited().await)),
        }
    }

    fn abort(&self) {
        let _ = self.commands.send(Command::Abort);
    }

    async fn exited(&self) -> EngineExit {
        self.owner.exited().await
    }

    async fn stop(&self, grace: Duration) -> EngineExit {
        let _ = self.commands.send(Command::Close);
        self.owner.ask(End::Stop { grace });
        self.owner.exited().await
    }

    fn kill_timed_out(&self) {
        self.owner.ask(End::Kill(EngineExit::TimedOut));
    }

    fn resident_bytes(&self) -> Option<u64> {
        resident_bytes(self.owner.process_id()?)
    }
}
