//! The report as a table with a row per step.

use std::fmt::Write;

use super::report::{Ended, Report};
use super::step::{Step, Times};
use crate::probe::counted;
use crate::probe::outcome::one_line;
use crate::probe::transcript::FallbackUse;

const HEADS: [&str; 10] = [
    "clients",
    "requests",
    "failed",
    "requests/s",
    "audio s/s",
    "end to end",
    "queue wait",
    "primary",
    "fallback",
    "fallback used",
];
/// Stands for an unknown value.
const UNKNOWN: &str = "-";

/// Renders the whole report.
pub fn render(report: &Report) -> String {
    let mut out = heading(report);
    let knee = report.knee.map(|knee| knee.clients);
    let rows: Vec<[String; 10]> = report.steps.iter().map(row).collect();
    let widths = widths(&rows);
    // Writing to a string cannot fail.
    let _ = writeln!(out, "\n{}", aligned(&HEADS.map(str::to_owned), &widths));
    for (step, row) in report.steps.iter().zip(&rows) {
        let mark = match step {
            _ if knee == Some(step.clients) => "  <- knee",
            step if step.stopped => "  <- ended: too many failed",
            _ => "",
        };
        let _ = writeln!(out, "{}{mark}", aligned(row, &widths));
    }
    out.push('\n');
    for step in &report.steps {
        out.push_str(&notes(step));
    }
    let _ = match report.ended {
        Ended::Finished => Ok(()),
        Ended::TooManyFailures => writeln!(out, "ended early: too many requests failed"),
        Ended::Signal => writeln!(out, "ended early by a signal"),
    };
    let _ = writeln!(out, "{}", report.advice());
    out
}

fn heading(report: &Report) -> String {
    let count = report.recordings.len();
    let seconds: f64 = report.recordings.iter().map(|r| r.seconds).sum();
    let model = report.model.as_deref().unwrap_or("unknown");
    format!(
        "uttera-stt load {}, {}{}, model {}, {}\n\
         recordings: {count}, {seconds:.1} s in total; times in ms: median/95th/99th percentile\n",
        report.version,
        report.url,
        report.endpoint.path(),
        one_line(model),
        report.date,
    )
}

fn row(step: &Step) -> [String; 10] {
    let audio = step.audio_seconds_per_second;
    [
        step.clients.to_string(),
        step.requests.to_string(),
        step.failed.to_string(),
        format!("{:.2}", step.requests_per_second),
        audio.map_or(UNKNOWN.to_owned(), |audio| format!("{audio:.1}")),
        times(step.end_to_end_ms),
        times(step.queue_wait_ms),
        times(step.primary_infer_ms),
        times(step.fallback_infer_ms),
        share(step.fallback),
    ]
}

fn times(times: Option<Times>) -> String {
    times.map_or(UNKNOWN.to_owned(), |times| {
        format!("{:.0}/{:.0}/{:.0}", times.p50, times.p95, times.p99)
    })
}

fn share(fallback: Option<FallbackUse>) -> String {
    let percent = fallback.and_then(FallbackUse::percent);
    percent.map_or(UNKNOWN.to_owned(), |percent| format!("{percent:.0} %"))
}

fn widths(rows: &[[String; 10]]) -> [usize; 10] {
    let mut widths = HEADS.map(|head| head.chars().count());
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    widths
}

fn aligned(row: &[String; 10], widths: &[usize; 10]) -> String {
    let cells = row.iter().zip(widths);
    let cells = cells.map(|(cell, &width)| format!("{cell:>width$}"));
    cells.collect::<Vec<_>>().join("  ")
}

/// Notes on a step that do not fit in a row.
fn notes(step: &Step) -> String {
    let mut out = String::new();
    let at = counted(step.clients, "client");
    if !step.routes.is_empty() {
        let routes = step.routes.iter();
        let routes = routes.map(|(route, count)| format!("{} {count}", one_line(route)));
        let routes = routes.collect::<Vec<_>>().join(", ");
        let _ = writeln!(out, "{at}, routes: {routes}");
    }
    for (kind, found) in &step.failures {
        let (count, first) = (found.count, one_line(&found.first));
        let _ = writeln!(out, "{at}, {count} failed ({kind}): {first}");
    }
    if let Some(failed) = step
        .fallback
        .map(|fallback| fallback.failed)
        .filter(|n| *n > 0)
    {
        let _ = writeln!(out, "{at}, the fallback failed {failed} times");
    }
    out
}
