//! Runs a real primary and fallback to check the computed decisions.

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

/// Time limit for an answer.
const LIMIT: Duration = Duration::from_secs(120);

/// The two models and the corpus.
#[derive(Args)]
pub struct Pair {
    /// Folder with the recordings and their tables.
    #[arg(long)]
    pub corpus: PathBuf,
    /// Path of the primary's ggml file.
    #[arg(long)]
    pub small: PathBuf,
    /// Path of the fallback's ggml file.
    #[arg(long)]
    pub large: PathBuf,
    /// Path of Silero's weights.
    #[arg(long)]
    pub weights: PathBuf,
}

/// Options of the comparison with real servers.
#[derive(Args)]
pub struct Compared {
    /// The two models.
    #[command(flatten)]
    pub pair: Pair,
    /// File written by `measure`.
    #[arg(long)]
    pub clips: PathBuf,
    /// Path of the program.
    #[arg(long)]
    pub server: PathBuf,
    /// Number of clips, spread over the file.
    #[arg(long, default_value_t = 20)]
    pub check: usize,
    /// The primary's `CONF_LOGPROB_THRESHOLD`.
    #[arg(long, default_value_t = 0.55)]
    pub threshold: f32,
    /// The primary's `MIN_WORDS_FOR_CONF`.
    #[arg(long, default_value_t = 3)]
    pub min_words: usize,
}

/// Sends some of these clips to real servers, and fails if a decision differs from the computed one. The length of
/// a server's chunks depends on its speed, so only clips that are certainly one chunk count.
pub async fn check(args: &Compared, clips: &[Clip]) -> anyhow::Result<()> {
    let short = clips.iter().filter(|clip| {
        let seconds: f64 = clip.chunks.iter().map(|chunk| chunk.seconds).sum();
        clip.chunks.len() == 1 && seconds < SHORTEST_TARGET.as_secs_f64()
    });
    let short: Vec<&Clip> = short.collect();
    let logs = tempfile::tempdir()?;
    let client = client::client()?;
    let mut fallback = System::new(spec(args, "fallback", &args.pair.large, &[])?, logs.path());
    fallback.start(&client).await?;
    let escalation = [
        ("FALLBACK_URL", fallback.url.clone()),
        ("CONF_LOGPROB_THRESHOLD", args.threshold.to_string()),
        ("MIN_WORDS_FOR_CONF", args.min_words.to_string()),
    ];
    let spec = spec(args, "primary", &args.pair.small, &escalation)?;
    let mut primary = System::new(spec, logs.path());
    primary.start(&client).await?;
    let server = Server::with_client(client, primary.url.clone(), None);
    let mut counts = Counts::default();
    for index in scattered(short.len()).take(args.check) {
        counts.add(one(args, &server, short[index]).await?);
    }
    primary.stop().await;
    fallback.stop().await;
    println!("threshold {}, as computed: {counts:?}", args.threshold);
    ensure!(counts.decisions == counts.clips, "decisions differ");
    Ok(())
}

/// Number of clips sent and passed on, and of clips with the computed decision and text.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    clips: usize,
    passed_on: usize,
    decisions: usize,
    texts: usize,
}

impl Counts {
    fn add(&mut self, other: Self) {
        self.clips += other.clips;
        self.passed_on += other.passed_on;
        self.decisions += other.decisions;
        self.texts += other.texts;
    }
}

async fn one(args: &Compared, server: &Server, clip: &Clip) -> anyhow::Result<Counts> {
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
    Ok(Counts {
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
        wyoming: None,
        ready: "/readyz".to_owned(),
        ours: true,
        key: None,
    })
}
