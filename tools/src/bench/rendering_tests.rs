//! The report's three forms, rendered from invented samples.

use super::machine::Machine;
use super::plot;
use super::recordings::{Choice, Recordings};
use super::report::Report;
use super::run::{Extent, Run};
use super::sample::{Failures, Outcome, Quantity, Sample};
use super::system::{Spec, System};
use super::table;
use crate::probe::progress::Progress;
use crate::probe::word_error_rate::Score;

fn spec(name: &str, ours: bool) -> Spec {
    let text = format!(r#"{{"name": "{name}", "command": ["x"], "ours": {ours}}}"#);
    serde_json::from_str(&text).unwrap()
}

fn sample(quantity: Quantity, system: &str, round: usize, outcome: Outcome) -> Sample {
    Sample::new(quantity, system, "item", round, outcome)
}

fn samples() -> Vec<Sample> {
    let mut all = Vec::new();
    let mut add = |quantity, system: &str, values: &[f64]| {
        for (round, value) in values.iter().enumerate() {
            all.push(sample(quantity, system, round, Outcome::Measured(*value)));
        }
    };
    add(Quantity::StartSeconds, "ours", &[1.0, 1.2]);
    add(Quantity::StartSeconds, "peer", &[3.0, 2.4]);
    add(Quantity::ShortSeconds, "ours", &[0.5, 1.0, 0.75]);
    add(Quantity::ShortSeconds, "peer", &[1.0, 2.0, 1.5]);
    add(Quantity::BurstSeconds, "ours", &[30.0]);
    add(Quantity::BurstSeconds, "peer", &[90.0]);
    add(Quantity::IdleCommandSeconds, "ours", &[0.5, 0.5]);
    add(Quantity::BusyCommandSeconds, "ours", &[1.0, 2.0]);
    add(Quantity::IdleMebibytes, "ours", &[400.0]);
    let edits = [("ours", 1), ("peer", 2)];
    for sample in all
        .iter_mut()
        .filter(|sample| sample.quantity == Quantity::ShortSeconds)
    {
        let known = edits.iter().find(|(name, _)| *name == sample.system);
        sample.score = known.map(|(_, edits)| Score {
            edits: *edits,
            words: 20,
        });
    }
    for sample in all
        .iter_mut()
        .filter(|sample| sample.quantity == Quantity::BurstSeconds)
    {
        if sample.system == "peer" {
            sample.failures = Some(Failures {
                count: 3,
                first: "no answer".to_owned(),
            });
        }
    }
    all.push(sample(
        Quantity::LongSeconds,
        "ours",
        0,
        Outcome::Measured(60.0),
    ));
    all.push(sample(
        Quantity::LongSeconds,
        "peer",
        0,
        Outcome::MoreThan(900.0),
    ));
    all
}

fn report(samples: Vec<Sample>) -> Report {
    let folder = tempfile::tempdir().unwrap();
    let names = [("ours", true), ("peer", false), ("broken", false)];
    let systems = names.map(|(name, ours)| System::new(spec(name, ours), folder.path()));
    let choice = Choice {
        corpus: None,
        clips: 3,
        long: None,
        english_only: false,
    };
    let mut run = Run {
        client: crate::probe::client::client().unwrap(),
        systems: systems.into(),
        recordings: Recordings::load(&choice).unwrap(),
        extent: Extent {
            scenarios: Vec::new(),
            repeat: 1,
            requests: 1,
            limit: std::time::Duration::from_secs(1),
        },
        samples,
        model: "base".to_owned(),
        progress: Progress::default(),
    };
    run.leave_out(2, "it cannot be started");
    let machine = Machine {
        cpu: "A Processor".to_owned(),
        cores: 2,
        memory_mebibytes: 4096,
        kernel: "6.1".to_owned(),
        peak_gflops: 99.6,
        peak_source: "given",
    };
    let mut report = Report::of(run, machine);
    "2026-01-01T00:00:00Z".clone_into(&mut report.date);
    report.version = "0.0.0";
    report
}

#[test]
fn the_table_shows_values_comparisons_and_failures() {
    insta::assert_snapshot!("table", table::render(&report(samples())));
}

#[test]
fn a_run_without_samples_says_why() {
    let table = table::render(&report(Vec::new()));
    assert!(table.contains("broken: it cannot be started"), "{table}");
    assert!(table.contains("nothing was measured"), "{table}");
}

#[test]
fn the_picture_has_every_system_and_every_figure() {
    let svg = plot::render(&report(samples())).unwrap();
    assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
    for text in [
        "Compared with ours",
        "peer",
        "broken",
        "A short clip",
        "not measured",
        "&gt; 15.0",
    ] {
        assert!(svg.contains(text), "{text} in {svg}");
    }
    let empty = plot::render(&report(Vec::new())).unwrap();
    assert!(empty.contains("Nothing was compared"));
}

#[test]
fn the_json_report_has_every_sample_and_the_summary() {
    let folder = tempfile::tempdir().unwrap();
    let report = report(samples());
    report.write(folder.path()).unwrap();
    let text = std::fs::read_to_string(folder.path().join("bench.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        json["samples"].as_array().unwrap().len(),
        report.samples.len()
    );
    assert_eq!(json["samples"][0]["measured"], 1.0);
    assert_eq!(json["machine"]["cores"], 2);
    let short = json["summary"].as_array().unwrap();
    let short = short
        .iter()
        .find(|figure| figure["name"] == "a short clip")
        .unwrap();
    assert_eq!(short["rows"][1]["comparison"]["value"], 2.0);
    assert_eq!(json["systems"][2]["failed"], "it cannot be started");
    assert!(folder.path().join("bench.svg").exists());
}
