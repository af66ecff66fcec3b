//! `uttera-stt transcribe FILE…`: files to text, on this machine or by a server.

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
pub use local::transcribe;
pub use remote::transcribe as transcribe_remotely;

/// Arguments of `uttera-stt transcribe`.
#[derive(Debug, Args)]
#[allow(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
pub struct TranscribeArgs {
    /// Audio or video files.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// txt, json, verbose_json, srt or vtt.
    #[arg(long, default_value = "txt", value_parser = parse_format)]
    format: Format,
    /// Language of the speech; detected if not given.
    #[arg(long, value_parser = parse_language)]
    language: Option<String>,
    /// Translate to English.
    #[arg(long)]
    translate: bool,
    /// Text that the model is to take as what came before: names, spelling.
    #[arg(long)]
    prompt: Option<String>,
    /// 0: greedy, with whisper's temperature ladder; up to 1.
    #[arg(long, default_value_t = 0.0, value_parser = parse_temperature)]
    temperature: f32,
    /// Transcribe silence and noise as well, instead of leaving out what is not speech.
    #[arg(long)]
    no_vad: bool,
    /// Keep text that whisper seems to have made up.
    #[arg(long)]
    no_hallucination_guard: bool,
    /// More than one language is spoken: detect it for each piece of the audio.
    #[arg(long, conflicts_with = "language")]
    multilingual: bool,
    /// Write each result beside its file, with the format's ending.
    #[arg(long, conflicts_with = "output_dir")]
    beside: bool,
    /// Write each result into this folder.
    #[arg(long)]
    output_dir: Option<PathBuf>,
    #[command(flatten)]
    server: remote::ServerArgs,
}

fn parse_format(name: &str) -> Result<Format, String> {
    let name = if name == "txt" { "text" } else { name };
    Format::parse(name)
        .ok_or_else(|| "one of txt, json, verbose_json, srt, vtt is expected".to_owned())
}

fn parse_language(text: &str) -> Result<String, String> {
    let language = language::parse(text).ok_or("a language code such as en is expected")?;
    Ok(language.code().to_owned())
}

fn parse_temperature(text: &str) -> Result<f32, String> {
    let parsed = text.parse().ok().filter(|t| (0.0..=1.0).contains(t));
    parsed.ok_or_else(|| "a number from 0 to 1 is expected".to_owned())
}

impl TranscribeArgs {
    /// Whether a server does it.
    pub fn is_remote(&self) -> bool {
        self.server.is_named()
    }
}

/// Has one file after the other made into text, and puts that where it goes, unless it was shown
/// already. One that fails is told and the rest is done all the same.
async fn each_file(
    args: &TranscribeArgs,
    mut render: impl AsyncFnMut(&Path) -> anyhow::Result<Option<String>>,
) -> anyhow::Result<()> {
    output::refuse_collisions(args)?;
    let mut failed = 0;
    for file in &args.files {
        let result = async {
            // A missing file is told as such, and not as audio that cannot be decoded.
            std::fs::metadata(file).context("cannot be read")?;
            match render(file).await? {
                Some(rendered) => output::write(&rendered, args, file),
                None => Ok(()),
            }
        };
        if let Err(error) = result.await {
            failed += 1;
            // The log may be filtered; what failed must be seen.
            eprintln!("{}: {error:#}", file.display());
        }
    }
    if failed > 0 {
        bail!("{failed} of {} files failed", args.files.len());
    }
    Ok(())
}

/// Shown where there is a terminal, and ends with what it is about.
struct Progress(ProgressBar);

impl Progress {
    fn of(file: &Path, template: &str) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self(ProgressBar::hidden());
        }
        let bar = ProgressBar::new(0);
        match ProgressStyle::with_template(template) {
            Ok(style) => bar.set_style(style),
            Err(error) => warn!(%error, "the progress bar has no style"),
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
