//! Results of a run, for printing and writing.

use std::path::Path;

use anyhow::Context;
use serde::Serialize;

use super::figures::{Figure, Names, figures};
use super::machine::Machine;
use super::plot;
use super::recordings::Recordings;
use super::run::Run;
use super::sample::Sample;
use crate::probe::now;

/// Results of a run.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Version of this program.
    pub version: &'static str,
    /// Model of our own system.
    pub model: String,
    /// When the run ended, in UTC.
    pub date: String,
    /// The machine of the measurements.
    pub machine: Machine,
    /// The recordings.
    pub recordings: Recordings,
    /// The systems.
    pub systems: Vec<SystemEntry>,
    /// The evaluated results.
    #[serde(rename = "summary")]
    pub figures: Vec<Figure>,
    /// All measurements.
    pub samples: Vec<Sample>,
}

/// A system of the run.
#[derive(Debug, Serialize)]
pub struct SystemEntry {
    /// Name of the system.
    pub name: String,
    /// Command that started it, without folders and values of settings.
    pub command: Vec<String>,
    /// Whether the others are compared with it.
    pub ours: bool,
    /// Why it was excluded, if it failed.
    pub failed: Option<String>,
}

impl Report {
    /// Creates the report of a finished run.
    pub fn of(run: Run, machine: Machine) -> Self {
        let entry = |system: &super::system::System| SystemEntry {
            name: system.name().to_owned(),
            command: shown(&system.spec.command),
            ours: system.spec.ours,
            failed: system.failed.clone(),
        };
        let systems: Vec<SystemEntry> = run.systems.iter().map(entry).collect();
        let names = names(&systems);
        Self {
            version: env!("CARGO_PKG_VERSION"),
            model: run.model,
            date: now(),
            machine,
            figures: figures(&names, &run.samples, &run.recordings),
            recordings: run.recordings,
            systems,
            samples: run.samples,
        }
    }

    /// Writes `bench.json` and `bench.svg` to a folder.
    pub fn write(&self, folder: &Path) -> anyhow::Result<()> {
        let json = serde_json::to_string_pretty(self).context("cannot serialise the report")?;
        let write = |name: &str, text: String| {
            let path = folder.join(name);
            std::fs::write(&path, text).with_context(|| path.display().to_string())
        };
        write("bench.json", json + "\n")?;
        write("bench.svg", plot::render(self)?)
    }
}

/// A command without private information: folders and the values of settings are removed.
fn shown(command: &[String]) -> Vec<String> {
    let word = |word: &String| match word.split_once('=') {
        Some((name, _)) => format!("{name}=…"),
        None => word.rsplit('/').next().unwrap_or_default().to_owned(),
    };
    command.iter().map(word).collect()
}

fn names(systems: &[SystemEntry]) -> Names {
    let failed = systems.iter().filter(|system| system.failed.is_some());
    Names {
        all: systems.iter().map(|system| system.name.clone()).collect(),
        ours: systems.iter().position(|system| system.ours).unwrap_or(0),
        failed: failed.map(|system| system.name.clone()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_contains_neither_folders_nor_secrets() {
        let command = [
            "/home/me/uttera-stt",
            "--set",
            "API_KEYS=secret",
            "--port",
            "1",
        ];
        let shown = shown(&command.map(str::to_owned));
        assert_eq!(shown, ["uttera-stt", "--set", "API_KEYS=…", "--port", "1"]);
    }
}
