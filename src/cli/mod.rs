//! The command line.

mod doctor;
mod healthcheck;
mod listen;
mod models;
mod server_key;
mod transcribe;
mod watch;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::{CommandFactory, Parser, Subcommand};
use tracing::warn;
use uttera_stt_tools::bench::{self, BenchArgs, OwnServer};
use uttera_stt_tools::conformance::{self, ConformanceArgs};
use uttera_stt_tools::load::{self, LoadArgs};
use uttera_stt_tools::probe::outcome::Verdict;
use uttera_stt_tools::smoke::{self, SmokeArgs};

use crate::keys::{self, Reload};
use crate::models::ModelStore;
use crate::settings::{Loaded, Role, Settings, Sources, TlsSettings};
use crate::shutdown::StopSignals;
use crate::telemetry::{Log, Logger};
use crate::{engine, serve, telemetry};
use doctor::DoctorArgs;
use healthcheck::{HealthcheckArgs, healthcheck};
use listen::ListenArgs;
use models::ModelsArgs;
use transcribe::TranscribeArgs;
use watch::WatchArgs;

/// Private, OpenAI-compatible speech-to-text on Whisper.
#[derive(Debug, Parser)]
#[command(version)]
pub struct Cli {
    /// Settings file (default: CONFIG_PATH, else .env here or in the parent folder).
    #[arg(long, global = true)]
    config: Option<PathBuf>,
    /// Set a variable, for example --set MAX_UPLOAD_MB=16. Overrides the environment and the file.
    #[arg(long = "set", global = true, value_name = "NAME=VALUE", value_parser = parse_pair)]
    set: Vec<(String, String)>,
    /// Model: a catalogue name, a ggml file or a CTranslate2 folder (WHISPER_MODEL).
    #[arg(long, global = true)]
    model: Option<String>,
    /// Print the effective settings without secrets, and exit.
    #[arg(long, global = true)]
    print_config: bool,
    /// Subcommand; serve if not given.
    #[command(subcommand)]
    command: Option<Command>,
}

/// Subcommands.
#[derive(Debug, Subcommand)]
enum Command {
    /// Serve over HTTP until SIGTERM or Ctrl-C.
    Serve {
        /// Address to listen on (HOST).
        #[arg(long)]
        host: Option<String>,
        /// Port to listen on (PORT).
        #[arg(long)]
        port: Option<String>,
        /// Role of the node; it sets the default port, address and settings file.
        #[arg(long, value_enum, default_value_t)]
        role: Role,
        /// Serve plain HTTP to everybody who reaches the address, whatever the settings say; for the benchmark.
        #[arg(long, hide = true)]
        plain: bool,
    },
    /// Transcribe files and exit.
    Transcribe(TranscribeArgs),
    /// Have a server transcribe each file that appears in a folder.
    Watch(WatchArgs),
    /// Print live text of the microphone or of PCM on standard input.
    Listen(ListenArgs),
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
    /// Check the settings and exit; exit status 0 if they are valid.
    CheckConfig,
    /// Examine the machine, the settings and the neighbours; exit status 0 good, 1 warnings, 2 errors.
    Doctor(DoctorArgs),
    /// Ask a server of this machine whether it can transcribe now; exit status 0 if it can.
    Healthcheck(HealthcheckArgs),
    /// List the GPUs that this build can use, with their indices for DEVICE_INDEX.
    Devices {
        /// Print JSON.
        #[arg(long)]
        json: bool,
        /// Answer each line of standard input with JSON; the server does this.
        #[arg(long, hide = true)]
        answer: bool,
    },
    /// Print the manual page (roff).
    #[command(hide = true)]
    Manual,
    /// Print the completions of a shell.
    #[command(hide = true)]
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Worker process; the server starts it.
    #[command(hide = true)]
    Worker,
}

fn parse_pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        Some(_) | None => Err("expected NAME=VALUE".to_owned()),
    }
}

/// Runs the command line's subcommand.
pub fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    if let Some(Command::Doctor(args)) = &cli.command
        && !cli.print_config
    {
        let loaded = load_settings(&cli).map(|(loaded, _)| loaded);
        return run_to_end(doctor::doctor(args.clone(), loaded));
    }
    let local = local_option(&cli);
    match cli.command {
        // These test another server and do not use the settings of this machine.
        Some(Command::Conformance(args)) => {
            run_to_end(conformance::conformance(args)).map(ExitCode::from)
        }
        Some(Command::Smoke(args)) => run_to_end(smoke::smoke(args)).map(ExitCode::from),
        Some(Command::Load(args)) => run_to_end(load_test(args)).map(ExitCode::from),
        Some(Command::Healthcheck(ref args)) => {
            let own = if args.url.is_none() {
                Some(load_settings(&cli)?.0.settings)
            } else {
                None
            };
            run_to_end(healthcheck(args, own.as_ref()))
        }
        Some(Command::Devices { answer: true, .. }) => {
            engine::devices::answer().map(|()| ExitCode::SUCCESS)
        }
        Some(Command::Devices { json, .. }) => run_to_end(list_devices(json)),
        Some(Command::Manual) => {
            clap_mangen::Man::new(Cli::command()).render(&mut std::io::stdout())?;
            Ok(ExitCode::SUCCESS)
        }
        Some(Command::Completions { shell }) => {
            let mut command = Cli::command();
            clap_complete::generate(shell, &mut command, "uttera-stt", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
        Some(Command::Transcribe(args)) if args.is_remote() => {
            run_to_end(transcribe::transcribe_remotely(args, local)).map(|()| ExitCode::SUCCESS)
        }
        Some(Command::Watch(args)) => run_to_end(watch::watch(args)).map(|()| ExitCode::SUCCESS),
        Some(Command::Listen(args)) if args.is_remote() => {
            run_to_end(listen::listen_remotely(args, local)).map(|()| ExitCode::SUCCESS)
        }
        _ => run_here(cli).map(|()| ExitCode::SUCCESS),
    }
}

/// Prints the GPUs. Exit status 1: there is none.
async fn list_devices(json: bool) -> anyhow::Result<ExitCode> {
    let devices = engine::devices::find_all().await;
    let found = devices.as_deref().unwrap_or_default();
    if json {
        println!("{}", serde_json::to_string_pretty(found)?);
    }
    for (index, device) in found.iter().enumerate().filter(|_| !json) {
        let gb = |bytes: u64| bytes as f64 / crate::metrics::GB;
        let (free, total) = (gb(device.free), gb(device.total));
        println!(
            "{index}: {}, {free:.1} of {total:.1} GB free",
            device.title()
        );
    }
    if let Err(reason) = devices {
        eprintln!("no GPU: {reason}");
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

/// An option about the settings of this machine, if one is given.
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

/// Runs the subcommands that use the settings of this machine.
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
        // Standard output stays a settings file.
        for warning in &loaded.warnings {
            eprintln!("warning: {warning}");
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
            | Command::Doctor(_)
            | Command::Healthcheck(_)
            | Command::Watch(_)
            | Command::Devices { .. }
            | Command::Manual
            | Command::Completions { .. }
            | Command::Serve { .. },
        )
        | None => {
            let _log = start_log(&loaded, Logger::Server);
            run_to_end(serve::serve(loaded, reload))
        }
        Some(Command::Transcribe(args)) => {
            let _log = start_log(&loaded, Logger::Command);
            run_to_end(transcribe::transcribe(loaded.settings, args))
        }
        Some(Command::Listen(args)) => {
            let _log = start_log(&loaded, Logger::Command);
            run_to_end(listen::listen(loaded.settings, args))
        }
        Some(Command::Bench(args)) => {
            let _log = start_log(&loaded, Logger::Command);
            let own = OwnServer {
                key: keys::plain_key(&loaded.settings),
                model: loaded.settings.whisper_model,
                arguments: given?,
            };
            run_to_end(benchmark(own, args))
        }
        Some(Command::Models(args)) => {
            let _log = start_log(&loaded, Logger::Command);
            let store = ModelStore::new(loaded.settings.models_dir);
            models::command(args, &store)
        }
        Some(Command::CheckConfig) => doctor::check_config(&loaded),
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

/// Loads the settings, and returns a function that loads them again from the same sources.
fn load_settings(cli: &Cli) -> anyhow::Result<(Loaded, Reload)> {
    let mut pairs = cli.set.clone();
    let mut own = |name: &str, value: &Option<String>| {
        pairs.extend(value.iter().map(|value| (name.to_owned(), value.clone())));
    };
    own("WHISPER_MODEL", &cli.model);
    let role = match &cli.command {
        Some(Command::Serve {
            host, port, role, ..
        }) => {
            own("HOST", host);
            own("PORT", port);
            *role
        }
        Some(Command::Healthcheck(args)) => args.role,
        Some(Command::Doctor(args)) => args.role,
        _ => Role::default(),
    };
    let sources = Sources::of_process(role, cli.config.as_deref(), pairs.clone())?;
    let mut loaded = Settings::load(&sources)?;
    if let Some(Command::Serve { plain: true, .. }) = cli.command {
        loaded.settings.tls = TlsSettings::default();
        loaded.settings.allowed_networks.clear();
    }
    // Reload from the same file, even if the search would then find another one.
    let file = sources.file.map(|(path, _)| path);
    let reload = move || {
        let sources = Sources::of_process(role, file.as_deref(), pairs.clone())?;
        Settings::load(&sources)
    };
    Ok((loaded, Arc::new(reload)))
}

/// The command line's settings as arguments for another process of this program.
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

fn start_log(loaded: &Loaded, logger: Logger) -> Log {
    let filter = loaded.in_force.iter().find(|(name, _)| *name == "RUST_LOG");
    let filter = filter.map_or("", |(_, value)| value.as_str());
    let log = telemetry::start(&loaded.settings, filter, logger);
    for warning in &loaded.warnings {
        warn!("{warning}");
    }
    log
}

/// Runs a future on a new runtime. Does not wait for blocking work that the future leaves behind, such as a
/// model's conversion, which writes to temporary files only.
fn run_to_end<F, T>(future: F) -> anyhow::Result<T>
where
    F: Future<Output = anyhow::Result<T>>,
{
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let result = runtime.block_on(future);
    runtime.shutdown_background();
    result
}
