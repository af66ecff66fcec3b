//! `uttera-stt transcribe FILE…`: transcribes files, on this machine or by a server.

pub(super) mod job;
mod local;
mod output;
mod remote;

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use tracing::warn;

use crate::language;
use crate::render::Format;
pub(super) use local::ensure_voice_activity;
pub use local::transcribe;
pub(super) use output::extension;
pub(super) use remote::response_format;
pub use remote::transcribe as transcribe_remotely;

/// Arguments of `uttera-stt transcribe`.
#[derive(Debug, Args)]
#[allow(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
pub struct TranscribeArgs {
    /// Audio or video files to transcribe.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Output format: txt, json, verbose_json, srt or vtt.
    #[arg(long, default_value = "txt", value_parser = parse_format)]
    format: Format,
    /// Spoken language (default: detected).
    #[arg(long, value_parser = parse_language)]
    language: Option<String>,
    /// Translate to English.
    #[arg(long)]
    translate: bool,
    /// Text that the model treats as preceding text, to suggest names and spelling.
    #[arg(long)]
    prompt: Option<String>,
    /// Sampling temperature, 0 to 1; 0: greedy, with whisper's temperature fallback.
    #[arg(long, default_value_t = 0.0, value_parser = parse_temperature)]
    temperature: f32,
    /// Transcribe silence and noise as well, without voice activity detection.
    #[arg(long)]
    no_vad: bool,
    /// Keep text that seems to be hallucinated.
    #[arg(long)]
    no_hallucination_guard: bool,
    /// Detect the language of each chunk, for audio in several languages.
    #[arg(long, conflicts_with = "language")]
    multilingual: bool,
    /// Write each result beside its file, with the format's extension.
    #[arg(long, conflicts_with = "output_dir")]
    beside: bool,
    /// Write each result into this folder.
    #[arg(long)]
    output_dir: Option<PathBuf>,
    #[command(flatten)]
    server: remote::ServerArgs,
}

pub(super) fn parse_format(name: &str) -> Result<Format, String> {
    let name = if name == "txt" { "text" } else { name };
    Format::parse(name).ok_or_else(|| "expected txt, json, verbose_json, srt or vtt".to_owned())
}

pub(super) fn parse_language(text: &str) -> Result<String, String> {
    let language = language::parse(text).ok_or("expected a language code such as en")?;
    Ok(language.code().to_owned())
}

fn parse_temperature(text: &str) -> Result<f32, String> {
    let parsed = text.parse().ok().filter(|t| (0.0..=1.0).contains(t));
    parsed.ok_or_else(|| "expected a number from 0 to 1".to_owned())
}

impl TranscribeArgs {
    /// Whether a server does the work.
    pub fn is_remote(&self) -> bool {
        self.server.is_named()
    }
}

/// Transcribes one file after the other and writes the results, unless they were printed already. Prints the error
/// of a file that fails, and continues.
async fn each_file(
    args: &TranscribeArgs,
    mut render: impl AsyncFnMut(&Path) -> anyhow::Result<Option<String>>,
) -> anyhow::Result<()> {
    output::refuse_collisions(args)?;
    let mut failed = 0;
    for file in &args.files {
        let result = async {
            // Report a missing file as such, and not as audio that cannot be decoded.
            std::fs::metadata(file).context("cannot be read")?;
            match render(file).await? {
                Some(rendered) => output::write(&rendered, args, file),
                None => Ok(()),
            }
        };
        if let Err(error) = result.await {
            failed += 1;
            // Not to the log, which may be filtered.
            eprintln!("{}: {error:#}", file.display());
        }
    }
    if failed > 0 {
        bail!("{failed} of {} files failed", args.files.len());
    }
    Ok(())
}

/// A progress bar on a terminal, removed when it is dropped.
struct Progress(ProgressBar);

impl Progress {
    fn of(file: &Path, template: &str) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self(ProgressBar::hidden());
        }
        let bar = ProgressBar::new(0);
        match ProgressStyle::with_template(template) {
            Ok(style) => bar.set_style(style),
            Err(error) => warn!(%error, "invalid style of the progress bar"),
        }
        bar.set_message(file.display().to_string());
        bar.enable_steady_tick(Duration::from_millis(200));
        Self(bar)
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
