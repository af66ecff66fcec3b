//! A primary and a fallback that really run, for the figures that are computed from what both models wrote.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Args;
use stt_actors::EscalationPolicy;
use stt_actors::status::chunk_length::SHORTEST_TARGET;
use uttera_stt_tools::bench::system::{Spec, System};
use uttera_stt_tools::probe::client;
use uttera_stt_tools::probe::recording::Recording;
use uttera_stt_tools::probe::server::Server;
use uttera_stt_tools::probe::transcript::{Endpoint, ask};

use crate::clip::Clip;
use crate::{LANGUAGE, scattered};

/// For an answer.
const LIMIT: Duration = Duration::from_secs(120);

/// What both the measurement and its check run.
#[derive(Args)]
pub struct Pair {
    /// The folder of the recordings and their tables.
    #[arg(long)]
    pub corpus: PathBuf,
    /// The primary's ggml file.
    #[arg(long)]
    pub small: PathBuf,
    /// The fallback's.
    #[arg(long)]
    pub large: PathBuf,
    /// Silero's weights.
    #[arg(long)]
    pub weights: PathBuf,
}

/// How what was computed is compared with what servers do.
#[derive(Args)]
pub struct Compared {
    /// The pair.
    #[command(flatten)]
    pub pair: Pair,
    /// What was measured.
    #[arg(long)]
    pub clips: PathBuf,
    /// The program.
    #[arg(long)]
    pub server: PathBuf,
    /// So many clips, from all over what was measured.
    #[arg(long, default_value_t = 20)]
    pub check: usize,
    /// The primary's `CONF_LOGPROB_THRESHOLD`.
    #[arg(long, default_value_t = 0.55)]
    pub threshold: f32,
    /// Its `MIN_WORDS_FOR_CONF`.
    #[arg(long, default_value_t = 3)]
    pub min_words: usize,
}

/// Asks real servers for some of these clips, and fails where one decides otherwise than was computed. What
/// they cut into pieces depends on how fast they are, so only clips that are one piece for certain count.
pub async fn check(args: &Compared, clips: &[Clip]) -> anyhow::Result<()> {
    let short = clips.iter().filter(|clip| {
        let seconds: f64 = clip.pieces.iter().map(|piece| piece.seconds).sum();
        clip.pieces.len() == 1 && seconds < SHORTEST_TARGET.as_secs_f64()
    });
    let short: Vec<&Clip> = short.collect();
    let logs = tempfile::tempdir()?;
    let client = client::client()?;
    let mut fallback = System::new(spec(args, "fallback", &args.pair.large, &[])?, logs.path());
    fallback.start(&client).await?;
    let passing_on = [
        ("FALLBACK_URL", fallback.url.clone()),
        ("CONF_LOGPROB_THRESHOLD", args.threshold.to_string()),
        ("MIN_WORDS_FOR_CONF", args.min_words.to_string()),
    ];
    let spec = spec(args, "primary", &args.pair.small, &passing_on)?;
    let mut primary = System::new(spec, logs.path());
    primary.start(&client).await?;
    let server = Server::with_client(client, primary.url.clone(), None);
    let mut told = Told::default();
    for index in scattered(short.len()).take(args.check) {
        told.add(one(args, &server, short[index]).await?);
    }
    primary.stop().await;
    fallback.stop().await;
    println!("threshold {}, as computed: {told:?}", args.threshold);
    ensure!(told.decisions == told.clips, "decisions differ");
    Ok(())
}

/// How many clips were asked for and passed on, and of how many the decision and the text are as computed.
#[derive(Clone, Copy, Debug, Default)]
struct Told {
    clips: usize,
    passed_on: usize,
    decisions: usize,
    texts: usize,
}

impl Told {
    fn add(&mut self, other: Self) {
        self.clips += other.clips;
        self.passed_on += other.passed_on;
        self.decisions += other.decisions;
        self.texts += other.texts;
    }
}

async fn one(args: &Compared, server: &Server, clip: &Clip) -> anyhow::Result<Told> {
    let computed = clip.escalated(EscalationPolicy {
        min_confidence: args.threshold,
        // The language is given.
        min_language_probability: 0.0,
        min_words: args.min_words,
    });
    let expected = clip.text(&computed);
    let recording = Recording::of_file(&args.pair.corpus.join(&clip.name))?;
    let fields = [("language", LANGUAGE)];
    let answer = ask(server, Endpoint::Transcribe, &recording, &fields, LIMIT).await?;
    let used = answer.work.fallback_used.context("no X-Fallback-Used")?;
    let same_decision = used == computed.contains(&true);
    let same_text = answer.text.trim() == expected.trim();
    if !same_decision || !same_text {
        println!(
            "{}: passed on: {used}, {:?}; computed: {computed:?}, {expected:?}",
            clip.name, answer.text
        );
    }
    Ok(Told {
        clips: 1,
        passed_on: usize::from(used),
        decisions: usize::from(same_decision),
        texts: usize::from(same_text),
    })
}

fn spec(
    args: &Compared,
    name: &str,
    model: &Path,
    settings: &[(&str, String)],
) -> anyhow::Result<Spec> {
    let weights = std::path::absolute(&args.pair.weights)?;
    let all = [
        (
            "WHISPER_MODEL",
            std::path::absolute(model)?.display().to_string(),
        ),
        ("VAD_MODEL", weights.display().to_string()),
        ("COLD_POOL_SIZE", "0".to_owned()),
        ("REDIS_URL", String::new()),
    ];
    let program = std::path::absolute(&args.server)?.display().to_string();
    let mut command = vec![program];
    command.extend(["serve", "--host", "127.0.0.1", "--port", "{port}"].map(str::to_owned));
    for (name, value) in all.iter().chain(settings) {
        command.extend(["--set".to_owned(), format!("{name}={value}")]);
    }
    Ok(Spec {
        name: name.to_owned(),
        command,
        env: BTreeMap::new(),
        url: "http://127.0.0.1:{port}".to_owned(),
        ready: "/readyz".to_owned(),
        ours: true,
        key: None,
    })
}
