//! Workers as the tree's engines: launching them, and one handle for each.
//!
//! A worker is this executable, run as `uttera-stt worker`. Its standard input is one end of a
//! socket pair that carries the [`protocol`]; its standard output and error are a
//! pipe into the log from birth, so that nothing that native code prints can corrupt a frame. It
//! lives in a process group of its own: a Ctrl-C at the terminal must not kill lanes that drain.

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

use crate::engine::protocol::{
    self, Failure, FromWorker, LoadRequest, ToWorker, TranscribeRequest,
};
use crate::host_memory::resident_bytes;
use crate::priority;
use child_owner::{ChildOwner, End};
use link::{Asked, Command, Frames};

mod child_owner;
mod link;
mod log_relay;
mod warm_up;

/// A killed process ends at once, unless a driver holds it.
const KILL_LIMIT: Duration = Duration::from_secs(10);

/// Environment that a worker needs. The rest of the server's, secrets among it, stays behind.
const PASSED_ON: &[&str] = &[
    "PATH",
    "HOME",
    "LANG",
    "LD_LIBRARY_PATH",
    "CUDA_VISIBLE_DEVICES",
    "RUST_BACKTRACE",
    "RUST_LOG",
];

/// A model, ready on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadyModel {
    /// As users know it.
    pub name: String,
    /// The ggml file.
    pub path: PathBuf,
}

/// Where the model comes from. Asked at every launch, so that a worker that comes back finds a
/// model that was put there since.
#[async_trait]
pub trait ModelSource: Send + Sync + 'static {
    /// The model, or why there is none, for people.
    async fn ready_model(&self) -> Result<ReadyModel, String>;
}

/// How workers are started.
#[derive(Clone)]
pub struct WorkerConfig {
    /// The executable; the server's own.
    pub executable: PathBuf,
    /// Threads of the CPU per worker.
    pub threads: u32,
    /// Use the GPU with this index; `None`: the CPU.
    pub gpu: Option<u32>,
    /// Candidates that are followed at once; 1: greedy.
    pub beam_size: u32,
    /// A worker says hello within milliseconds; a machine that swaps may take longer.
    pub hello_limit: Duration,
    /// Loading the model may take this long.
    pub load_limit: Duration,
}

/// Starts workers.
pub struct WorkerLauncher {
    config: WorkerConfig,
    models: Arc<dyn ModelSource>,
    /// A worker of this launcher has transcribed.
    proven: AtomicBool,
}

impl WorkerLauncher {
    /// A launcher of workers that load what `models` gives.
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
        let kept = PASSED_ON
            .iter()
            .filter_map(|name| Some((name, std::env::var_os(name)?)));
        let mut command = Process::new(&self.config.executable);
        command
            // For people who look at the list of processes.
            .arg0("uttera-stt")
            .arg("worker")
            .env_clear()
            .envs(kept)
            // ggml's threads spin while they wait. Two workers with as many threads as cores
            // then take 275 s for what takes 16 s when they sleep instead.
            .env("OMP_WAIT_POLICY", "passive")
            // ggml would start a debugger to print a backtrace before it aborts.
            .env("GGML_NO_BACKTRACE", "1")
            // The driver's library counts GPUs by their place on the bus; so must CUDA, or free
            // memory would be looked up on another card than the one that is used.
            .env("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(log_writer.try_clone()?)
            .stderr(log_writer)
            .process_group(0)
            .kill_on_drop(true);
        if worker.kind() == LaneKind::Cold {
            // SAFETY: between fork and exec only async-signal-safe functions may run; these are bare
            // system calls. It works at any priority: what the kernel says does not matter.
            unsafe {
                command.pre_exec(|| {
                    let _ = priority::lower_priority(priority::COLD_WORKER);
                    Ok(())
                });
            }
        }
        let child = command.spawn()?;
        let reaper = ChildOwner::own(child);
        log_relay::start(worker.clone(), log)?;
        let frames = Framed::new(UnixStream::from_std(ours)?, protocol::codec());
        Ok((frames, reaper))
    }

    /// Hello and the load, each within its limit.
    async fn greet(&self, frames: &mut Frames, model: &ReadyModel) -> Result<bool, LaunchError> {
        match within(self.config.hello_limit, link::receive(frames)).await? {
            FromWorker::Hello { version } if version == protocol::VERSION => {}
            other => {
                return Err(LaunchError::Worker(format!(
                    "the worker is of another version than the server ({other:?}); restart the server"
                )));
            }
        }
        let load = LoadRequest {
            path: model.path.clone(),
            threads: self.config.threads,
            gpu: self.config.gpu,
            beam_size: self.config.beam_size,
        };
        link::send(frames, &ToWorker::Load(load))
            .await
            .map_err(|error| LaunchError::Worker(error.to_string()))?;
        match within(self.config.load_limit, link::receive(frames)).await? {
            FromWorker::Loaded { multilingual } => Ok(multilingual),
            FromWorker::LoadFailed {
                reason,
                out_of_memory: true,
            } => Err(LaunchError::OutOfMemory(reason)),
            FromWorker::LoadFailed { reason, .. } => Err(LaunchError::Model(reason)),
            other => Err(LaunchError::Worker(format!("unexpected answer {other:?}"))),
        }
    }
}

impl WorkerLauncher {
    /// Has a clip transcribed before the engine counts as ready. On a GPU the first call of every
    /// process is slow, and says nothing about the next one; on a CPU it is enough to know once that
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

/// What it means that a worker ended before it was ready.
fn end_of_launch(exit: EngineExit) -> LaunchError {
    match exit {
        EngineExit::OutOfMemory => LaunchError::OutOfMemory("an allocation failed".to_owned()),
        other => LaunchError::Exited(other),
    }
}

/// Its end, by force if it does not come by itself: its memory must be free before the next worker
/// loads.
async fn end_of(reaper: &ChildOwner) -> EngineExit {
    if let Ok(exit) = tokio::time::timeout(KILL_LIMIT, reaper.exited()).await {
        return exit;
    }
    reaper.ask(End::Kill(EngineExit::TimedOut));
    let killed = tokio::time::timeout(KILL_LIMIT, reaper.exited()).await;
    killed.unwrap_or(EngineExit::TimedOut)
}

/// A message within a limit; the end of the stream is told as [`LaunchError::Exited`] later.
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
        let (mut frames, reaper) = self
            .spawn(worker)
            .map_err(|error| LaunchError::Worker(error.to_string()))?;
        let process_id = reaper.process_id();
        let multilingual = match self.greet(&mut frames, &model).await {
            Ok(multilingual) => multilingual,
            Err(LaunchError::Exited(_)) => {
                // Its end of the socket is closed: how it ended is known in a moment.
                return Err(end_of_launch(end_of(&reaper).await));
            }
            Err(error) => {
                reaper.ask(End::Kill(EngineExit::Stopped));
                // Its memory must be free before the next one loads.
                let _ = tokio::time::timeout(KILL_LIMIT, reaper.exited()).await;
                return Err(error);
            }
        };
        let (commands, inbox) = mpsc::unbounded_channel();
        tokio::spawn(link::run(frames, inbox, reaper.clone()));
        let mut engine = Worker {
            info: EngineInfo {
                model: model.name,
                multilingual,
                process_id,
                load_time: begin.elapsed(),
                calibration: None,
            },
            commands,
            reaper,
        };
        match self.warm_up(&engine).await {
            Ok(calibration) => engine.info.calibration = calibration,
            Err(error) => {
                engine.reaper.ask(End::Kill(EngineExit::Stopped));
                let _ = tokio::time::timeout(KILL_LIMIT, engine.exited()).await;
                return Err(error);
            }
        }
        // On a GPU every worker has its first clip before it is ready: it is part of the start.
        if self.config.gpu.is_some() {
            engine.info.load_time = begin.elapsed();
        }
        Ok(Arc::new(engine))
    }
}

/// A running worker. Dropping it closes the socket, and so ends the process.
struct Worker {
    info: EngineInfo,
    commands: mpsc::UnboundedSender<Command>,
    reaper: ChildOwner,
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
            prompt: request.prompt,
            temperature: request.temperature,
        };
        // A link that is gone drops the answer's sender, here or there.
        let asked = Asked {
            heard: Some(heard),
            answer,
        };
        let _ = self.commands.send(Command::Transcribe(request, asked));
        match answered.await {
            Ok(Ok(transcript)) => Ok(transcript),
            Ok(Err(Failure::Aborted)) => Err(EngineError::Aborted),
            Ok(Err(Failure::Engine(reason))) => Err(EngineError::Failed(reason)),
            Err(_dropped) => Err(EngineError::Exited(self.reaper.exited().await)),
        }
    }

    fn abort(&self) {
        let _ = self.commands.send(Command::Abort);
    }

    async fn exited(&self) -> EngineExit {
        self.reaper.exited().await
    }

    async fn stop(&self, grace: Duration) -> EngineExit {
        let _ = self.commands.send(Command::Close);
        self.reaper.ask(End::Stop { grace });
        self.reaper.exited().await
    }

    fn kill_timed_out(&self) {
        self.reaper.ask(End::Kill(EngineExit::TimedOut));
    }

    fn resident_bytes(&self) -> Option<u64> {
        resident_bytes(self.reaper.process_id()?)
    }
}
