//! `uttera-stt smoke URL`: checks within about a minute that a running server works.
//!
//! [`items`] are the recordings to send, [`checks`] judge the answers; each result is printed on a line as
//! soon as it is known, and collected in the [`report`].

pub mod checks;
pub mod items;
pub mod report;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use tokio::time::Instant;

use items::Item;
use report::{Entry, Report};

use crate::probe::args::ServerArgs;
use crate::probe::outcome::{MAX_TIMEOUTS, Outcome, Verdict, too_slow};
use crate::probe::progress::Progress;
use crate::probe::server::{Server, is_english_only};
use crate::probe::transcript::{self, Endpoint, FailureKind, FallbackUse};

/// Arguments of `uttera-stt smoke`.
#[derive(Clone, Debug, Args)]
pub struct SmokeArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// Send this file (repeatable). Without it, built-in speech is sent.
    #[arg(long = "file", value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Language of the files, for example "en". Without it, language detection is tested alone.
    #[arg(long, value_name = "LANG", requires = "files")]
    language: Option<String>,
    /// Time limit of a check in seconds; a slower check has failed.
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = clap::value_parser!(u32).range(1..))]
    limit_seconds: u32,
    /// Write the results as JSON to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Checks a server, prints a line per check and writes the requested file.
///
/// # Errors
/// A file cannot be read or written.
pub async fn smoke(args: SmokeArgs) -> anyhow::Result<Verdict> {
    let files = items::of_files(&args.files, args.language.as_deref())?;
    let Some((server, models)) = args.server.reach().await? else {
        return Ok(Verdict::Unreachable);
    };
    let english_only = models.iter().any(|model| is_english_only(model));
    let items = if files.is_empty() {
        items::built_in(english_only)
    } else {
        files
    };
    let mut run = Run {
        server,
        limit: Duration::from_secs(u64::from(args.limit_seconds)),
        timeouts: 0,
        fallback: FallbackUse::default(),
        entries: Vec::new(),
        progress: Progress::default(),
    };
    run.progress.begin("health and metrics", 2);
    run.about_the_server().await;
    let endpoints = run.endpoints().await;
    let transcripts = endpoints.len() * items.len();
    run.progress.begin("transcripts", transcripts);
    for endpoint in endpoints {
        for item in &items {
            run.transcript(endpoint, item).await;
        }
    }
    let model = models.into_iter().next_back();
    run.progress.end();
    let report = Report::of(&run.server.shown_url(), model, run.fallback, run.entries);
    print!("{}", report.summary());
    if let Some(path) = &args.json {
        let json = report.json()?;
        std::fs::write(path, json).with_context(|| path.display().to_string())?;
    }
    Ok(report.counts.verdict())
}

/// A run and its results so far.
struct Run {
    server: Server,
    limit: Duration,
    timeouts: usize,
    fallback: FallbackUse,
    entries: Vec<Entry>,
    progress: Progress,
}

impl Run {
    async fn about_the_server(&mut self) {
        let begin = Instant::now();
        let health = within(self.limit, checks::health(&self.server)).await;
        let (outcome, heard) = match health {
            Ok(told) => (Outcome::Pass, Some(told)),
            Err(error) => (failed(&error), None),
        };
        self.done(None, "health", &outcome, heard, begin);
        let begin = Instant::now();
        let metrics = within(self.limit, checks::metrics(&self.server)).await;
        let (outcome, heard) = match metrics {
            Ok(Some(count)) => (Outcome::Pass, Some(format!("{count} series"))),
            Ok(None) => (Outcome::Skip("the server has no /metrics".to_owned()), None),
            Err(error) => (failed(&error), None),
        };
        self.done(None, "metrics", &outcome, heard, begin);
    }

    /// The endpoints that the server has. If only OpenAI's is left, it is tested in any case, because some
    /// servers answer a GET with 404 where they accept only POST.
    async fn endpoints(&self) -> Vec<Endpoint> {
        let exists = |endpoint| async move {
            let asked = checks::is_there(&self.server, endpoint);
            within(self.limit, asked).await.unwrap_or(false)
        };
        match (
            exists(Endpoint::Transcribe).await,
            exists(Endpoint::Transcriptions).await,
        ) {
            (true, true) => vec![Endpoint::Transcriptions, Endpoint::Transcribe],
            (true, false) => vec![Endpoint::Transcribe],
            (false, _) => vec![Endpoint::Transcriptions],
        }
    }

    async fn transcript(&mut self, endpoint: Endpoint, item: &Item) {
        let begin = Instant::now();
        if self.timeouts >= MAX_TIMEOUTS {
            return self.done(Some(endpoint), &item.name, &too_slow(), None, begin);
        }
        let language = item.recording.language.as_deref();
        let mut fields: Vec<_> = language
            .map(|code| ("language", code))
            .into_iter()
            .collect();
        if endpoint == Endpoint::Transcriptions {
            // The format whose reply contains the language.
            fields.push(("response_format", "verbose_json"));
        }
        let asked = transcript::ask(&self.server, endpoint, &item.recording, &fields, self.limit);
        let answer = asked.await;
        let outcome = match checks::judge(item, &answer) {
            Ok(()) => Outcome::Pass,
            Err(error) => failed(&error),
        };
        let heard = match answer {
            Ok(transcript) => {
                self.fallback.add(&transcript.work);
                Some(transcript.text)
            }
            Err(failure) => {
                self.timeouts += usize::from(failure.kind == FailureKind::TimedOut);
                None
            }
        };
        self.done(Some(endpoint), &item.name, &outcome, heard, begin);
    }

    fn done(
        &mut self,
        endpoint: Option<Endpoint>,
        name: &str,
        outcome: &Outcome,
        heard: Option<String>,
        begin: Instant,
    ) {
        let seconds = begin.elapsed().as_secs_f64();
        let entry = Entry::new(endpoint, name, outcome, heard, seconds);
        self.progress.print(&entry.line());
        self.progress.step();
        self.entries.push(entry);
    }
}

fn failed(error: &anyhow::Error) -> Outcome {
    Outcome::Fail(format!("{error:#}"))
}

async fn within<T>(
    limit: Duration,
    asked: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    let seconds = limit.as_secs();
    let asked = tokio::time::timeout(limit, asked).await;
    asked.with_context(|| format!("not finished within {seconds} s"))?
}
