//! The report as text in aligned columns.

use std::fmt::Write;

use super::figures::{Figure, Kind, Row, Unit};
use super::report::Report;

/// Renders the whole report.
pub fn render(report: &Report) -> String {
    let mut out = heading(report);
    for system in &report.systems {
        if let Some(reason) = &system.failed {
            let _ = writeln!(out, "failed: {}: {reason}", system.name);
        }
    }
    let rows = || report.figures.iter().flat_map(|figure| &figure.rows);
    let width = rows()
        .map(|row| row.system.chars().count())
        .max()
        .unwrap_or(0);
    for figure in &report.figures {
        out.push('\n');
        out.push_str(&block(figure, width, report.systems.len() > 1));
    }
    if report.figures.is_empty() {
        out.push_str("\nnothing was measured\n");
    }
    out
}

fn heading(report: &Report) -> String {
    let machine = &report.machine;
    let clips = &report.recordings.short;
    let seconds: f64 = clips.iter().map(|clip| clip.seconds).sum();
    let long = &report.recordings.long;
    let long_seconds = match long.seconds {
        0.0 => String::new(),
        seconds => format!(" ({seconds:.0} s)"),
    };
    format!(
        "uttera-stt {}, model {}, {}\n\
         {}, {} cores, {} MiB of memory, Linux {}, {:.0} GFLOP/s in f32 ({})\n\
         {}: {} clips, {seconds:.0} s in total; long file {}{long_seconds}\n",
        report.version,
        report.model,
        report.date,
        machine.cpu,
        machine.cores,
        machine.memory_mebibytes,
        machine.kernel,
        machine.peak_gflops,
        machine.peak_source,
        report.recordings.source,
        clips.len(),
        long.name,
    )
}

fn block(figure: &Figure, width: usize, compared: bool) -> String {
    let mut out = figure.name.clone();
    if compared {
        out.push_str(match figure.kind {
            Kind::BootstrapRatio | Kind::RangeRatio if !figure.is_bounded() => " (ratio)",
            Kind::BootstrapRatio => " (ratio, 95 % interval)",
            Kind::RangeRatio => " (ratio, minimum to maximum of the rounds)",
            Kind::PlainRatio => " (ratio)",
            Kind::BootstrapPoints => " (difference in points, 95 % interval)",
        });
    }
    out.push('\n');
    for row in &figure.rows {
        let line = format!(
            "  {:<width$}  {:>14}  {:<28}  {}",
            row.system,
            value(row, figure.unit),
            comparison(row, figure.kind),
            row.note.as_deref().unwrap_or_default(),
        );
        let _ = writeln!(out, "{}", line.trim_end());
    }
    out
}

fn value(row: &Row, unit: Unit) -> String {
    let Some(value) = row.value else {
        return "-".to_owned();
    };
    let text = match unit {
        Unit::Seconds if value < 0.1 => format!("{:.1} ms", 1000.0 * value),
        Unit::Seconds if value < 10.0 => format!("{value:.2} s"),
        Unit::Seconds => format!("{value:.1} s"),
        Unit::Mebibytes => format!("{value:.0} MiB"),
        Unit::Percent => format!("{value:.2} %"),
        Unit::Times => format!("{value:.2}"),
    };
    if row.more_than {
        format!("> {text}")
    } else {
        text
    }
}

fn comparison(row: &Row, kind: Kind) -> String {
    let Some(compared) = row.comparison else {
        return String::new();
    };
    let number = |value: f64| match kind {
        Kind::BootstrapPoints => format!("{value:+.2}"),
        _ if value < 10.0 => format!("{value:.2}"),
        _ => format!("{value:.1}"),
    };
    let more = if row.more_than { "> " } else { "" };
    let sign = if kind == Kind::BootstrapPoints {
        ""
    } else {
        "×"
    };
    match compared.bounds {
        Some((low, high)) => {
            format!(
                "{more}{sign}{} ({} to {})",
                number(compared.value),
                number(low),
                number(high)
            )
        }
        None => format!("{more}{sign}{}", number(compared.value)),
    }
}
