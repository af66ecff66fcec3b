//! The report as a picture: throughput at the top, times below, by number of clients.

use std::ops::Range;

use anyhow::anyhow;
use plotters::prelude::*;
use plotters::style::text_anchor::HPos;

use super::report::Report;
use super::step::{Step, Times};
use crate::probe::drawing::{COLOURS, Drawn, FAINT, INK, MUTED, Paper};

const WIDTH: i32 = 760;
const HEIGHT: i32 = 640;
/// Horizontal range of the curves; the numbers of the scale are left of it, the names of the curves right.
const ACROSS: Range<i32> = 90..590;
const THROUGHPUT: Range<i32> = 90..270;
const TIMES: Range<i32> = 340..580;
/// Number of grid lines above the one at 0.
const GRID_LINES: i32 = 4;

/// A curve: its name, and its value at each step, if the step has one.
struct Curve {
    name: &'static str,
    values: Vec<Option<f64>>,
}

/// Renders the picture as SVG.
///
/// # Errors
/// The backend cannot draw.
pub fn render(report: &Report) -> anyhow::Result<String> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (WIDTH as u32, HEIGHT as u32));
        let picture = Picture {
            paper: Paper(area.into_drawing_area()),
            steps: &report.steps,
            knee: report.knee.map(|knee| knee.clients),
        };
        let title = format!("Load on {}{}", report.url, report.endpoint.path());
        let drawn = picture.all(&title);
        drawn.map_err(|error| anyhow!("the picture cannot be drawn: {error}"))?;
    }
    Ok(svg)
}

struct Picture<'a, 'r> {
    paper: Paper<'a>,
    steps: &'r [Step],
    knee: Option<usize>,
}

impl<'a> Picture<'a, '_> {
    fn all(&self, title: &str) -> Drawn<'a> {
        self.paper.0.fill(&WHITE)?;
        self.paper.text(title, (24, 26), 18, INK, HPos::Left)?;
        if self.steps.is_empty() {
            return self
                .paper
                .text("Nothing was measured.", (24, 56), 13, MUTED, HPos::Left);
        }
        let throughput = [self.curve("requests/s", |step| Some(step.requests_per_second))];
        self.panel("Transcripts a second", &THROUGHPUT, &throughput)?;
        let end_to_end = |pick: fn(Times) -> f64| move |step: &Step| step.end_to_end_ms.map(pick);
        let times = [
            self.curve("median", end_to_end(|times| times.p50)),
            self.curve("95th percentile", end_to_end(|times| times.p95)),
            self.curve("99th percentile", end_to_end(|times| times.p99)),
            self.curve("queue wait, 95th", |step| {
                step.queue_wait_ms.map(|times| times.p95)
            }),
        ];
        self.panel("Milliseconds from request to transcript", &TIMES, &times)?;
        let below = (i32::midpoint(ACROSS.start, ACROSS.end), TIMES.end + 42);
        self.paper.text("clients", below, 13, MUTED, HPos::Center)?;
        self.paper.0.present()
    }

    fn curve(&self, name: &'static str, value: impl Fn(&Step) -> Option<f64>) -> Curve {
        let values = self.steps.iter().map(value).collect();
        Curve { name, values }
    }

    fn panel(&self, title: &str, down: &Range<i32>, curves: &[Curve]) -> Drawn<'a> {
        self.paper
            .text(title, (ACROSS.start, down.start - 18), 14, INK, HPos::Left)?;
        let values = curves.iter().flat_map(|curve| &curve.values).flatten();
        let top = round_up(values.copied().fold(0.0, f64::max));
        self.grid(down, top)?;
        self.knee(down)?;
        for (index, curve) in curves.iter().enumerate() {
            let colour = COLOURS[index % COLOURS.len()];
            self.draw(curve, down, top, colour)?;
            let at = (ACROSS.end + 26, down.start + 8 + 20 * index as i32);
            if curve.values.iter().any(Option::is_some) {
                self.paper.text(curve.name, at, 12, colour, HPos::Left)?;
            }
        }
        Ok(())
    }

    fn grid(&self, down: &Range<i32>, top: f64) -> Drawn<'a> {
        for line in 0..=GRID_LINES {
            let value = top * f64::from(line) / f64::from(GRID_LINES);
            let y = y(down, top, value);
            self.paper
                .line(&[(ACROSS.start, y), (ACROSS.end, y)], FAINT, 1)?;
            let at = (ACROSS.start - 10, y);
            self.paper
                .text(&number(value), at, 12, MUTED, HPos::Right)?;
        }
        for (index, step) in self.steps.iter().enumerate() {
            let at = (self.x(index), down.end + 16);
            self.paper
                .text(&step.clients.to_string(), at, 12, MUTED, HPos::Center)?;
        }
        Ok(())
    }

    fn knee(&self, down: &Range<i32>) -> Drawn<'a> {
        let at = |step: &Step| Some(step.clients) == self.knee;
        let Some(index) = self.steps.iter().position(at) else {
            return Ok(());
        };
        let x = self.x(index);
        self.paper
            .line(&[(x, down.start), (x, down.end)], MUTED, 1)?;
        self.paper
            .text("knee", (x + 6, down.start + 4), 12, MUTED, HPos::Left)
    }

    /// Draws a line from step to step, with gaps at steps without a value.
    fn draw(&self, curve: &Curve, down: &Range<i32>, top: f64, colour: RGBColor) -> Drawn<'a> {
        let points: Vec<Option<(i32, i32)>> = (curve.values.iter().enumerate())
            .map(|(index, value)| value.map(|value| (self.x(index), y(down, top, value))))
            .collect();
        for pair in points.windows(2) {
            if let [Some(from), Some(to)] = pair {
                self.paper.line(&[*from, *to], colour, 2)?;
            }
        }
        for point in points.into_iter().flatten() {
            self.paper.0.draw(&Circle::new(point, 3, colour.filled()))?;
        }
        Ok(())
    }

    /// Steps usually double, so they are drawn at equal distances.
    fn x(&self, index: usize) -> i32 {
        let gaps = self.steps.len().saturating_sub(1).max(1) as i32;
        ACROSS.start + (ACROSS.end - ACROSS.start) * index as i32 / gaps
    }
}

fn y(down: &Range<i32>, top: f64, value: f64) -> i32 {
    let height = f64::from(down.end - down.start);
    down.end - (height * value / top).round() as i32
}

/// Rounds up to the next 1, 2, 4 or 8 times a power of ten, so that quarters of it are short numbers.
fn round_up(value: f64) -> f64 {
    if !value.is_finite() || value <= 0.0 {
        return 1.0;
    }
    let power = 10_f64.powf(value.log10().floor());
    let steps = [1.0, 2.0, 4.0, 8.0, 10.0].map(|step| step * power);
    let enough = steps.into_iter().find(|step| *step >= value);
    enough.unwrap_or(10.0 * power)
}

fn number(value: f64) -> String {
    let rounded = (value * 1000.0).round() / 1000.0;
    rounded.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_end_at_round_numbers() {
        let expected = [(0.0, 1.0), (0.3, 0.4), (1.0, 1.0), (3.1, 4.0), (9.9, 10.0)];
        for (value, top) in expected {
            assert!((round_up(value) - top).abs() < 1e-9, "{value}");
        }
        assert!((round_up(812.0) - 1000.0).abs() < 1e-9);
        assert_eq!(
            (number(0.25).as_str(), number(1000.0).as_str()),
            ("0.25", "1000")
        );
    }
}
