//! Transcribes files on this machine, with the same tree but without HTTP.

use std::path::Path;
use std::time::Duration;

use anyhow::bail;
use stt_actors::domain::chunk::AudioSource;
use stt_actors::domain::transcript::{Task, Transcript};
use stt_actors::{AdmissionRequest, Client, Event, Job, Options, Stt, Urgency};
use tracing::warn;

use super::{Progress, TranscribeArgs, each_file};
use crate::models::{Logged, ModelStore};
use crate::render::Details;
use crate::serve::{Neighbours, start_tree};
use crate::settings::{Settings, VadModel};
use crate::shutdown::StopSignals;

/// Transcribes the files one after the other. Prints the error of a file that fails, and continues.
///
/// # Errors
/// The model is missing, or a file failed.
pub async fn transcribe(settings: Settings, args: TranscribeArgs) -> anyhow::Result<()> {
    let mut signals = StopSignals::listen()?;
    ensure_voice_activity(&settings).await;
    let (stt, mut tree_ended) = start_tree(&settings, Neighbours::of_command(&settings)?).await?;
    let result = tokio::select! {
        result = all(&stt, &settings, &args) => result,
        signal = signals.next() => Err(anyhow::anyhow!("ended by {signal}")),
        () = tree_ended.wait() => return Err(anyhow::anyhow!("the supervision tree ended unexpectedly")),
    };
    stt.drain(Duration::ZERO);
    tree_ended.wait().await;
    result
}

/// Downloads the weights of the voice activity detector before the first audio, if possible, so that all audio is
/// treated alike.
pub(in crate::cli) async fn ensure_voice_activity(settings: &Settings) {
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
    each_file(args, async |file: &Path| {
        one(stt, settings, args, file).await.map(Some)
    })
    .await
}

/// The spoken language, if it was given.
fn language_of<'a>(settings: &'a Settings, args: &'a TranscribeArgs) -> Option<&'a str> {
    let asked = args.language.as_deref();
    asked.or(settings.default_language.as_deref())
}

async fn one(
    stt: &Stt,
    settings: &Settings,
    args: &TranscribeArgs,
    file: &Path,
) -> anyhow::Result<String> {
    let task = if args.translate {
        Task::Translate
    } else {
        Task::Transcribe
    };
    let job = Job {
        request_id: file.display().to_string().into(),
        audio: AudioSource::file(std::path::absolute(file)?).into(),
        options: Options {
            task,
            language: language_of(settings, args).map(str::to_owned),
            languages: Vec::new(),
            prompt: args.prompt.clone(),
            temperature: args.temperature,
            voice_activity: !args.no_vad,
            hallucination_guard: !args.no_hallucination_guard,
            multilingual: args.multilingual,
        },
        identity: None,
        escalates: true,
        streamed: false,
        urgency: Urgency::default(),
        finished: None,
        trace: stt_actors::Trace::default(),
    };
    let mut transcript = follow(stt, job, file).await?;
    if args.translate {
        // `language` is the language of the text.
        "en".clone_into(&mut transcript.language);
    }
    Ok((args.format).render(&transcript, task, Details::default()))
}

/// Runs a job, with a progress bar on a terminal.
async fn follow(stt: &Stt, job: Job, file: &Path) -> anyhow::Result<Transcript> {
    let template = "{msg} {bar:30} {pos}/{len} s of audio, {eta} left";
    let Progress(bar) = &Progress::of(file, template);
    let admission_request = AdmissionRequest::of(Client::new("command line"));
    let mut stream = stt.submit(stt.admit(admission_request)?, job).await?;
    while let Some(event) = stream.next().await {
        match event? {
            Event::Progress(progress) => {
                bar.set_length(progress.seconds_known.ceil() as u64);
                bar.set_position(progress.seconds_done as u64);
            }
            Event::Done(transcript) => return Ok(transcript),
            Event::Language { .. } | Event::Route(_) | Event::Segment(_) | Event::Finished(_) => {}
        }
    }
    bail!("the transcription ended without a result")
}
