//! `uttera-stt listen`: live text of a microphone or of PCM on standard input, by this machine or by a server.

mod local;
mod print;
mod remote;
mod source;

use std::time::Duration;

use clap::Args;

use super::transcribe::parse_language;
use crate::settings::Settings;
use crate::shutdown::StopSignals;
use print::Printer;
use source::Source;

/// Samples per second of the microphone.
const MICROPHONE_RATE: u32 = 16_000;

/// Arguments of `uttera-stt listen`.
#[derive(Clone, Debug, Args)]
pub struct ListenArgs {
    /// Read raw PCM (mono, signed 16 bit, little-endian) from standard input, not the microphone.
    #[arg(long)]
    stdin: bool,
    /// Sample rate of standard input, in Hz.
    #[arg(long, default_value_t = MICROPHONE_RATE, requires = "stdin")]
    rate: u32,
    /// The microphone, as ffmpeg names it: FORMAT:DEVICE, for example alsa:hw:1.
    #[arg(long, default_value = "pulse:default", conflicts_with = "stdin")]
    microphone: String,
    /// Spoken language (default: detected for each turn).
    #[arg(long, value_parser = parse_language)]
    language: Option<String>,
    /// Text that the model treats as preceding text, to suggest names and spelling.
    #[arg(long)]
    prompt: Option<String>,
    /// Silence in milliseconds that ends a turn, and with it a line of text.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u64).range(200..=10_000))]
    silence: u64,
    /// Print every event as a line of JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: remote::ServerArgs,
}

impl ListenArgs {
    /// Whether a server does the work.
    pub fn is_remote(&self) -> bool {
        self.server.is_named()
    }

    fn rate(&self) -> u32 {
        if self.stdin {
            self.rate
        } else {
            MICROPHONE_RATE
        }
    }

    fn silence(&self) -> Duration {
        Duration::from_millis(self.silence)
    }
}

/// Listens with a tree of its own, until the input ends or a signal comes.
///
/// # Errors
/// The model or the input is missing, or the tree failed.
pub async fn listen(settings: Settings, args: ListenArgs) -> anyhow::Result<()> {
    let signals = StopSignals::listen()?;
    local::listen(&settings, &args, signals).await
}

/// Listens with a server.
///
/// # Errors
/// The server or the input is missing, or the connection broke off.
pub async fn listen_remotely(
    args: ListenArgs,
    local_option: Option<&'static str>,
) -> anyhow::Result<()> {
    if let Some(option) = local_option {
        anyhow::bail!("{option} is about this machine, and --url names a server");
    }
    let signals = StopSignals::listen()?;
    remote::listen(&args, signals).await
}
