//! Decodes any format with an ffmpeg process.
//!
//! The file is ffmpeg's standard input, opened by this process and read by ffmpeg as `/dev/stdin`: a name
//! without directory, dash or extension. So only the content determines the format, ffmpeg cannot mistake a
//! path for an option or a protocol, and no path can appear in a message. ffmpeg may open only files, and
//! only formats that contain their own sound: playlists and scripts, which could name other files, are
//! rejected.
//!
//! ffmpeg runs in a process group of its own with an almost empty environment, and is killed when the source
//! is dropped. Its output is read on demand; it waits while its pipe is full.

use std::fs::File;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ffmpeg_sidecar::command::FfmpegCommand;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use stt_actors::domain::chunk::SAMPLE_RATE;
use stt_actors::domain::error::DecodeError;
use tokio::io::AsyncReadExt;
use tokio::process::{Child, ChildStderr, ChildStdout, Command};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::ffmpeg_log::{FfmpegLog, INPUT_NAME};
use crate::priority;

/// Address space of one ffmpeg, in bytes: about twice what common formats need.
const MOST_MEMORY: u64 = 1 << 30;

/// Accepted containers, by ffmpeg's names: what people and devices record. Excluded are formats that refer to
/// other files (hls, dash, concat, sdp, image2, imf, …) or that match any content (raw samples).
const FORMATS: &str = "aac,ac3,aiff,amr,ape,asf,au,avi,caf,dsf,dts,eac3,flac,flv,loas,matroska,\
    mov,mp3,mpc,mpc8,mpeg,mpegts,mxf,nistsphere,ogg,rm,tak,truehd,tta,voc,w64,wav,wv";

/// The largest single allocation that ffmpeg may make: 256 MiB.
const LARGEST_ALLOCATION_BYTES: u64 = 256 << 20;

/// CPU time that a file of any length may take.
const BASE_CPU_TIME: Duration = Duration::from_secs(60);

/// Bytes per read: the size of a pipe, two seconds of sound.
const BLOCK_BYTES: usize = 1 << 16;

/// How ffmpeg runs.
#[derive(Clone, Debug)]
pub(crate) struct FfmpegSettings {
    pub(crate) program: PathBuf,
    /// The longest accepted audio.
    pub(crate) max_audio: Duration,
    /// The longest time without output while a stream waits for the process.
    pub(crate) stall: Duration,
    /// A slot for each process that may exist.
    pub(crate) slots: Arc<Semaphore>,
}

/// A file as a stream of 16 kHz mono blocks, decoded by ffmpeg.
pub(crate) struct FfmpegSource {
    settings: FfmpegSettings,
    state: State,
    log: Arc<Mutex<FfmpegLog>>,
}

enum State {
    /// The process has not been started; the first read starts it.
    Waiting(File, Option<OwnedSemaphorePermit>),
    Running(Box<Running>),
    Ended,
}

struct Running {
    process: Group,
    stdout: ChildStdout,
    log_reader: JoinHandle<()>,
    /// The first byte of a sample whose second byte is still to come.
    half_sample: Option<u8>,
    any_sample: bool,
    /// Released when the process has ended.
    _slot: Option<OwnedSemaphorePermit>,
}

impl FfmpegSource {
    pub(crate) fn new(settings: FfmpegSettings, file: File) -> Self {
        Self {
            settings,
            state: State::Waiting(file, None),
            log: Arc::default(),
        }
    }

    /// The length that the container claims, once ffmpeg has reported it.
    pub(crate) fn claimed_duration(&self) -> Option<Duration> {
        lock(&self.log).claimed_duration()
    }

    /// The claimed length, unless it is only a guess.
    pub(crate) fn promised_duration(&self) -> Option<Duration> {
        lock(&self.log).promised_duration()
    }

    /// Waits for a slot for the process. That may take as long as other files take.
    pub(crate) async fn ready(&mut self) {
        if let State::Waiting(_, slot @ None) = &mut self.state {
            // The semaphore is never closed; if it were, decoding would go on without a limit.
            *slot = self.settings.slots.clone().acquire_owned().await.ok();
        }
    }

    /// The next samples, `None` at the end.
    pub(crate) async fn next_block(&mut self) -> Result<Option<Vec<i16>>, DecodeError> {
        let result = self.read_block().await;
        if !matches!(result, Ok(Some(_))) {
            self.state = State::Ended;
        }
        result
    }

    async fn read_block(&mut self) -> Result<Option<Vec<i16>>, DecodeError> {
        if matches!(self.state, State::Waiting(..)) {
            self.start()?;
        }
        let State::Running(running) = &mut self.state else {
            return Ok(None);
        };
        let stalled = || DecodeError::Stalled {
            seconds: self.settings.stall.as_secs().max(1),
        };
        let mut bytes = Vec::with_capacity(BLOCK_BYTES);
        bytes.extend(running.half_sample);
        let read = timeout(self.settings.stall, running.stdout.read_buf(&mut bytes))
            .await
            .map_err(|_| stalled())?
            .map_err(|error| DecodeError::Unavailable(format!("reading from ffmpeg: {error}")))?;
        if read > 0 {
            if lock(&self.log).is_misdetection() {
                return Err(DecodeError::Undecodable("this is not audio".into()));
            }
            return Ok(Some(running.samples(&bytes)));
        }
        let status = timeout(self.settings.stall, running.end())
            .await
            .map_err(|_| stalled())?
            .map_err(|error| DecodeError::Unavailable(format!("waiting for ffmpeg: {error}")))?;
        let mut log = lock(&self.log);
        let verdict = log.verdict(status, running.any_sample);
        tracing::debug!(%status, errors = log.errors(), ?verdict, "ffmpeg ended");
        verdict.map_or(Ok(None), Err)
    }

    fn start(&mut self) -> Result<(), DecodeError> {
        let State::Waiting(file, slot) = std::mem::replace(&mut self.state, State::Ended) else {
            return Ok(());
        };
        let mut child = command(&self.settings, file)
            .spawn()
            .map_err(|error| cannot_start(&self.settings, &error))?;
        let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(DecodeError::Unavailable("ffmpeg has no pipes".into()));
        };
        self.state = State::Running(Box::new(Running {
            process: Group(child),
            stdout,
            log_reader: tokio::spawn(read_log(stderr, self.log.clone())),
            half_sample: None,
            any_sample: false,
            _slot: slot,
        }));
        Ok(())
    }
}

impl Running {
    /// The samples in `bytes`, which begins with the incomplete sample of the previous read.
    fn samples(&mut self, bytes: &[u8]) -> Vec<i16> {
        let whole = bytes.chunks_exact(2);
        self.half_sample = whole.remainder().first().copied();
        let samples: Vec<i16> = whole
            .map(|two| i16::from_le_bytes([two[0], two[1]]))
            .collect();
        self.any_sample |= !samples.is_empty();
        samples
    }

    /// Waits until the process has ended and its log has been read.
    async fn end(&mut self) -> std::io::Result<ExitStatus> {
        let status = self.process.0.wait().await?;
        if let Err(error) = (&mut self.log_reader).await {
            tracing::warn!(%error, "the reader of ffmpeg's log failed");
        }
        Ok(status)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.log_reader.abort();
    }
}

/// A child process that leads a process group; dropping it kills the group.
struct Group(Child);

impl Drop for Group {
    fn drop(&mut self) {
        // `None` after the wait: another process may have the number by then.
        if let Some(id) = self.0.id() {
            let group = Pid::from_raw(id as i32);
            if let Err(error) = killpg(group, Signal::SIGKILL) {
                tracing::debug!(%error, "ffmpeg had already ended");
            }
        }
    }
}

fn lock(log: &Mutex<FfmpegLog>) -> std::sync::MutexGuard<'_, FfmpegLog> {
    log.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn read_log(mut stderr: ChildStderr, log: Arc<Mutex<FfmpegLog>>) {
    let mut bytes = [0; 4096];
    // An error counts as the end; the exit status tells the cause.
    while let Ok(read @ 1..) = stderr.read(&mut bytes).await {
        lock(&log).feed(&bytes[..read]);
    }
}

fn command(settings: &FfmpegSettings, file: File) -> Command {
    let mut command = Command::from(arguments(settings));
    command
        .stdin(file)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // The server's environment contains keys, which a decoder does not need.
        .env_clear()
        .envs(
            ["PATH", "LD_LIBRARY_PATH"]
                .into_iter()
                .filter_map(|name| std::env::var_os(name).map(|value| (name, value))),
        )
        .process_group(0)
        .kill_on_drop(true);
    before_it_starts(&mut command);
    command
}

/// Limits the process's memory and CPU time, and lowers its priority below the hot worker's. Some containers
/// make ffmpeg build tables of gigabytes from a few kilobytes, in allocations that are each below
/// `-max_alloc`.
fn before_it_starts(command: &mut Command) {
    // SAFETY: between fork and exec only async-signal-safe functions may run; these are bare system
    // calls, and nothing is allocated.
    unsafe {
        command.pre_exec(|| {
            let _ = priority::lower_priority(priority::DECODER);
            setrlimit(Resource::RLIMIT_AS, MOST_MEMORY, MOST_MEMORY).map_err(std::io::Error::from)
        });
    }
}

/// The command line, without the pipes.
fn arguments(settings: &FfmpegSettings) -> std::process::Command {
    let longest = settings.max_audio.as_secs();
    let cpu_seconds = (BASE_CPU_TIME + settings.max_audio).as_secs();
    let mut command = FfmpegCommand::new_with_path(&settings.program);
    command
        .hide_banner()
        .args(["-nostdin", "-nostats"])
        // Every message counts, so ffmpeg must not merge equal ones.
        .args(["-loglevel", "repeat+level+info"])
        .args(["-max_alloc", &LARGEST_ALLOCATION_BYTES.to_string()])
        .args(["-timelimit", &cpu_seconds.to_string()])
        .args(["-protocol_whitelist", "file"])
        .args(["-format_whitelist", FORMATS])
        .args(["-threads", "1"])
        .input(INPUT_NAME)
        .no_video()
        .args(["-sn", "-dn"])
        .map("0:a:0")
        .args(["-ac", "1"])
        .args(["-ar", &SAMPLE_RATE.to_string()])
        // Slightly more than the limit, so that too long audio is recognised.
        .duration((longest + 1).to_string())
        .format("s16le")
        .output("pipe:1");
    command.into()
}

fn cannot_start(settings: &FfmpegSettings, error: &std::io::Error) -> DecodeError {
    let program = settings.program.display();
    DecodeError::Unavailable(match error.kind() {
        ErrorKind::NotFound => format!(
            "`{program}` was not found. Install ffmpeg (`apt install ffmpeg`); \
             without it only PCM WAV can be read"
        ),
        _ => format!("cannot start `{program}`: {error}"),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn line(max_audio: Duration) -> Vec<String> {
        let settings = FfmpegSettings {
            program: "ffmpeg".into(),
            max_audio,
            stall: Duration::from_secs(30),
            slots: Arc::new(Semaphore::new(1)),
        };
        arguments(&settings)
            .get_args()
            .map(|argument| argument.to_string_lossy().into_owned())
            .collect()
    }

    #[test]
    fn the_command_line_is_closed_to_networks_playlists_and_the_terminal() {
        let line = line(Duration::from_secs(3600));
        let value = |option: &str| {
            let place = line.iter().position(|argument| argument == option).unwrap();
            line[place + 1].as_str()
        };
        assert!(line.contains(&"-nostdin".to_owned()));
        assert_eq!(value("-protocol_whitelist"), "file");
        assert_eq!(value("-t"), "3601");
        assert_eq!(value("-i"), "file:/dev/stdin");
        let formats: Vec<&str> = value("-format_whitelist").split(',').collect();
        for dangerous in [
            "hls", "dash", "concat", "sdp", "image2", "imf", "lavfi", "rtsp", "tty",
        ] {
            assert!(!formats.contains(&dangerous), "{dangerous}");
        }
        assert!(
            formats
                .iter()
                .all(|format| !format.contains(char::is_whitespace))
        );
    }

    #[test]
    fn a_missing_ffmpeg_is_said_with_its_remedy() {
        let settings = FfmpegSettings {
            program: "no-such-ffmpeg".into(),
            max_audio: Duration::from_secs(1),
            stall: Duration::from_secs(1),
            slots: Arc::new(Semaphore::new(1)),
        };
        let error = cannot_start(&settings, &ErrorKind::NotFound.into()).to_string();
        assert!(
            error.contains("no-such-ffmpeg") && error.contains("apt install"),
            "{error}"
        );
    }
}
