//! `uttera-stt bench`: measures speed and accuracy on this machine, alone or in comparison with other systems
//! that implement the same API.
//!
//! [`run`] manages the systems and executes the scenarios, each in a file of its own ([`start`], [`short`],
//! [`long`], [`burst`], [`command`], [`live`], [`memory`]); every [`sample`] is kept. [`figures`] evaluates the
//! samples; the [`report`] is printed as a [`table`] and written as JSON and as a picture ([`plot`]).

pub mod burst;
pub mod client;
pub mod command;
pub mod figures;
pub mod live;
pub mod long;
pub mod machine;
pub mod memory;
pub mod plot;
pub mod process_tree;
pub mod recordings;
pub mod report;
pub mod run;
pub mod sample;
pub mod short;
pub mod start;
pub mod statistics;
pub mod system;
pub mod table;
pub mod word_errors;

#[cfg(test)]
mod rendering_tests;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};

use machine::Machine;
use recordings::{Choice, Recordings};
use report::Report;
use run::{Extent, Run};
use sample::Scenario;
use system::{Spec, System};

use crate::probe;
use crate::probe::progress::Progress;
use crate::probe::server::is_english_only;

/// Name of this program in tables.
const OWN_NAME: &str = "uttera-stt";
/// Default number of short clips from a folder, and from the built-in recordings.
const FOLDER_CLIPS: usize = 60;
const BUILT_IN_CLIPS: usize = 12;

/// Arguments of `uttera-stt bench`.
#[derive(Clone, Debug, Args)]
pub struct BenchArgs {
    /// File that lists systems to compare with. Without it, only this program is measured.
    #[arg(long, value_name = "FILE.json")]
    systems: Option<PathBuf>,
    /// Folder of recordings with speech.tsv and long.tsv. Without it, a few built-in recordings are used.
    #[arg(long, value_name = "DIR")]
    corpus: Option<PathBuf>,
    /// Write bench.json, bench.svg and the systems' logs to this folder.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Number of short clips [default: 60 with --corpus, 12 built-in ones without].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    clips: Option<u32>,
    /// The long recording [default: the first of long.tsv, or the built-in one].
    #[arg(long, value_name = "FILE")]
    long: Option<PathBuf>,
    /// Measure only these scenarios, comma-separated.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Scenario>,
    /// Number of repetitions of starts, the long file and bursts.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    repeat: u32,
    /// Number of concurrent requests in a burst.
    #[arg(long, value_name = "N", default_value_t = 160, value_parser = clap::value_parser!(u32).range(1..))]
    requests: u32,
    /// Measure a server that is already running; its start and its memory are not measured.
    #[arg(long, conflicts_with = "systems")]
    url: Option<String>,
    /// Time limit of a measurement in seconds; a longer time is reported as "more than".
    #[arg(long, value_name = "SECONDS", default_value_t = 900, value_parser = clap::value_parser!(u32).range(1..))]
    limit_seconds: u32,
    /// Peak performance of the machine in f32, if already known.
    #[arg(long, value_name = "GFLOPS")]
    peak_gflops: Option<f64>,
}

/// What the benchmark needs to know about this program's own server.
#[derive(Clone, Debug)]
pub struct OwnServer {
    /// The server's model, as in the setting `WHISPER_MODEL`.
    pub model: String,
    /// A key that the server accepts.
    pub key: Option<String>,
    /// Arguments that pass the settings of this command line to the server.
    pub arguments: Vec<String>,
}

/// Measures, prints the table and writes the requested files. `interruption` ends the run early and gives
/// its cause, the name of a signal for example; the report then covers what is measured.
///
/// # Errors
/// A file cannot be read or written, the run was interrupted, or our own server could not be measured.
pub async fn bench(
    own: OwnServer,
    args: BenchArgs,
    interruption: impl Future<Output = &'static str>,
) -> anyhow::Result<()> {
    let temporary = tempfile::tempdir()?;
    let folder = args.out.as_deref().unwrap_or(temporary.path());
    std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let mut run = prepare(own, &args, folder)?;
    let peak = args.peak_gflops;
    let machine = tokio::task::spawn_blocking(move || Machine::look(peak)).await?;
    let ended_by = tokio::select! {
        () = run.measure() => None,
        cause = interruption => Some(cause),
    };
    run.end();
    let report = Report::of(run, machine);
    let finished = finish(&report, args.out.as_deref());
    match ended_by {
        Some(cause) => bail!("ended by {cause}"),
        None => finished,
    }
}

fn prepare(own: OwnServer, args: &BenchArgs, logs: &Path) -> anyhow::Result<Run> {
    let recordings = Recordings::load(&Choice {
        corpus: args.corpus.as_deref(),
        clips: clips(args),
        long: args.long.as_deref(),
        english_only: supports_only_english(&own.model),
    })?;
    let model = own.model.clone();
    let specs = specs(own, args)?;
    Ok(Run {
        client: probe::client::client()?,
        systems: specs
            .into_iter()
            .map(|spec| System::new(spec, logs))
            .collect(),
        recordings,
        extent: extent(args),
        samples: Vec::new(),
        model,
        progress: Progress::default(),
    })
}

fn finish(report: &Report, out: Option<&Path>) -> anyhow::Result<()> {
    print!("{}", table::render(report));
    if let Some(folder) = out {
        report.write(folder)?;
        println!("\nresults in {}: bench.json, bench.svg", folder.display());
    }
    match report.systems.iter().find(|system| system.ours) {
        Some(system) if system.failed.is_some() => {
            bail!("{} could not be measured", system.name)
        }
        Some(_) | None => Ok(()),
    }
}

fn clips(args: &BenchArgs) -> usize {
    let usual = if args.corpus.is_some() {
        FOLDER_CLIPS
    } else {
        BUILT_IN_CLIPS
    };
    args.clips.map_or(usual, |clips| clips as usize)
}

fn extent(args: &BenchArgs) -> Extent {
    let all = Scenario::value_variants();
    let scenarios = if args.only.is_empty() {
        all
    } else {
        &args.only
    };
    Extent {
        scenarios: scenarios.to_vec(),
        repeat: args.repeat as usize,
        requests: args.requests as usize,
        limit: Duration::from_secs(u64::from(args.limit_seconds)),
    }
}

/// The systems of the file. Adds this program in front if the file marks none as `ours`.
fn specs(own: OwnServer, args: &BenchArgs) -> anyhow::Result<Vec<Spec>> {
    let mut specs = match &args.systems {
        Some(path) => system::read_specs(path)?,
        None => Vec::new(),
    };
    if !specs.iter().any(|spec| spec.ours) {
        specs.insert(0, own_spec(args, own.arguments)?);
    }
    for spec in specs.iter_mut().filter(|spec| spec.ours) {
        spec.key.clone_from(&own.key);
    }
    Ok(specs)
}

/// This program as a server that is started only for the benchmark.
fn own_spec(args: &BenchArgs, arguments: Vec<String>) -> anyhow::Result<Spec> {
    let program = std::env::current_exe().context("cannot find the program's own executable")?;
    let mut command = vec![program.display().to_string(), "serve".to_owned()];
    command.extend(arguments);
    let own = [
        "--plain",
        "--host",
        "127.0.0.1",
        "--port",
        "{port}",
        "--set",
        "REDIS_URL=",
        "--set",
        "WYOMING_PORT={wyoming_port}",
    ];
    command.extend(own.map(str::to_owned));
    let (command, url, wyoming) = match &args.url {
        Some(url) => (Vec::new(), url.trim_end_matches('/').to_owned(), None),
        None => (
            command,
            "http://127.0.0.1:{port}".to_owned(),
            Some("127.0.0.1:{wyoming_port}".to_owned()),
        ),
    };
    Ok(Spec {
        name: OWN_NAME.to_owned(),
        command,
        env: std::collections::BTreeMap::new(),
        url,
        wyoming,
        ready: "/readyz".to_owned(),
        ours: true,
        key: None,
    })
}

/// Judged by the model's name or by its file name.
fn supports_only_english(model: &str) -> bool {
    let name = Path::new(model)
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or(model);
    let name = name.strip_suffix(".bin").unwrap_or(name);
    is_english_only(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn english_only_models_are_recognised_by_their_names() {
        for name in ["tiny.en", "/m/ggml-tiny.en.bin", "small.en-q5_1"] {
            assert!(supports_only_english(name), "{name}");
        }
        for name in ["base", "auto", "my.english", "/a.en/ggml-base.bin"] {
            assert!(!supports_only_english(name), "{name}");
        }
    }
}
