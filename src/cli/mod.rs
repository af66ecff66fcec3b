//! The command line.

mod models;
mod transcribe;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::{Parser, Subcommand};
use tracing::warn;
use uttera_stt_tools::bench::{self, BenchArgs, OwnServer};
use uttera_stt_tools::conformance::{self, ConformanceArgs};
use uttera_stt_tools::load::{self, LoadArgs};
use uttera_stt_tools::probe::outcome::Verdict;
use uttera_stt_tools::smoke::{self, SmokeArgs};

use crate::keys::{self, Reload};
use crate::models::ModelStore;
use crate::settings::{Loaded, Role, Settings, Sources};
use crate::shutdown::StopSignals;
use crate::{engine, serve, telemetry};
use models::ModelsArgs;
use transcribe::TranscribeArgs;

/// Private, OpenAI-compatible speech-to-text on Whisper.
#[derive(Debug, Parser)]
#[command(version)]
pub struct Cli {
    /// File of settings (default: CONFIG_PATH, else .env here or in the parent folder).
    #[arg(long, global = true)]
    config: Option<PathBuf>,
    /// Set a variable: --set MAX_UPLOAD_MB=16. Beats the environment and the file.
    #[arg(long = "set", global = true, value_name = "NAME=VALUE", value_parser = parse_pair)]
    set: Vec<(String, String)>,
    /// The model: a catalogue name, a ggml file or a CTranslate2 folder (WHISPER_MODEL).
    #[arg(long, global = true)]
    model: Option<String>,
    /// Print the settings in force, secrets hidden, and exit.
    #[arg(long, global = true)]
    print_config: bool,
    /// What to do; serve if not given.
    #[command(subcommand)]
    command: Option<Command>,
}

/// What to do.
#[derive(Debug, Subcommand)]
enum Command {
    /// Serve over HTTP until SIGTERM or Ctrl-C.
    Serve {
        /// Address to bind (HOST).
        #[arg(long)]
        host: Option<String>,
        /// Port to bind (PORT).
        #[arg(long)]
        port: Option<String>,
        /// What the node is among others: its port, its address and its usual file of settings follow
        /// from it.
        #[arg(long, value_enum, default_value_t)]
        role: Role,
    },
    /// Transcribe files and exit.
    Transcribe(TranscribeArgs),
    /// Measure speed and accuracy on this machine, alone or in comparison with other systems.
    Bench(BenchArgs),
    /// Check that a server implements the public API; exit status 0 passed, 1 failed, 2 unreachable.
    Conformance(ConformanceArgs),
    /// Check that a server works; exit status 0 passed, 1 failed, 2 unreachable.
    Smoke(SmokeArgs),
    /// Load-test a server; exit status 0 passed, 1 failed, 2 unreachable.
    Load(LoadArgs),
    /// List, fetch, import, convert and verify models.
    Models(ModelsArgs),
    /// Check the settings and exit: 0 if they can be used.
    CheckConfig,
    /// Started by the server.
    #[command(hide = true)]
    Worker,
}

fn parse_pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        Some(_) | None => Err("NAME=VALUE is expected".to_owned()),
    }
}

/// Runs what the command line says.
pub fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let local = local_option(&cli);
    match cli.command {
        // These ask another server: the settings here have no part in it.
        Some(Command::Conformance(args)) => {
            run_to_end(conformance::conformance(args)).map(ExitCode::from)
        }
        Some(Command::Smoke(args)) => run_to_end(smoke::smoke(args)).map(ExitCode::from),
        Some(Command::Load(args)) => run_to_end(load_test(args)).map(ExitCode::from),
        Some(Command::Transcribe(args)) if args.is_remote() => {
            run_to_end(transcribe::transcribe_remotely(args, local)).map(|()| ExitCode::SUCCESS)
        }
        _ => run_here(cli).map(|()| ExitCode::SUCCESS),
    }
}

/// An option that says something about the settings here, if one is given.
fn local_option(cli: &Cli) -> Option<&'static str> {
    let given = [
        ("--config", cli.config.is_some()),
        ("--set", !cli.set.is_empty()),
        ("--model", cli.model.is_some()),
        ("--print-config", cli.print_config),
    ];
    let found = given.into_iter().find(|(_, is_given)| *is_given);
    found.map(|(name, _)| name)
}

/// Commands that the settings are for.
fn run_here(cli: Cli) -> anyhow::Result<()> {
    if matches!(cli.command, Some(Command::Worker)) {
        engine::cpu::check().map_err(anyhow::Error::msg)?;
        return engine::worker::run();
    }
    let (loaded, reload) = load_settings(&cli)?;
    if cli.print_config {
        for (name, value) in &loaded.in_force {
            println!("{name}={value}");
        }
        return Ok(());
    }
    let given = passed_on(&cli);
    if !matches!(cli.command, Some(Command::CheckConfig)) {
        engine::cpu::check().map_err(anyhow::Error::msg)?;
    }
    match cli.command {
        Some(
            Command::Worker
            | Command::Conformance(_)
            | Command::Smoke(_)
            | Command::Load(_)
            | Command::Serve { .. },
        )
        | None => {
            start_log(&loaded, "info");
            run_to_end(serve::serve(loaded, reload))
        }
        Some(Command::Transcribe(args)) => {
            start_log(&loaded, "warn");
            run_to_end(transcribe::transcribe(loaded.settings, args))
        }
        Some(Command::Bench(args)) => {
            start_log(&loaded, "warn");
            let own = OwnServer {
                key: keys::plain_key(&loaded.settings),
                model: loaded.settings.whisper_model,
                arguments: given?,
            };
            run_to_end(benchmark(own, args))
        }
        Some(Command::Models(args)) => {
            start_log(&loaded, "warn");
            let store = ModelStore::new(loaded.settings.models_dir);
            models::command(args, &store)
        }
        Some(Command::CheckConfig) => check_config(&loaded),
    }
}

async fn benchmark(own: OwnServer, args: BenchArgs) -> anyhow::Result<()> {
    let mut signals = StopSignals::listen()?;
    bench::bench(own, args, signals.next()).await
}

async fn load_test(args: LoadArgs) -> anyhow::Result<Verdict> {
    let mut signals = StopSignals::listen()?;
    load::load(args, signals.next()).await
}

/// The settings, and a way to read them again from where they came.
fn load_settings(cli: &Cli) -> anyhow::Result<(Loaded, Reload)> {
    let mut pairs = cli.set.clone();
    let mut own = |name: &str, value: &Option<String>| {
        pairs.extend(value.iter().map(|value| (name.to_owned(), value.clone())));
    };
    own("WHISPER_MODEL", &cli.model);
    let mut role = Role::default();
    if let Some(Command::Serve {
        host,
        port,
        role: played,
    }) = &cli.command
    {
        own("HOST", host);
        own("PORT", port);
        role = *played;
    }
    let sources = Sources::of_process(role, cli.config.as_deref(), pairs.clone())?;
    let loaded = Settings::load(&sources)?;
    // The same file, be it that another one would be found by then.
    let file = sources.file.map(|(path, _)| path);
    let reload = move || {
        let sources = Sources::of_process(role, file.as_deref(), pairs.clone())?;
        Settings::load(&sources)
    };
    Ok((loaded, Arc::new(reload)))
}

/// The settings of this command line, for another process of this program.
fn passed_on(cli: &Cli) -> anyhow::Result<Vec<String>> {
    let mut arguments = Vec::new();
    if let Some(config) = &cli.config {
        let config = config.to_str().context("--config is not UTF-8")?;
        arguments.extend(["--config".to_owned(), config.to_owned()]);
    }
    if let Some(model) = &cli.model {
        arguments.extend(["--model".to_owned(), model.clone()]);
    }
    for (name, value) in &cli.set {
        arguments.extend(["--set".to_owned(), format!("{name}={value}")]);
    }
    Ok(arguments)
}

fn start_log(loaded: &Loaded, usual: &str) {
    let filter = loaded.in_force.iter().find(|(name, _)| *name == "RUST_LOG");
    let filter = filter.map_or("", |(_, value)| value.as_str());
    telemetry::start(&loaded.settings, filter, usual);
    for warning in &loaded.warnings {
        warn!("{warning}");
    }
}

fn check_config(loaded: &Loaded) -> anyhow::Result<()> {
    keys::load(&loaded.settings)?;
    for warning in &loaded.warnings {
        println!("warning: {warning}");
    }
    let store = ModelStore::new(loaded.settings.models_dir.clone());
    match loaded.settings.whisper_model.as_str() {
        "auto" => {}
        named => {
            if let Err(error) = store.resolve(named, None) {
                println!("warning: WHISPER_MODEL={named}: {error}");
            }
        }
    }
    println!("the settings can be used");
    Ok(())
}

/// Runs a future on a runtime of its own. Blocking work that it leaves behind, a model's conversion
/// say, writes to temporary files only and is not waited for.
fn run_to_end<F, T>(future: F) -> anyhow::Result<T>
where
    F: Future<Output = anyhow::Result<T>>,
{
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("the runtime cannot be started")?;
    let result = runtime.block_on(future);
    runtime.shutdown_background();
    result
}
