//! The report's three forms, rendered from invented steps.

use std::time::Duration;

use super::baseline::Baseline;
use super::report::Report;
use super::run::{Extent, Run};
use super::step::{Sample, Step};
use super::{plot, table};
use crate::probe::progress::Progress;
use crate::probe::server::Server;
use crate::probe::speech::COMMAND;
use crate::probe::transcript::{Endpoint, Failure, FailureKind, Work};

fn sample(seconds: f64, used: Option<bool>) -> Sample {
    Sample {
        seconds,
        answer: Ok(Work {
            queue_wait_ms: Some(seconds * 100.0),
            primary_infer_ms: Some(80.0),
            fallback_infer_ms: used.filter(|used| *used).map(|_| 500.0),
            route: Some("HOT".to_owned()),
            fallback_used: used,
            ..Work::default()
        }),
        audio_seconds: Some(2.0),
    }
}

fn refused() -> Sample {
    Sample {
        seconds: 0.01,
        answer: Err(Failure {
            kind: FailureKind::Status(503),
            message: "503 Service Unavailable: \x1b[2Jbusy".to_owned(),
        }),
        audio_seconds: Some(2.0),
    }
}

fn steps() -> Vec<Step> {
    let at = |clients: usize, seconds: f64| {
        let samples = [sample(seconds, Some(false)), sample(seconds, Some(true))];
        // Little's law: mean time is the number of clients divided by throughput.
        let together = 2.0 * seconds / clients as f64;
        Step::of(clients, &samples, together, false)
    };
    let broken = Step::of(8, &[sample(0.5, None), refused(), refused()], 1.0, true);
    vec![at(1, 0.1), at(2, 0.1), at(4, 0.2), broken]
}

fn report(steps: Vec<Step>, by_signal: bool) -> Report {
    let run = Run {
        server: Server::new("http://node:8081".to_owned(), None).unwrap(),
        endpoint: Endpoint::Transcribe,
        recordings: vec![COMMAND.into()],
        extent: Extent {
            steps: Vec::new(),
            length: None,
            requests: None,
            most_failed_percent: 10,
            limit: Duration::from_secs(1),
        },
        steps,
        progress: Progress::default(),
    };
    let mut report = Report::of(run, Some("base".to_owned()), by_signal);
    "2026-01-01T00:00:00Z".clone_into(&mut report.date);
    report.version = "0.0.0";
    report
}

#[test]
fn the_table_shows_times_routes_failures_and_the_knee() {
    insta::assert_snapshot!("table", table::render(&report(steps(), false)));
}

#[test]
fn a_run_that_ended_immediately_says_so() {
    let table = table::render(&report(Vec::new(), true));
    assert!(
        table.contains("ended early by a signal\nno knee"),
        "{table}"
    );
}

#[test]
fn the_advice_says_if_the_steps_do_not_go_far_enough() {
    let advice = |steps: &[Step]| report(steps.to_vec(), false).advice();
    let steps = steps();
    assert!(advice(&steps[..3]).ends_with("the knee is at 2 clients: MAX_CONCURRENCY=2"));
    assert!(advice(&steps[..2]).contains("--concurrency …,4"));
    assert!(advice(&steps[1..3]).contains("it may be lower"));
    assert!(advice(&steps[..1]).starts_with("no knee"));
}

#[test]
fn the_picture_has_both_panels_every_curve_and_the_knee() {
    let svg = plot::render(&report(steps(), false)).unwrap();
    assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
    for text in [
        "Load on http://node:8081/v1/transcribe",
        "Transcripts a second",
        "95th percentile",
        "queue wait, 95th",
        "knee",
    ] {
        assert!(svg.contains(text), "{text} in {svg}");
    }
    let empty = plot::render(&report(Vec::new(), false)).unwrap();
    assert!(empty.contains("Nothing was measured."));
    plot::render(&report(steps()[..1].to_vec(), false)).unwrap();
}

#[test]
fn the_json_report_contains_what_the_table_shows() {
    let json: serde_json::Value =
        serde_json::from_str(&report(steps(), false).json().unwrap()).unwrap();
    assert_eq!(json["knee"]["clients"], 2);
    assert_eq!(json["knee"]["bound"], "within");
    assert_eq!(json["ended"], "too_many_failures");
    assert_eq!(json["endpoint"], "transcribe");
    assert_eq!(json["steps"][3]["failures"]["503"]["count"], 2);
    assert_eq!(json["steps"][0]["fallback"]["used"], 1);
    assert_eq!(json["steps"][0]["queue_wait_ms"]["p95"], 10.0);
}

#[test]
fn a_run_is_compared_with_an_earlier_one_step_by_step() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("load.json");
    std::fs::write(&file, report(steps(), false).json().unwrap()).unwrap();
    let baseline = Baseline::read(&file).unwrap();
    let same = baseline.compare(&report(steps(), false), 1.5).unwrap();
    assert!(same.passed, "{}", same.text);
    assert_eq!(same.text.lines().count(), 4, "{}", same.text);
    // Of one step, half as slow again and a little more; the others are as before.
    let slower = |seconds| vec![Step::of(1, &[sample(seconds, None)], seconds, false)];
    let comparison = baseline.compare(&report(slower(0.16), false), 1.5).unwrap();
    assert!(
        !comparison.passed && comparison.text.contains("1.60"),
        "{}",
        comparison.text
    );
    assert!(
        baseline
            .compare(&report(slower(0.16), false), 1.7)
            .unwrap()
            .passed
    );
    // Nothing but refusals is worse than slow.
    let none = vec![Step::of(2, &[refused()], 1.0, false)];
    assert!(!baseline.compare(&report(none, false), 9.0).unwrap().passed);
    // What cannot be compared is an error and not a success.
    let other = vec![Step::of(3, &[sample(0.1, None)], 0.1, false)];
    assert!(baseline.compare(&report(other, false), 1.5).is_err());
    std::fs::write(&file, "{}").unwrap();
    assert!(Baseline::read(&file).is_err());
}
