//! Evaluates the samples: one figure per measured quantity, with a value for each system and its comparison
//! with the reference system ("ours").

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::recordings::Recordings;
use super::sample::{Outcome, Quantity, Sample, Scenario};
use super::statistics::{Comparison, ratio_by_bootstrap, ratio_by_range};
use super::word_errors;
use crate::probe::counted;
use crate::probe::statistics::{mean, percentile};

/// Unit of values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Seconds.
    Seconds,
    /// 2²⁰ bytes.
    Mebibytes,
    /// Percent.
    Percent,
    /// A ratio of two times.
    Times,
}

/// Method of comparing systems.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Ratio theirs / ours, with the 95 % interval of a paired bootstrap.
    BootstrapRatio,
    /// Ratio theirs / ours, with the minimum and maximum of the rounds.
    RangeRatio,
    /// Ratio theirs / ours.
    PlainRatio,
    /// Difference theirs - ours in percentage points, with the 95 % interval of a paired bootstrap.
    BootstrapPoints,
}

/// One measured quantity, evaluated.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// Scenario that measured it.
    pub scenario: Scenario,
    /// Name for people.
    pub name: String,
    /// Unit of the values.
    pub unit: Unit,
    /// Method of comparing systems.
    pub kind: Kind,
    /// One row per system.
    pub rows: Vec<Row>,
}

impl Figure {
    /// Whether a comparison has bounds.
    pub fn is_bounded(&self) -> bool {
        let bounded = |row: &Row| row.comparison.is_some_and(|found| found.bounds.is_some());
        self.rows.iter().any(bounded)
    }
}

/// One system's part of a figure.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Row {
    /// Name of the system.
    pub system: String,
    /// The value; `None` if nothing could be measured.
    pub value: Option<f64>,
    /// Whether the true value is greater, because a sample reached the time limit.
    pub more_than: bool,
    /// Comparison with our system.
    pub comparison: Option<Comparison>,
    /// A remark for people.
    pub note: Option<String>,
}

/// Names of the systems in figures.
pub struct Names {
    /// All names, in the order of the systems.
    pub all: Vec<String>,
    /// Index of the system that the others are compared with.
    pub ours: usize,
    /// Systems that failed.
    pub failed: BTreeSet<String>,
}

/// One system's samples of a quantity.
pub struct Series<'a>(pub Vec<&'a Sample>);

impl Series<'_> {
    /// Values by round. A sample that reached the time limit counts as the limit.
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

    /// A remark on what failed.
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

/// How a figure is calculated from the samples of a quantity.
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

const RECIPES: [Recipe; 14] = [
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
        Scenario::Live,
        "a spoken command of about 2 s, from its end to the text: median",
        Quantity::LiveShortSeconds,
        Kind::PlainRatio,
        median,
    ),
    recipe(
        Scenario::Live,
        "a spoken command of about 6 s, from its end to the text: median",
        Quantity::LiveLongSeconds,
        Kind::PlainRatio,
        median,
    ),
    recipe(
        Scenario::Live,
        "a spoken command during the long file: median",
        Quantity::LiveBusySeconds,
        Kind::PlainRatio,
        median,
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

/// All figures for which there are samples, including those in which some systems have none.
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

/// Whether any system has a sample of the quantity.
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

/// The remark for a system without a value. The reason of a failure is reported once, not per figure.
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
        // A burst with rejected requests ends early, and a burst of our system that reached the limit has
        // only a lower bound, so that a ratio would be misleading.
        _ if ours.more_than() || ours.has_failures() || theirs.has_failures() => None,
        // Bounds of truncated times would only be bounds of the limit.
        _ if theirs.more_than() => plain(),
        Kind::BootstrapRatio => ratio_by_bootstrap(&pairs),
        Kind::RangeRatio => ratio_by_range(&pairs),
        Kind::PlainRatio | Kind::BootstrapPoints => plain(),
    }
}

/// Slowdown of a command during the long file: 95th percentile divided by the 95th percentile on an idle
/// system.
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
