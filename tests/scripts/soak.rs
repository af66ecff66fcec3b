//! How `scripts/soak` judges the samples of a run. `scripts/test` runs it with a server.

use std::fmt::Write;
use std::process::{Command, Output};

use test_support::repository;

/// The measures, with a usual value.
const MEASURES: [(&str, f64); 10] = [
    ("server_memory", 30.0),
    ("server_files", 40.0),
    ("server_threads", 10.0),
    ("workers", 2.0),
    ("worker_memory", 65.0),
    ("worker_files", 5.0),
    ("worker_threads", 4.0),
    ("ffmpeg", 1.0),
    ("temporary_files", 4.0),
    ("temporary_memory", 1.0),
];

/// Judges an hour of samples, one every 20 s. `value` returns that of a measure after this many hours.
fn judge(value: impl Fn(&str, f64, f64) -> f64, failed: u32) -> Output {
    let names = MEASURES.map(|(name, _)| name).join(",");
    let mut csv = format!("seconds,{names},requests,failed\n");
    for sample in 0..=180 {
        let seconds = f64::from(sample) * 20.0;
        write!(csv, "{seconds}").expect("writes");
        for (name, usual) in MEASURES {
            write!(csv, ",{}", value(name, usual, seconds / 3600.0)).expect("writes");
        }
        writeln!(csv, ",{},{failed}", sample * 60).expect("writes");
    }
    judge_file(&csv)
}

fn judge_file(csv: &str) -> Output {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("soak.csv");
    std::fs::write(&file, csv).expect("writes");
    let mut soak = Command::new(repository().join("scripts/soak"));
    soak.arg("--judge").arg(file).output().expect("it starts")
}

/// Long files come and go.
fn peak(hours: f64) -> f64 {
    let sample = (hours * 180.0) as u32;
    if sample.is_multiple_of(5) { 4.0 } else { 1.0 }
}

#[track_caller]
fn fails_with(output: &Output, words: &str) {
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains(&format!("FAILED: {words}")), "{text}");
}

#[test]
fn what_goes_up_and_down_or_grows_in_the_beginning_only_is_no_leak() {
    let output = judge(
        |_, usual, hours| {
            let warm_up = usual * hours.min(0.3) * 3.0;
            let peak = peak(hours);
            usual * peak + warm_up
        },
        0,
    );
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    assert!(text.ends_with("passed\n"), "{text}");
}

#[test]
fn steady_growth_of_any_measure_is_a_leak_even_among_peaks() {
    for (grown, _) in MEASURES {
        let output = judge(
            |name, usual, hours| {
                let peak = peak(hours);
                let leak = if name == grown { 120.0 * hours } else { 0.0 };
                usual * peak + leak
            },
            0,
        );
        fails_with(&output, &format!("{grown} grew by "));
    }
}

#[test]
fn a_failed_request_and_too_few_samples_fail_the_run() {
    let flat = |_: &str, usual: f64, _: f64| usual;
    fails_with(&judge(flat, 1), "1 requests failed");
    let names = MEASURES.map(|(name, _)| name).join(",");
    let head = format!("seconds,{names},requests,failed\n");
    fails_with(&judge_file(&head), "there are no samples");
    let row = format!("0,{},1,0\n", MEASURES.map(|_| "1").join(","));
    fails_with(
        &judge_file(&(head + &row)),
        "the second half has 0 samples under load",
    );
}
