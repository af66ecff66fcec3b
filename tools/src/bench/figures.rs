//! What the samples come to: one figure for each thing measured, with a value for each system and how
//! it compares with ours.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::recordings::Recordings;
use super::sample::{Outcome, Quantity, Sample, Scenario};
use super::statistics::{Comparison, ratio_by_bootstrap, ratio_by_range};
use super::word_errors;
use crate::probe::counted;
use crate::probe::statistics::{mean, percentile};

/// What values are in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Seconds.
    Seconds,
    /// 2²⁰ bytes.
    Mebibytes,
    /// Hundredths.
    Percent,
    /// A ratio of two times.
    Times,
}

/// How systems are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Theirs over ours, with the 95 % interval of a paired bootstrap.
    BootstrapRatio,
    /// Theirs over ours, with the least and greatest of the rounds.
    RangeRatio,
    /// Theirs over ours.
    PlainRatio,
    /// Theirs minus ours in points, with the 95 % interval of a paired bootstrap.
    BootstrapPoints,
}

/// One thing measured.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// The scenario it is from.
    pub scenario: Scenario,
    /// What it is, for people.
    pub name: String,
    /// What values are in.
    pub unit: Unit,
    /// How systems are compared.
    pub kind: Kind,
    /// One for each system.
    pub rows: Vec<Row>,
}

impl Figure {
    /// Whether some comparison has bounds.
    pub fn is_bounded(&self) -> bool {
        let bounded = |row: &Row| row.comparison.is_some_and(|found| found.bounds.is_some());
        self.rows.iter().any(bounded)
    }
}

/// One system's part of a figure.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Row {
    /// The system.
    pub system: String,
    /// Its value; none where nothing could be measured.
    pub value: Option<f64>,
    /// Whether it was more than this: not all of it was waited for.
    pub more_than: bool,
    /// How it compares with ours.
    pub comparison: Option<Comparison>,
    /// What people must know about it.
    pub note: Option<String>,
}

/// The systems as the figures name them.
pub struct Names {
    /// All, in their order.
    pub all: Vec<String>,
    /// The one that the others are compared with.
    pub ours: usize,
    /// Those that failed.
    pub failed: BTreeSet<String>,
}

/// One system's samples of a quantity.
pub struct Series<'a>(pub Vec<&'a Sample>);

impl Series<'_> {
    /// Values by round. What was not waited for to its end counts as the limit.
    fn by_round(&self) -> BTreeMap<usize, f64> {
        let value = |sample: &&Sample| match sample.outcome {
            Outcome::Measured(value) | Outcome::MoreThan(value) => Some((sample.round, value)),
            Outcome::Failed(_) => None,
        };
        self.0.iter().filter_map(value).collect()
    }

    fn values(&self) -> Vec<f64> {
        self.by_round().into_values().collect()
    }

    fn more_than(&self) -> bool {
        self.0
            .iter()
            .any(|sample| matches!(sample.outcome, Outcome::MoreThan(_)))
    }

    /// Whether requests failed within a burst.
    fn has_failures(&self) -> bool {
        self.0.iter().any(|sample| sample.failures.is_some())
    }

    /// What failed, in words.
    fn note(&self) -> Option<String> {
        let failures: Vec<&String> = self.0.iter().filter_map(|sample| failure(sample)).collect();
        let within: usize = self
            .0
            .iter()
            .filter_map(|s| Some(s.failures.as_ref()?.count))
            .sum();
        let first = failures.first().copied();
        let first_within = self
            .0
            .iter()
            .find_map(|s| Some(&s.failures.as_ref()?.first));
        match (first, first_within) {
            (Some(first), _) if failures.len() == self.0.len() => Some(format!("failed: {first}")),
            (Some(first), _) => Some(format!(
                "{} of {} failed: {first}",
                failures.len(),
                self.0.len()
            )),
            (None, Some(first)) => Some(format!("{within} requests failed: {first}")),
            (None, None) => None,
        }
    }
}

fn failure(sample: &Sample) -> Option<&String> {
    match &sample.outcome {
        Outcome::Failed(reason) => Some(reason),
        Outcome::Measured(_) | Outcome::MoreThan(_) => None,
    }
}

/// How a figure comes from a quantity's samples.
struct Recipe {
    scenario: Scenario,
    name: &'static str,
    quantity: Quantity,
    unit: Unit,
    kind: Kind,
    of: fn(&[f64]) -> Option<f64>,
}

const fn recipe(
    scenario: Scenario,
    name: &'static str,
    quantity: Quantity,
    kind: Kind,
    of: fn(&[f64]) -> Option<f64>,
) -> Recipe {
    let unit = match scenario {
        Scenario::Memory => Unit::Mebibytes,
        _ => Unit::Seconds,
    };
    Recipe {
        scenario,
        name,
        quantity,
        unit,
        kind,
        of,
    }
}

fn median(values: &[f64]) -> Option<f64> {
    percentile(values, 50)
}

fn percentile_95(values: &[f64]) -> Option<f64> {
    percentile(values, 95)
}

const RECIPES: [Recipe; 11] = [
    recipe(
        Scenario::Start,
        "start to first transcript",
        Quantity::StartSeconds,
        Kind::RangeRatio,
        mean,
    ),
    recipe(
        Scenario::Short,
        "a short clip",
        Quantity::ShortSeconds,
        Kind::BootstrapRatio,
        mean,
    ),
    recipe(
        Scenario::Contended,
        "a short clip, beside a busy program",
        Quantity::ContendedSeconds,
        Kind::BootstrapRatio,
        mean,
    ),
    recipe(
        Scenario::Long,
        "the long file",
        Quantity::LongSeconds,
        Kind::RangeRatio,
        mean,
    ),
    recipe(
        Scenario::Burst,
        "many requests at once",
        Quantity::BurstSeconds,
        Kind::RangeRatio,
        mean,
    ),
    recipe(
        Scenario::Command,
        "a command, idle: median",
        Quantity::IdleCommandSeconds,
        Kind::PlainRatio,
        median,
    ),
    recipe(
        Scenario::Command,
        "a command, idle: 95th percentile",
        Quantity::IdleCommandSeconds,
        Kind::PlainRatio,
        percentile_95,
    ),
    recipe(
        Scenario::Command,
        "a command during the long file: median",
        Quantity::BusyCommandSeconds,
        Kind::PlainRatio,
        median,
    ),
    recipe(
        Scenario::Command,
        "a command during the long file: 95th percentile",
        Quantity::BusyCommandSeconds,
        Kind::PlainRatio,
        percentile_95,
    ),
    recipe(
        Scenario::Memory,
        "memory, idle",
        Quantity::IdleMebibytes,
        Kind::RangeRatio,
        mean,
    ),
    recipe(
        Scenario::Memory,
        "memory, most during a burst",
        Quantity::PeakMebibytes,
        Kind::RangeRatio,
        mean,
    ),
];

/// All figures for which there are samples, and those that a system was to have.
pub fn figures(names: &Names, samples: &[Sample], recordings: &Recordings) -> Vec<Figure> {
    let mut figures = Vec::new();
    for recipe in &RECIPES {
        figures.extend(timed(recipe, names, samples));
        match recipe.quantity {
            Quantity::ShortSeconds => figures.extend(word_errors::of_clips(names, samples)),
            Quantity::LongSeconds => {
                figures.extend(word_errors::of_long(names, samples, &recordings.long));
            }
            Quantity::BusyCommandSeconds if recipe.name.contains("95th") => {
                figures.extend(busy_over_idle(names, samples));
            }
            _ => {}
        }
    }
    figures
}

/// A system's samples of a quantity.
pub fn series<'a>(samples: &'a [Sample], quantity: Quantity, system: &str) -> Series<'a> {
    let of = |sample: &&Sample| sample.quantity == quantity && sample.system == system;
    Series(samples.iter().filter(of).collect())
}

/// Whether anybody was measured.
pub fn measured(samples: &[Sample], quantity: Quantity) -> bool {
    samples.iter().any(|sample| sample.quantity == quantity)
}

fn timed(recipe: &Recipe, names: &Names, samples: &[Sample]) -> Option<Figure> {
    if !measured(samples, recipe.quantity) {
        return None;
    }
    let ours = series(samples, recipe.quantity, &names.all[names.ours]);
    let row = |(index, name): (usize, &String)| {
        let theirs = series(samples, recipe.quantity, name);
        let value = (recipe.of)(&theirs.values());
        let compared = (index != names.ours)
            .then(|| compare(recipe, &ours, &theirs))
            .flatten();
        Row {
            system: name.clone(),
            value,
            more_than: theirs.more_than(),
            comparison: compared,
            note: theirs.note().or_else(|| left_out(names, name, value)),
        }
    };
    Some(Figure {
        scenario: recipe.scenario,
        name: recipe.name.to_owned(),
        unit: recipe.unit,
        kind: recipe.kind,
        rows: names.all.iter().enumerate().map(row).collect(),
    })
}

/// What there is to say of a system without a value. Why it failed is told once, for all figures.
pub fn left_out(names: &Names, system: &str, value: Option<f64>) -> Option<String> {
    let what = if names.failed.contains(system) {
        "failed"
    } else {
        "not measured"
    };
    value.is_none().then(|| what.to_owned())
}

fn compare(recipe: &Recipe, ours: &Series, theirs: &Series) -> Option<Comparison> {
    let our_values = ours.by_round();
    let pairs: Vec<(f64, f64)> = theirs
        .by_round()
        .into_iter()
        .filter_map(|(round, their)| Some((*our_values.get(&round)?, their)))
        .collect();
    let plain = || {
        let value = (recipe.of)(&theirs.values())? / (recipe.of)(&ours.values())?;
        Some(Comparison {
            value,
            bounds: None,
        })
    };
    match recipe.kind {
        // A burst is over soon where requests are refused, and of what ours did not finish in time only
        // the limit is known.
        _ if ours.more_than() || ours.has_failures() || theirs.has_failures() => None,
        // Bounds of what was cut off would be bounds of the limit.
        _ if theirs.more_than() => plain(),
        Kind::BootstrapRatio => ratio_by_bootstrap(&pairs),
        Kind::RangeRatio => ratio_by_range(&pairs),
        Kind::PlainRatio | Kind::BootstrapPoints => plain(),
    }
}

/// How much longer a command takes during the long file: 95th percentile over 95th percentile.
fn busy_over_idle(names: &Names, samples: &[Sample]) -> Option<Figure> {
    let ratio = |name: &str| {
        let p95 = |quantity| percentile_95(&series(samples, quantity, name).values());
        Some(p95(Quantity::BusyCommandSeconds)? / p95(Quantity::IdleCommandSeconds)?)
    };
    let ours = ratio(&names.all[names.ours]);
    let row = |(index, name): (usize, &String)| {
        let value = ratio(name);
        let busy = series(samples, Quantity::BusyCommandSeconds, name);
        let comparison = ours.zip(value).filter(|_| index != names.ours);
        let sent = || format!("{} during the file", counted(busy.0.len(), "command"));
        Row {
            system: name.clone(),
            value,
            more_than: busy.more_than(),
            comparison: comparison.map(|(ours, value)| Comparison {
                value: value / ours,
                bounds: None,
            }),
            note: left_out(names, name, value).or_else(|| Some(sent())),
        }
    };
    Some(Figure {
        scenario: Scenario::Command,
        name: "a command during the long file over one on an idle system (95th percentiles)"
            .to_owned(),
        unit: Unit::Times,
        kind: Kind::PlainRatio,
        rows: names.all.iter().enumerate().map(row).collect(),
    })
    .filter(|figure| figure.rows.iter().any(|row| row.value.is_some()))
}
