//! `uttera-stt conformance URL`: checks which parts of the public API a server implements.
//!
//! Each [`Group`] of the API is a file that lists its [`check::Check`]s; a check queries the [`target`] and
//! returns what is wrong. [`run`] executes the checks one after the other, each with a time limit; the
//! [`report`] is printed as a table and written as JSON. States that a client cannot cause (a full queue, a
//! full disk) are not checked.

pub mod check;
pub mod expect;
pub mod report;
pub mod run;
pub mod target;

mod bazarr;
mod clients;
mod cors;
mod errors;
mod escalation;
mod events;
mod formats;
mod headers;
mod health;
mod jobs;
mod languages;
mod leniency;
mod metrics;
mod models;
mod raw;
mod streaming;
mod subtitles;
mod translations;
mod verbose_json;
mod whisper_cpp;
mod words;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, ValueEnum};
use serde::Serialize;

use check::Check;
use report::Report;
use target::Target;

use crate::probe::args::ServerArgs;
use crate::probe::outcome::Verdict;

/// Arguments of `uttera-stt conformance`.
#[derive(Clone, Debug, Args)]
pub struct ConformanceArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// Write the results as JSON to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Check only these groups, comma-separated.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "GROUP")]
    only: Vec<Group>,
    /// Name of the model in requests.
    #[arg(long, value_name = "NAME", default_value = "whisper-1")]
    ask_for: String,
    /// An origin that the server allows (CORS_ALLOW_ORIGINS). Without it, no origin must be allowed.
    #[arg(long, value_name = "ORIGIN")]
    origin: Option<String>,
    /// Time limit of a check in seconds; a slower check has failed.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
    limit_seconds: u32,
}

/// A part of the public API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Group {
    /// OpenAI's API: models, formats, verbose-json, words, streaming and translations.
    Openai,
    /// The list of models, and a single model.
    Models,
    /// The formats json, text, srt and vtt.
    Formats,
    /// The format verbose_json with its segments.
    VerboseJson,
    /// Word timestamps.
    Words,
    /// Streaming with stream=true.
    Streaming,
    /// Translation to English.
    Translations,
    /// Codes, regions and names of languages, and unknown languages.
    Languages,
    /// Requests as well-known clients send them: the openai package, Open-WebUI, OpenClaw, n8n.
    Clients,
    /// Requests that proxies and careless clients send.
    Leniency,
    /// This server's error codes.
    Errors,
    /// This server's headers and content types.
    Headers,
    /// This server's /health, /livez and /readyz.
    Health,
    /// This server's /metrics.
    Metrics,
    /// Jobs: /v1/audio/jobs.
    Jobs,
    /// Bazarr's /asr and /detect-language.
    Bazarr,
    /// whisper.cpp's /inference.
    WhisperCpp,
    /// Cross-origin requests from browsers.
    Cors,
    /// /v1/transcribe and the other endpoints of a primary and its fallback.
    #[serde(rename = "tiers")]
    #[value(name = "tiers")]
    Escalation,
}

impl Group {
    /// The groups that this group consists of.
    fn parts(self) -> Vec<Self> {
        match self {
            Self::Openai => vec![
                Self::Models,
                Self::Formats,
                Self::VerboseJson,
                Self::Words,
                Self::Streaming,
                Self::Translations,
            ],
            one => vec![one],
        }
    }

    /// The name on the command line.
    pub fn name(self) -> String {
        let value = self.to_possible_value();
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    }

    fn checks(self) -> Vec<Check> {
        match self {
            Self::Openai => Vec::new(),
            Self::Models => models::checks(),
            Self::Formats => formats::checks(),
            Self::VerboseJson => verbose_json::checks(),
            Self::Words => words::checks(),
            Self::Streaming => streaming::checks(),
            Self::Translations => translations::checks(),
            Self::Languages => languages::checks(),
            Self::Clients => clients::checks(),
            Self::Leniency => leniency::checks(),
            Self::Errors => errors::checks(),
            Self::Headers => headers::checks(),
            Self::Health => health::checks(),
            Self::Metrics => metrics::checks(),
            Self::Jobs => jobs::checks(),
            Self::Bazarr => bazarr::checks(),
            Self::WhisperCpp => whisper_cpp::checks(),
            Self::Cors => cors::checks(),
            Self::Escalation => escalation::checks(),
        }
    }
}

/// Checks a server, prints the table and writes the requested file.
///
/// # Errors
/// A file cannot be written.
pub async fn conformance(args: ConformanceArgs) -> anyhow::Result<Verdict> {
    let limit = Duration::from_secs(u64::from(args.limit_seconds));
    let Some((server, models)) = args.server.reach().await? else {
        return Ok(Verdict::Unreachable);
    };
    let target = Target::new(server, &models, args.ask_for, args.origin);
    let results = run::run(&target, &groups(&args.only), limit).await;
    let report = Report::of(&target.shown_url(), results);
    print!("{}", report.table());
    if let Some(path) = &args.json {
        let json = report.json()?;
        std::fs::write(path, json).with_context(|| path.display().to_string())?;
    }
    Ok(report.counts.verdict())
}

/// The requested groups in the order of the API; all if none is requested.
fn groups(only: &[Group]) -> Vec<Group> {
    let asked: Vec<Group> = only.iter().flat_map(|group| group.parts()).collect();
    let all = Group::value_variants().iter().copied();
    all.filter(|group| *group != Group::Openai)
        .filter(|group| asked.is_empty() || asked.contains(group))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openai_expands_to_its_groups_and_the_default_is_all_groups() {
        let openai = groups(&[Group::Openai, Group::Words]);
        assert_eq!(openai.len(), 6);
        assert!(!openai.contains(&Group::Health) && !openai.contains(&Group::Openai));
        assert_eq!(groups(&[]).len(), Group::value_variants().len() - 1);
    }

    #[test]
    fn every_check_has_a_unique_name_within_its_group() {
        for group in groups(&[]) {
            let mut names: Vec<String> = (group.checks().into_iter())
                .map(|check| check.name)
                .collect();
            assert!(!names.is_empty(), "{group:?}");
            names.sort();
            let count = names.len();
            names.dedup();
            assert_eq!(names.len(), count, "{group:?}");
        }
    }
}
