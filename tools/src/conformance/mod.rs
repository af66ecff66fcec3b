//! `uttera-stt conformance URL`: holds any server against the public contract and tells what of it holds.
//!
//! Each [`Group`] of the contract is a file that lists its [`check::Check`]s; a check asks the [`target`]
//! and says what is wrong. [`run`] takes one after the other within a time limit, and the [`report`] is
//! printed as a table and kept as JSON. States that nobody can ask for from outside (a full queue, a full
//! disk) are not tried.

pub mod check;
pub mod expect;
pub mod report;
pub mod run;
pub mod target;

mod bazarr;
mod clients;
mod cors;
mod errors;
mod events;
mod formats;
mod headers;
mod health;
mod languages;
mod metrics;
mod models;
mod streaming;
mod subtitles;
mod tiers;
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
    /// Write the results into this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Check these groups only.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "GROUP")]
    only: Vec<Group>,
    /// The model that requests name.
    #[arg(long, value_name = "NAME", default_value = "whisper-1")]
    ask_for: String,
    /// An origin that the server lets in (CORS_ALLOW_ORIGINS); without it, none is expected to be.
    #[arg(long, value_name = "ORIGIN")]
    origin: Option<String>,
    /// A check that takes longer than this has failed.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
    limit_seconds: u32,
}

/// A part of the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Group {
    /// What OpenAI's own API has: models, formats, verbose-json, words, streaming and translations.
    Openai,
    /// The list of models, and one of them.
    Models,
    /// json, text, srt and vtt.
    Formats,
    /// verbose_json and its segments.
    VerboseJson,
    /// Times of words.
    Words,
    /// stream=true.
    Streaming,
    /// Speech to English text.
    Translations,
    /// Codes, regions and names of languages, and languages that are none.
    Languages,
    /// Requests as well-known clients send them: the openai package, Open-WebUI, OpenClaw, n8n.
    Clients,
    /// This server's table of errors.
    Errors,
    /// This server's headers and content types.
    Headers,
    /// This server's /health, /livez and /readyz.
    Health,
    /// This server's /metrics.
    Metrics,
    /// Bazarr's /asr and /detect-language.
    Bazarr,
    /// whisper.cpp's /inference.
    WhisperCpp,
    /// Other origins in a browser.
    Cors,
    /// /v1/transcribe and what else a primary and a fallback have.
    Tiers,
}

impl Group {
    /// The groups that this one stands for.
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

    /// As on the command line.
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
            Self::Errors => errors::checks(),
            Self::Headers => headers::checks(),
            Self::Health => health::checks(),
            Self::Metrics => metrics::checks(),
            Self::Bazarr => bazarr::checks(),
            Self::WhisperCpp => whisper_cpp::checks(),
            Self::Cors => cors::checks(),
            Self::Tiers => tiers::checks(),
        }
    }
}

/// Checks a server, prints the table and writes what is to be kept.
///
/// # Errors
/// A file that cannot be written.
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

/// Those that are asked for, in the contract's order; all if none is.
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
    fn openai_stands_for_what_openai_has_and_nothing_stands_for_all() {
        let openai = groups(&[Group::Openai, Group::Words]);
        assert_eq!(openai.len(), 6);
        assert!(!openai.contains(&Group::Health) && !openai.contains(&Group::Openai));
        assert_eq!(groups(&[]).len(), Group::value_variants().len() - 1);
    }

    #[test]
    fn every_check_has_a_name_of_its_own_within_its_group() {
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
