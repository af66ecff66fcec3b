//! `uttera-stt models …`: manages the model store.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, Subcommand};

use crate::models::{
    ALIASES, Bar, CATALOGUE, ComputeType, ModelError, ModelStore, VOICE_ACTIVITY_NAME, Verdict,
    find,
};
use crate::shutdown::StopSignals;

/// Arguments of `uttera-stt models`.
#[derive(Debug, Args)]
pub struct ModelsArgs {
    /// Subcommand.
    #[command(subcommand)]
    pub action: Action,
}

/// Subcommands of `uttera-stt models`.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// List all models with size, memory use, languages, and whether they are on disk.
    List,
    /// Download the published files of models over HTTPS, or from UTTERA_MODEL_MIRROR.
    Pull {
        /// Catalogue names, for example base.en or large-v3-turbo-q5_0; silero-vad for the weights of
        /// the voice activity detector.
        #[arg(required_unless_present = "all")]
        names: Vec<String>,
        /// Download every model of the catalogue.
        #[arg(long, conflicts_with = "names")]
        all: bool,
    },
    /// Convert a CTranslate2 (faster-whisper) folder to a ggml file in the models folder.
    Import {
        /// The folder with model.bin and tokenizer.json or vocabulary.txt.
        path: PathBuf,
        /// Name of the result (default: the folder's name).
        #[arg(long)]
        name: Option<String>,
    },
    /// Verify models on disk: structure, and checksum if it is known.
    Verify {
        /// Name or file (default: all models on disk).
        name: Option<String>,
    },
    /// Print the models folder, or the file of a model.
    Path {
        /// Name or file.
        name: Option<String>,
    },
    /// Convert a model to another data type.
    Convert {
        /// Name, ggml file or CTranslate2 folder.
        name: String,
        /// f32, f16, q8_0, q5_1, q5_0, q4_1 or q4_0.
        #[arg(long = "type", value_name = "TYPE")]
        compute: ComputeType,
        /// Output file (default: in the models folder, where the server finds it).
        #[arg(long)]
        output: Option<PathBuf>,
    },
}

/// Runs the subcommand and prints to standard output. Blocks; must not be called on a runtime's thread.
pub fn command(args: ModelsArgs, store: &ModelStore) -> anyhow::Result<()> {
    let done = run(args.action, store, &mut io::stdout().lock());
    done.or_else(|error| match error.downcast_ref::<io::Error>() {
        // The reader closed the pipe, as in `models list | head`.
        Some(broken) if broken.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        _ => Err(error),
    })
}

fn run(action: Action, store: &ModelStore, out: &mut impl Write) -> anyhow::Result<()> {
    match action {
        Action::List => list(store, out),
        Action::Pull { names, all } => pull(store, &names, all, out),
        Action::Import { path, name } => {
            let file = store.import(&path, name.as_deref())?;
            print_path(out, &file)
        }
        Action::Verify { name } => verify(store, name, out),
        Action::Path { name: None } => print_path(out, store.dir()),
        Action::Path { name: Some(name) } if name == VOICE_ACTIVITY_NAME => {
            let path = store.voice_activity();
            let hint =
                "the weights are not on disk; `uttera-stt models pull silero-vad` downloads them";
            print_path(out, &path.context(hint)?)
        }
        Action::Path { name: Some(name) } => {
            let path = store.resolve(&name, None)?.path;
            print_path(out, &path)
        }
        Action::Convert {
            name,
            compute,
            output,
        } => {
            let file = store.convert(&name, compute, output.as_deref())?;
            print_path(out, &file)
        }
    }
}

fn print_path(out: &mut impl Write, path: &Path) -> anyhow::Result<()> {
    Ok(writeln!(out, "{}", path.display())?)
}

fn list(store: &ModelStore, out: &mut impl Write) -> anyhow::Result<()> {
    let heads = ["NAME", "SIZE", "MEMORY", "LANGUAGES", "ON DISK"];
    let row = |out: &mut dyn Write, cells: [&str; 5]| {
        let [name, size, memory, languages, disk] = cells;
        let line = format!("{name:<24} {size:>9} {memory:>9}  {languages:<9}  {disk}");
        writeln!(out, "{}", line.trim_end())
    };
    row(out, heads)?;
    for (entry, path) in store.catalogue() {
        let (size, memory) = (human(entry.size_bytes()), human(entry.memory_bytes()));
        let disk = if path.is_some() { "yes" } else { "" };
        row(out, [entry.name, &size, &memory, entry.languages(), disk])?;
    }
    for model in store
        .local()?
        .iter()
        .filter(|model| find(&model.name).is_none())
    {
        row(out, [&model.name, &human(model.size_bytes), "", "", "yes"])?;
    }
    let aliases: Vec<String> = ALIASES
        .iter()
        .map(|(from, to)| format!("{from} = {to}"))
        .collect();
    writeln!(
        out,
        "\nAlso: {}.\nFolder: {}",
        aliases.join(", "),
        store.dir().display()
    )?;
    Ok(())
}

/// A size in binary units; GiB have one decimal.
fn human(bytes: u64) -> String {
    let mib = bytes as f64 / (1024.0 * 1024.0);
    if mib < 1024.0 {
        format!("{mib:.0} MiB")
    } else {
        format!("{:.1} GiB", mib / 1024.0)
    }
}

fn pull(
    store: &ModelStore,
    names: &[String],
    all: bool,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let every: Vec<String> = CATALOGUE
        .iter()
        .map(|entry| entry.name.to_owned())
        .collect();
    let names = if all { &every } else { names };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the download")?;
    let bar = Bar::default();
    let result = runtime.block_on(async {
        let mut signals = StopSignals::listen()?;
        for name in names {
            // Dropping the future ends the download; the next run continues the partial file.
            let file = tokio::select! {
                file = pull_one(store, name, &bar) => file?,
                signal = signals.next() => anyhow::bail!("ended by {signal}"),
            };
            print_path(out, &file)?;
        }
        anyhow::Ok(())
    });
    // Do not wait for a hanging name resolution, whose thread cannot be stopped.
    runtime.shutdown_background();
    result
}

async fn pull_one(store: &ModelStore, name: &str, bar: &Bar) -> Result<PathBuf, ModelError> {
    if name == VOICE_ACTIVITY_NAME {
        return store.ensure_voice_activity(bar).await;
    }
    store.pull(name, bar).await
}

fn verify(store: &ModelStore, name: Option<String>, out: &mut impl Write) -> anyhow::Result<()> {
    let names = match name {
        Some(name) => vec![name],
        None => store.local()?.into_iter().map(|model| model.name).collect(),
    };
    if names.is_empty() {
        writeln!(out, "no models in {}", store.dir().display())?;
    }
    let mut bad = 0;
    for name in &names {
        match store.verify(name) {
            Ok(verified) => {
                let verdict = match verified.verdict {
                    Verdict::Published => "good: the published file",
                    Verdict::AsWritten => "good: as imported or converted here",
                    Verdict::Unrecorded => {
                        "complete, but not the published file, and no record says where it came from"
                    }
                    Verdict::WellFormed => "complete; no checksum is known for it",
                };
                writeln!(out, "{:<24} {}  {verdict}", verified.name, verified.sha256)?;
            }
            Err(error) => {
                bad += 1;
                writeln!(out, "{name:<24} BAD: {:#}", anyhow::Error::from(error))?;
            }
        }
    }
    anyhow::ensure!(bad == 0, "{bad} of {} models failed the check", names.len());
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        models: ModelsArgs,
    }

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once("models").chain(line.split(' ')))
    }

    #[test]
    fn the_command_line_is_understood() {
        for line in [
            "list",
            "pull base tiny.en",
            "pull --all",
            "import /m/faster-whisper-base --name base",
            "verify",
            "path base",
            "convert base --type q5_1",
            "convert base --type int8 --output /tmp/x.bin",
        ] {
            assert!(parse(line).is_ok(), "{line}");
        }
        assert!(parse("pull").is_err(), "nothing to pull");
        assert!(parse("convert base").is_err(), "no type");
        assert!(
            parse("convert base --type int3")
                .unwrap_err()
                .to_string()
                .contains("q5_1")
        );
    }

    #[test]
    fn the_list_marks_what_is_on_disk_and_shows_own_models() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("ggml-base.bin"), b"x").unwrap();
        std::fs::write(dir.path().join("ggml-mine.bin"), b"x").unwrap();
        let mut out = Vec::new();
        list(&ModelStore::new(dir.path().to_owned()), &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        let line = |name: &str| {
            text.lines()
                .find(|l| l.starts_with(name))
                .unwrap()
                .to_owned()
        };
        assert!(
            line("base ").contains("141 MiB") && line("base ").ends_with("yes"),
            "{text}"
        );
        assert!(!line("large-v3 ").ends_with("yes") && line("large-v3 ").contains("2.9 GiB"));
        assert!(line("mine ").ends_with("yes"));
        assert!(line("base.en ").contains("English"));
    }
}
