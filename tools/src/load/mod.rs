//! `uttera-stt load URL`: measures a running server under load, by default with 1, 2, 4, 8 and 16 clients.
//!
//! [`run`] executes the steps; a [`step`] holds the results of one. The [`report`] contains the [`knee`], and
//! is printed as a [`table`] and written as JSON and as a picture ([`plot`]).

pub mod baseline;
pub mod knee;
pub mod plot;
pub mod report;
pub mod run;
pub mod step;
pub mod table;

#[cfg(test)]
mod rendering_tests;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Args;

use baseline::Baseline;
use report::{Ended, Report};
use run::{Extent, Run};

use crate::probe::args::ServerArgs;
use crate::probe::outcome::Verdict;
use crate::probe::progress::Progress;
use crate::probe::recording::Recording;
use crate::probe::server::is_english_only;
use crate::probe::speech::{COMMAND, GERMAN, SENTENCE, SPANISH};
use crate::probe::transcript::Endpoint;

/// Default duration of a step.
const DEFAULT_SECONDS: u32 = 20;

/// Arguments of `uttera-stt load`.
#[derive(Clone, Debug, Args)]
pub struct LoadArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// Numbers of concurrent clients, one step each.
    #[arg(
        long,
        value_name = "N,…",
        value_delimiter = ',',
        default_value = "1,2,4,8,16",
        value_parser = clap::value_parser!(u32).range(1..=4096)
    )]
    concurrency: Vec<u32>,
    /// Duration of a step in seconds [default: 20, or unlimited with --requests].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    seconds: Option<u32>,
    /// Number of requests of a step.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    requests: Option<u32>,
    /// Send this file (repeatable; requests alternate between files). Without it, short built-in samples are
    /// sent.
    #[arg(long = "file", value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Language of the files, for example "en"; detected if not given.
    #[arg(long, value_name = "LANG", requires = "files")]
    language: Option<String>,
    /// Endpoint to test.
    #[arg(long, value_enum, default_value = "transcriptions")]
    endpoint: Endpoint,
    /// End the run if more than this percentage of a step's requests fail.
    #[arg(long, value_name = "PERCENT", default_value_t = 10, value_parser = clap::value_parser!(u32).range(..=100))]
    most_failed: u32,
    /// Time limit of a request in seconds; a slower request has failed.
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = clap::value_parser!(u32).range(1..))]
    limit_seconds: u32,
    /// Compare with the results of an earlier run (`--json`): the command fails if a step's 95th percentile is more than
    /// `--max-p95-ratio` times that of the step with as many clients.
    #[arg(long, value_name = "FILE")]
    baseline: Option<PathBuf>,
    /// The largest accepted ratio of the 95th percentiles.
    #[arg(long, value_name = "RATIO", default_value_t = 1.5, requires = "baseline", value_parser = ratio)]
    max_p95_ratio: f64,
    /// Write the results as JSON to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the curves as SVG to this file.
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
}

fn ratio(text: &str) -> Result<f64, String> {
    let ratio = text.parse().ok();
    ratio
        .filter(|ratio: &f64| ratio.is_finite() && *ratio > 0.0)
        .ok_or_else(|| "expected a number above 0, such as 1.5".to_owned())
}

/// Load-tests a server, prints the table and writes the requested files. `interruption` ends the run early
/// and gives its cause, the name of a signal for example; the report then covers the steps that are done.
///
/// # Errors
/// A file cannot be read or written.
pub async fn load(
    args: LoadArgs,
    interruption: impl Future<Output = &'static str>,
) -> anyhow::Result<Verdict> {
    for file in args.json.iter().chain(&args.plot) {
        ensure_writable(file)?;
    }
    let baseline = args.baseline.as_deref().map(Baseline::read).transpose()?;
    let Some((server, models)) = args.server.reach().await? else {
        return Ok(Verdict::Unreachable);
    };
    let english_only = models.iter().any(|model| is_english_only(model));
    let mut run = Run {
        server,
        endpoint: args.endpoint,
        recordings: recordings(&args, english_only)?,
        extent: extent(&args),
        steps: Vec::new(),
        progress: Progress::default(),
    };
    let ended_by = tokio::select! {
        () = run.measure() => None,
        cause = interruption => Some(cause),
    };
    run.progress.end();
    if let Some(cause) = ended_by {
        eprintln!("ended by {cause}");
    }
    let report = Report::of(run, models.into_iter().next_back(), ended_by.is_some());
    print!("{}", table::render(&report));
    keep(&report, &args)?;
    let passed = match &baseline {
        Some(baseline) => {
            let comparison = baseline.compare(&report, args.max_p95_ratio)?;
            print!("{}", comparison.text);
            comparison.passed
        }
        None => true,
    };
    Ok(match report.ended {
        Ended::Finished if passed => Verdict::Passed,
        Ended::Finished | Ended::TooManyFailures | Ended::Signal => Verdict::Failed,
    })
}

fn keep(report: &Report, args: &LoadArgs) -> anyhow::Result<()> {
    let write = |path: &Path, text: String| {
        std::fs::write(path, text).with_context(|| path.display().to_string())
    };
    if let Some(path) = &args.json {
        write(path, report.json()?)?;
    }
    if let Some(path) = &args.plot {
        write(path, plot::render(report)?)?;
    }
    Ok(())
}

/// Checks before the run that a file can be written.
fn ensure_writable(path: &Path) -> anyhow::Result<()> {
    let opened = std::fs::File::options()
        .create(true)
        .append(true)
        .open(path);
    opened.with_context(|| path.display().to_string())?;
    Ok(())
}

/// The user's files, or short samples in the languages that the model supports.
fn recordings(args: &LoadArgs, english_only: bool) -> anyhow::Result<Vec<Recording>> {
    if args.files.is_empty() {
        let samples = [COMMAND, SENTENCE, SPANISH, GERMAN].into_iter();
        let known = samples.filter(|speech| !english_only || speech.language == "en");
        return Ok(known.map(Recording::from).collect());
    }
    let read = |path: &PathBuf| {
        let recording = Recording::of_file(path)?;
        ensure!(!recording.audio.is_empty(), "{} is empty", path.display());
        Ok(Recording {
            language: args.language.clone(),
            ..recording
        })
    };
    args.files.iter().map(read).collect()
}

fn extent(args: &LoadArgs) -> Extent {
    let seconds = match (args.seconds, args.requests) {
        (None, None) => Some(DEFAULT_SECONDS),
        (seconds, _) => seconds,
    };
    let mut steps: Vec<usize> = (args.concurrency.iter())
        .map(|clients| *clients as usize)
        .collect();
    steps.sort_unstable();
    steps.dedup();
    Extent {
        steps,
        length: seconds.map(|seconds| Duration::from_secs(u64::from(seconds))),
        requests: args.requests.map(|requests| requests as usize),
        most_failed_percent: args.most_failed as usize,
        limit: Duration::from_secs(u64::from(args.limit_seconds)),
    }
}
