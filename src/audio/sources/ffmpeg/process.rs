//! One ffmpeg process: how it is started, read and ended.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ffmpeg_sidecar::command::FfmpegCommand;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use stt_actors::domain::chunk::SAMPLE_RATE;
use stt_actors::domain::error::DecodeError;
use tokio::io::AsyncReadExt;
use tokio::process::{Child, ChildStderr, ChildStdout, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::FfmpegSettings;
use super::log::{FfmpegLog, INPUT_NAME};
use crate::priority;

/// Address space of one ffmpeg, in bytes: about twice what common formats need.
const MOST_MEMORY: u64 = 1 << 30;

/// Accepted containers, by ffmpeg's names: what people and devices record. Excluded are formats that refer to
/// other files (hls, dash, concat, sdp, image2, imf, …) or that match any content (raw samples).
const FORMATS: &str = "aac,ac3,act,aiff,amr,ape,asf,au,avi,caf,dsf,dss,dts,dv,eac3,flac,flv,gxf,iff,ircam,\
    loas,matroska,mmf,mov,mp3,mpc,mpc8,mpeg,mpegts,mxf,nistsphere,nut,ogg,oma,qcp,rm,sox,tak,truehd,tta,\
    voc,w64,wav,wtv,wv";

/// The largest single allocation that ffmpeg may make: 256 MiB.
const LARGEST_ALLOCATION_BYTES: u64 = 256 << 20;

/// CPU time that a file of any length may take.
const BASE_CPU_TIME: Duration = Duration::from_secs(60);

/// Bytes per read: the size of a pipe.
const BLOCK_BYTES: usize = 1 << 16;

/// A file, or a part of one.
#[derive(Clone, Copy)]
pub(super) struct Input<'a> {
    pub(super) file: &'a File,
    /// Where the part begins and ends, in bytes; `None`: the whole file.
    pub(super) part: Option<(u64, u64)>,
}

/// What ffmpeg does with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Task {
    /// Decodes this track, or the one of its choice.
    Decode(Option<usize>),
    /// Lists the packets of this track without decoding them.
    List(Option<usize>),
}

/// A running ffmpeg.
pub(super) struct Process {
    group: Group,
    stdout: ChildStdout,
    log: Arc<Mutex<FfmpegLog>>,
    log_reader: JoinHandle<()>,
    /// Whether the log describes the file completely.
    is_open: watch::Receiver<bool>,
    stall: Duration,
}

impl Process {
    pub(super) fn start(
        settings: &FfmpegSettings,
        input: Input<'_>,
        task: Task,
    ) -> Result<Self, DecodeError> {
        let mut child = command(settings, input, task)?
            .spawn()
            .map_err(|error| cannot_start(settings, &error))?;
        let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(DecodeError::Unavailable("ffmpeg has no pipes".into()));
        };
        let log: Arc<Mutex<FfmpegLog>> = Arc::default();
        let (opened, is_open) = watch::channel(false);
        Ok(Self {
            group: Group(child),
            stdout,
            log_reader: tokio::spawn(read_log(stderr, log.clone(), opened)),
            log,
            is_open,
            stall: settings.stall,
        })
    }

    pub(super) fn log(&self) -> MutexGuard<'_, FfmpegLog> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next bytes of the output; none at its end. A caller that stops waiting loses nothing.
    pub(super) async fn read(&mut self) -> Result<Vec<u8>, DecodeError> {
        let mut bytes = Vec::with_capacity(BLOCK_BYTES);
        timeout(self.stall, self.stdout.read_buf(&mut bytes))
            .await
            .map_err(|_| self.stalled())?
            .map_err(|error| DecodeError::Unavailable(format!("reading from ffmpeg: {error}")))?;
        if !bytes.is_empty() && self.log().is_misdetection() {
            return Err(DecodeError::Undecodable("this is not audio".into()));
        }
        Ok(bytes)
    }

    /// Waits until the log describes the file completely, or has ended.
    pub(super) async fn opened(&mut self) -> Result<(), DecodeError> {
        let is_open = timeout(self.stall, self.is_open.wait_for(|is_open| *is_open)).await;
        // The inner error is the end of the log.
        is_open.map(drop).map_err(|_| self.stalled())
    }

    /// Waits until the process has ended, and judges its exit. `any_sound`: whether it gave samples.
    pub(super) async fn end(&mut self, any_sound: bool) -> Result<(), DecodeError> {
        let status = timeout(self.stall, self.exit())
            .await
            .map_err(|_| self.stalled())?
            .map_err(|error| DecodeError::Unavailable(format!("waiting for ffmpeg: {error}")))?;
        let mut log = self.log();
        let verdict = log.verdict(status, any_sound);
        tracing::debug!(%status, errors = log.errors(), ?verdict, "ffmpeg ended");
        verdict.map_or(Ok(()), Err)
    }

    /// Waits until the process has ended and its log has been read.
    async fn exit(&mut self) -> std::io::Result<ExitStatus> {
        let status = self.group.0.wait().await?;
        if !self.log_reader.is_finished()
            && let Err(error) = (&mut self.log_reader).await
        {
            tracing::warn!(%error, "the reader of ffmpeg's log failed");
        }
        Ok(status)
    }

    fn stalled(&self) -> DecodeError {
        DecodeError::Stalled {
            seconds: self.stall.as_secs().max(1),
        }
    }
}

impl Drop for Process {
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

async fn read_log(
    mut stderr: ChildStderr,
    log: Arc<Mutex<FfmpegLog>>,
    opened: watch::Sender<bool>,
) {
    let mut bytes = [0; 4096];
    // An error counts as the end; the exit status tells the cause.
    while let Ok(read @ 1..) = stderr.read(&mut bytes).await {
        let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
        log.feed(&bytes[..read]);
        if log.is_open() {
            opened.send_replace(true);
        }
    }
}

fn command(
    settings: &FfmpegSettings,
    input: Input<'_>,
    task: Task,
) -> Result<Command, DecodeError> {
    let mut start = [0; 3];
    let standard_input = (input.file.read_at(&mut start, 0)).and_then(|_| input.file.try_clone());
    let standard_input = standard_input.map_err(|error| {
        DecodeError::Unavailable(format!("cannot read the audio file: {error}"))
    })?;
    let mut command = Command::from(arguments(settings, input.part, task, may_be_mp3(start)));
    command
        .stdin(standard_input)
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
    Ok(command)
}

/// Whether a file begins with a tag or a frame as an MP3 does.
fn may_be_mp3(start: [u8; 3]) -> bool {
    start == *b"ID3" || (start[0] == 0xff && start[1] & 0xe6 == 0xe2)
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
fn arguments(
    settings: &FfmpegSettings,
    part: Option<(u64, u64)>,
    task: Task,
    may_be_mp3: bool,
) -> std::process::Command {
    let (protocols, name) = match part {
        None => ("file", INPUT_NAME.to_owned()),
        Some((start, end)) => (
            "file,subfile",
            format!("subfile,,start,{start},end,{end},,:{INPUT_NAME}"),
        ),
    };
    let cpu_seconds = (BASE_CPU_TIME + settings.max_audio).as_secs();
    let mut command = FfmpegCommand::new_with_path(&settings.program);
    command
        .hide_banner()
        .args(["-nostdin", "-nostats"])
        // Every message counts, so ffmpeg must not merge equal ones.
        .args(["-loglevel", "repeat+level+info"])
        .args(["-max_alloc", &LARGEST_ALLOCATION_BYTES.to_string()])
        .args(["-timelimit", &cpu_seconds.to_string()])
        .args(["-protocol_whitelist", protocols])
        .args(["-format_whitelist", FORMATS])
        .args(["-threads", "1"])
        // The time line needs the times as they are. ffmpeg would count from the first sound of a broadcast.
        .arg("-copyts");
    if may_be_mp3 {
        // The header of an MP3 may describe another file: without this, ffmpeg cuts in the middle the padding
        // that the header names. Samples before the beginning are removed by their time.
        command.args(["-flags2", "+skip_manual"]);
    }
    command.input(name).no_video().args(["-sn", "-dn"]);
    let (Task::Decode(track) | Task::List(track)) = task;
    if let Some(track) = track {
        command.map(format!("0:{track}"));
    }
    match task {
        Task::Decode(_) => command
            .args(["-ar", &SAMPLE_RATE.to_string()])
            .codec_audio("pcm_s16le")
            // A container with time stamps, and all channels: `timeline` places the sound, `mono` mixes it.
            .args(["-avoid_negative_ts", "disabled"])
            .format("matroska"),
        Task::List(_) => command.codec_audio("copy").format("framecrc"),
    };
    command.output("pipe:1");
    command.into()
}

fn cannot_start(settings: &FfmpegSettings, error: &std::io::Error) -> DecodeError {
    let program = settings.program.display();
    DecodeError::Unavailable(match error.kind() {
        ErrorKind::NotFound => format!(
            "`{program}` was not found. Install ffmpeg (`apt install ffmpeg`); \
             without it only WAV, short FLAC and short MP3 can be read"
        ),
        _ => format!("cannot start `{program}`: {error}"),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::HashSet;

    use tokio::sync::Semaphore;

    use super::*;

    fn command_line(part: Option<(u64, u64)>, task: Task) -> Vec<String> {
        let settings = FfmpegSettings {
            program: "ffmpeg".into(),
            max_audio: Duration::from_secs(3600),
            stall: Duration::from_secs(30),
            slots: Arc::new(Semaphore::new(1)),
        };
        arguments(&settings, part, task, false)
            .get_args()
            .map(|argument| argument.to_string_lossy().into_owned())
            .collect()
    }

    #[test]
    fn the_command_line_is_closed_to_networks_playlists_and_the_terminal() {
        let line = command_line(None, Task::Decode(Some(2)));
        let value = |option: &str| {
            let place = line.iter().position(|argument| argument == option).unwrap();
            line[place + 1].as_str()
        };
        assert!(line.contains(&"-nostdin".to_owned()));
        assert_eq!(value("-protocol_whitelist"), "file");
        assert_eq!(value("-timelimit"), "3660");
        assert_eq!(value("-map"), "0:2");
        assert_eq!(value("-i"), "file:/dev/stdin");
        let formats: Vec<&str> = value("-format_whitelist").split(',').collect();
        for dangerous in [
            "hls", "dash", "concat", "sdp", "image2", "imf", "lavfi", "rtsp", "tty",
        ] {
            assert!(!formats.contains(&dangerous), "{dangerous}");
        }
        let part = command_line(Some((5, 70)), Task::Decode(None));
        assert!(part.contains(&"subfile,,start,5,end,70,,:file:/dev/stdin".to_owned()));
        assert!(part.contains(&"file,subfile".to_owned()));
        let differing: HashSet<&str> = formats.iter().copied().collect();
        assert_eq!(differing.len(), formats.len());
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
