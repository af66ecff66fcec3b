//! Measures live sessions against uploads of the same audio: the word errors of both, and what the passes over growing
//! speech send. The audio is sent as fast as the session takes it; the times of live text are measured by
//! `uttera-stt bench --scenario live`. The figures on live voice in docs/performance.md.
//!
//! ```text
//! cargo run --release --example measure_live -- --corpus corpus --model base \
//!     [--languages en,es,fr,de] [--every 2] [--first 0] [--silence 500]
//! ```

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use measurement_support::corpus::{Pair, print_difference, rows};
use measurement_support::decode::decode;
use measurement_support::wav::wav;
use stt_actors::domain::chunk::AudioSource;
use stt_actors::domain::live::{LiveClient, LiveEvent, LiveOptions, PcmFormat, TurnDetection};
use stt_actors::{AdmissionRequest, Client, Job, Options, Priority, Stt, Urgency};
use uttera_stt::serve::{Neighbours, start_tree};
use uttera_stt::settings::Settings;
use uttera_stt_tools::probe::word_error_rate::Score;

#[derive(Parser)]
struct Args {
    /// Folder with the recordings and their tables.
    #[arg(long)]
    corpus: PathBuf,
    /// Model: a name or a file.
    #[arg(long, default_value = "base")]
    model: String,
    /// The models folder, if it is not the usual one.
    #[arg(long)]
    models: Option<PathBuf>,
    /// Table of the corpus.
    #[arg(long, default_value = "speech.tsv")]
    table: String,
    /// Comma-separated languages to use.
    #[arg(long, default_value = "en,es,fr,de")]
    languages: String,
    /// Use every n-th recording.
    #[arg(long, default_value_t = 1)]
    every: usize,
    /// End turns after this many milliseconds of silence, as a realtime session does. Otherwise the recording is one
    /// turn, as an utterance of Home Assistant is.
    #[arg(long)]
    silence: Option<u64>,
    /// Silence after the recording, in milliseconds.
    #[arg(long, default_value_t = 700)]
    trailing: usize,
    /// Print the recordings whose texts differ.
    #[arg(long)]
    verbose: bool,
}

fn main() -> anyhow::Result<()> {
    // The tree starts this program again as its worker.
    if std::env::args().nth(1).as_deref() == Some("worker") {
        return uttera_stt::cli::run(uttera_stt::cli::Cli::parse()).map(drop);
    }
    measure(&Args::parse())
}

#[tokio::main]
async fn measure(args: &Args) -> anyhow::Result<()> {
    let mut settings = Settings::default();
    settings.whisper_model.clone_from(&args.model);
    settings.cold_pool_size = 0;
    if let Some(models) = args.models.clone() {
        settings.models_dir = models;
    }
    let (stt, mut ended) = start_tree(&settings, Neighbours::of_command(&settings)?).await?;
    stt.ready().await.map_err(anyhow::Error::msg)?;
    let languages: Vec<&str> = args.languages.split(',').collect();
    let folder = tempfile::tempdir()?;
    let mut pairs = Vec::new();
    let mut same = 0;
    for row in rows(&args.corpus, &args.table, &languages, args.every)? {
        let file = args.corpus.join(&row.path);
        let options = Options {
            language: Some(row.language.clone()),
            ..Options::default()
        };
        let mut samples = decode(&file, 0.0)?;
        samples.extend(vec![0; args.trailing * 16]);
        let same_audio = folder.path().join("audio.wav");
        std::fs::write(&same_audio, wav(&samples)?)?;
        let uploaded = upload(&stt, AudioSource::file(&same_audio), options.clone()).await?;
        let said = live(&stt, args, &samples, options).await?;
        let scores = [&uploaded, &said].map(|text| Score::of(&row.text, text));
        same += usize::from(uploaded == said);
        if args.verbose && uploaded != said {
            println!("{}\n  upload {uploaded}\n  live   {said}", row.path);
        }
        pairs.push(Pair {
            words: scores[0].words,
            errors: scores.map(|score| score.edits),
        });
    }
    println!("{same} recordings have the same text");
    print_difference(&pairs, ["upload", "live"])?;
    stt.drain(Duration::ZERO);
    ended.wait().await;
    Ok(())
}

async fn upload(stt: &Stt, source: AudioSource, options: Options) -> anyhow::Result<String> {
    let job = Job {
        request_id: Arc::from("upload"),
        audio: source.into(),
        options,
        identity: None,
        escalates: false,
        streamed: false,
        urgency: Urgency::Queued,
        finished: None,
        trace: stt_actors::Trace::default(),
    };
    let admission = stt.admit(AdmissionRequest::of(Client::new("measurement")))?;
    Ok(stt.submit(admission, job).await?.transcript().await?.text())
}

async fn live(stt: &Stt, args: &Args, samples: &[i16], options: Options) -> anyhow::Result<String> {
    let client = LiveClient {
        priority: Priority::Normal,
        session_id: Arc::from("live"),
        is_in_turn: false,
    };
    let turns = args
        .silence
        .map_or(TurnDetection::Manual, |silence| TurnDetection::Silence {
            threshold: 0.5,
            prefix: Duration::from_millis(300),
            silence: Duration::from_millis(silence),
        });
    let options = LiveOptions {
        format: PcmFormat::mono16(16_000),
        options,
        turns,
        partials: false,
    };
    let (input, mut events) = stt.open_live(client, options).await?;
    let bytes: Vec<u8> = samples.iter().flat_map(|s| s.to_le_bytes()).collect();
    input.push(&bytes).await?;
    if args.silence.is_none() {
        input.commit()?;
    }
    input.finish()?;
    let mut texts = Vec::new();
    loop {
        match events.next().await.context("the session broke off")? {
            LiveEvent::Completed { result, .. } => texts.push(result?.text()),
            LiveEvent::Ended(_) => break,
            LiveEvent::SpeechStarted { .. }
            | LiveEvent::SpeechStopped { .. }
            | LiveEvent::Committed(_)
            | LiveEvent::Delta { .. } => {}
        }
    }
    Ok(texts.join(" ").trim().to_owned())
}
