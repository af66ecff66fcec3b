//! Where the audio comes from.

use std::process::Stdio;

use anyhow::{Context, bail};
use ffmpeg_sidecar::command::FfmpegCommand;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};

use super::{ListenArgs, MICROPHONE_RATE};
use crate::shutdown::StopSignals;

/// Bytes per read: a tenth of a second at 16 kHz.
const BLOCK_BYTES: usize = 3200;

/// Mono samples, signed 16 bit, that end with the input or with a signal.
pub(super) struct Source {
    reader: Box<dyn AsyncRead + Unpin + Send>,
    /// The recorder, which ends with this value.
    recorder: Option<Child>,
    signals: StopSignals,
    has_ended: bool,
}

impl Source {
    /// Opens standard input or the microphone.
    ///
    /// # Errors
    /// ffmpeg, which records, cannot be started.
    pub(super) fn open(args: &ListenArgs, signals: StopSignals) -> anyhow::Result<Self> {
        if args.stdin {
            return Ok(Self {
                reader: Box::new(tokio::io::stdin()),
                recorder: None,
                signals,
                has_ended: false,
            });
        }
        let mut recorder = recorder(&args.microphone)?;
        let output = recorder.stdout.take().context("ffmpeg has no output")?;
        Ok(Self {
            reader: Box::new(output),
            recorder: Some(recorder),
            signals,
            has_ended: false,
        })
    }

    /// The next samples; `None` after the last. A further call waits for a signal.
    ///
    /// # Errors
    /// The input cannot be read, the recorder failed, or a signal came after the last samples.
    pub(super) async fn next(&mut self) -> anyhow::Result<Option<Vec<u8>>> {
        if self.has_ended {
            let signal = self.signals.next().await;
            bail!("ended by {signal} before the last text");
        }
        let samples = self.read().await?;
        self.has_ended = samples.is_none();
        Ok(samples)
    }

    async fn read(&mut self) -> anyhow::Result<Option<Vec<u8>>> {
        let mut block = vec![0; BLOCK_BYTES];
        let read = tokio::select! {
            read = self.reader.read(&mut block) => read.context("the audio cannot be read")?,
            _ = self.signals.next() => return Ok(None),
        };
        if read > 0 {
            block.truncate(read);
            return Ok(Some(block));
        }
        if let Some(recorder) = &mut self.recorder {
            let status = recorder.wait().await?;
            if !status.success() {
                bail!(
                    "ffmpeg cannot record (its message is above); --microphone names another device"
                );
            }
        }
        Ok(None)
    }
}

/// ffmpeg, recording from a device `FORMAT:DEVICE`.
fn recorder(microphone: &str) -> anyhow::Result<Child> {
    let (format, device) = (microphone.split_once(':'))
        .context("--microphone: expected FORMAT:DEVICE, for example alsa:default")?;
    let mut command = FfmpegCommand::new_with_path("ffmpeg");
    command
        .hide_banner()
        .args(["-nostdin", "-loglevel", "error", "-f", format])
        .input(device)
        .args(["-ac", "1", "-ar", &MICROPHONE_RATE.to_string()])
        .format("s16le")
        .output("pipe:1");
    let command = std::mem::replace(command.as_inner_mut(), std::process::Command::new("ffmpeg"));
    Command::from(command)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .spawn()
        .context("cannot start ffmpeg, which records from the microphone")
}
