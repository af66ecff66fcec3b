//! What a run found, as it is printed and kept.

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

/// What a run found.
#[derive(Debug, Serialize)]
pub struct Report {
    /// This program's version.
    pub version: &'static str,
    /// The model of our own system.
    pub model: String,
    /// When it ended, in UTC.
    pub date: String,
    /// Where.
    pub machine: Machine,
    /// Of what.
    pub recordings: Recordings,
    /// Who.
    pub systems: Vec<SystemEntry>,
    /// The results.
    #[serde(rename = "summary")]
    pub figures: Vec<Figure>,
    /// Every single measurement.
    pub samples: Vec<Sample>,
}

/// A system that took part.
#[derive(Debug, Serialize)]
pub struct SystemEntry {
    /// Its name.
    pub name: String,
    /// How it was started, without folders and values of settings.
    pub command: Vec<String>,
    /// Whether the others are compared with it.
    pub ours: bool,
    /// Why it was left out.
    pub failed: Option<String>,
}

impl Report {
    /// Of a run that is over.
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

    /// Writes `bench.json` and `bench.svg` into a folder.
    pub fn write(&self, folder: &Path) -> anyhow::Result<()> {
        let json = serde_json::to_string_pretty(self).context("the report is no JSON")?;
        let write = |name: &str, text: String| {
            let path = folder.join(name);
            std::fs::write(&path, text).with_context(|| path.display().to_string())
        };
        write("bench.json", json + "\n")?;
        write("bench.svg", plot::render(self)?)
    }
}

/// A command without what is nobody else's business: folders, and the values of settings.
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
    fn a_report_keeps_neither_folders_nor_secrets() {
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
