//! `uttera-stt transcribe FILE…`: the same tree without HTTP.

use std::collections::BTreeSet;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use stt_actors::ports::AudioSource;
use stt_actors::transcript::{Task, Transcript};
use stt_actors::{Client, Event, Job, Newcomer, Options, Stt};
use tracing::warn;

use crate::language;
use crate::models::{Logged, ModelStore};
use crate::render::{Details, Format};
use crate::serve::start_tree;
use crate::settings::{Settings, VadModel};
use crate::shutdown::StopSignals;

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

/// Transcribes the files one after the other. One that fails is told and the rest is done all the
/// same.
///
/// # Errors
/// No model, or a file that failed.
pub async fn transcribe(settings: Settings, args: TranscribeArgs) -> anyhow::Result<()> {
    let mut signals = StopSignals::listen()?;
    ensure_voice_activity(&settings).await;
    let (stt, mut tree_ended) = start_tree(&settings, None).await?;
    let result = tokio::select! {
        result = all(&stt, &settings, &args) => result,
        signal = signals.next() => Err(anyhow::anyhow!("ended by {signal}")),
        () = tree_ended.wait() => return Err(anyhow::anyhow!("the supervision tree ended by itself")),
    };
    stt.drain(Duration::ZERO);
    tree_ended.wait().await;
    result
}

/// The first file of a fresh machine is treated like every other: what tells speech from silence is
/// fetched before, if it can be had.
async fn ensure_voice_activity(settings: &Settings) {
    let store = ModelStore::new(settings.models_dir.clone());
    if settings.vad_model == VadModel::Silero
        && let Err(error) = store.ensure_voice_activity(&Logged::default()).await
    {
        warn!(%error, "no voice activity detection");
    }
}

async fn all(stt: &Stt, settings: &Settings, args: &TranscribeArgs) -> anyhow::Result<()> {
    let engine = stt.ready().await.map_err(anyhow::Error::msg)?;
    if args.translate && !engine.multilingual {
        bail!(
            "the model {} cannot translate: it knows English only",
            engine.model
        );
    }
    let language = language_of(settings, args);
    if let Some(language) = language.filter(|code| *code != "en" && !engine.multilingual) {
        bail!(
            "the language is {language}, but the model {} knows English only",
            engine.model
        );
    }
    refuse_collisions(args)?;
    let mut failed = 0;
    for file in &args.files {
        if let Err(error) = one(stt, settings, args, file).await {
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

/// The language spoken, if anybody said it.
fn language_of<'a>(settings: &'a Settings, args: &'a TranscribeArgs) -> Option<&'a str> {
    let asked = args.language.as_deref();
    asked.or(settings.default_language.as_deref())
}

async fn one(
    stt: &Stt,
    settings: &Settings,
    args: &TranscribeArgs,
    file: &Path,
) -> anyhow::Result<()> {
    // A missing file is told as such, and not as audio that cannot be decoded.
    std::fs::metadata(file).context("cannot be read")?;
    let task = if args.translate {
        Task::Translate
    } else {
        Task::Transcribe
    };
    let job = Job {
        request_id: file.display().to_string().into(),
        source: AudioSource::file(std::path::absolute(file)?),
        options: Options {
            task,
            language: language_of(settings, args).map(str::to_owned),
            prompt: args.prompt.clone(),
            temperature: args.temperature,
            voice_activity: !args.no_vad,
            hallucination_guard: !args.no_hallucination_guard,
            multilingual: args.multilingual,
        },
        identity: None,
        escalates: true,
        streamed: false,
    };
    let mut transcript = follow(stt, job, file).await?;
    if args.translate {
        // The language is that of the text.
        "en".clone_into(&mut transcript.language);
    }
    let rendered = (args.format).render(&transcript, task, Details::default());
    write(&rendered, args, file)
}

/// Runs a job with a progress bar where there is a terminal.
async fn follow(stt: &Stt, job: Job, file: &Path) -> anyhow::Result<Transcript> {
    let bar = progress_bar(file);
    let newcomer = Newcomer::of(Client::new("command line"));
    let mut stream = stt.submit(stt.admit(newcomer)?, job).await?;
    while let Some(event) = stream.next().await {
        match event? {
            Event::Progress(progress) => {
                bar.set_length(progress.seconds_known.ceil() as u64);
                bar.set_position(progress.seconds_done as u64);
            }
            Event::Done(transcript) => {
                bar.finish_and_clear();
                return Ok(transcript);
            }
            Event::Language { .. } | Event::Route(_) | Event::Segment(_) => {}
        }
    }
    bail!("the transcription ended without an end")
}

fn progress_bar(file: &Path) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(0);
    let style = ProgressStyle::with_template("{msg} {bar:30} {pos}/{len} s of audio, {eta} left");
    match style {
        Ok(style) => bar.set_style(style),
        Err(error) => warn!(%error, "the progress bar has no style"),
    }
    bar.set_message(file.display().to_string());
    bar
}

/// Where a file's result goes; `None`: to standard output.
fn target(args: &TranscribeArgs, file: &Path) -> Option<PathBuf> {
    let ending = match args.format {
        Format::Json | Format::VerboseJson => "json",
        Format::Text => "txt",
        Format::Srt => "srt",
        Format::Vtt => "vtt",
    };
    let target = match &args.output_dir {
        Some(folder) => Some(folder.join(file.file_name()?)),
        None => args.beside.then(|| file.to_path_buf()),
    };
    target.map(|target| target.with_extension(ending))
}

/// Two results in one place would leave one of them, and a result in place of a file none.
fn refuse_collisions(args: &TranscribeArgs) -> anyhow::Result<()> {
    let mut taken: BTreeSet<PathBuf> = args.files.iter().cloned().collect();
    for file in &args.files {
        if let Some(target) = target(args, file)
            && !taken.insert(target.clone())
        {
            bail!(
                "{} would be written twice, or over its source",
                target.display()
            );
        }
    }
    Ok(())
}

fn write(rendered: &str, args: &TranscribeArgs, file: &Path) -> anyhow::Result<()> {
    let Some(target) = target(args, file) else {
        let mut out = std::io::stdout().lock();
        let newline = if rendered.ends_with('\n') { "" } else { "\n" };
        return Ok(write!(out, "{rendered}{newline}")?);
    };
    if let Some(folder) = target.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("{}", folder.display()))?;
    }
    std::fs::write(&target, rendered).with_context(|| format!("{}", target.display()))
}
