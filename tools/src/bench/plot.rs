//! The report as a picture: bars on a logarithmic scale compare the other systems with ours.

use anyhow::anyhow;
use plotters::prelude::*;
use plotters::style::text_anchor::HPos;

use super::figures::{Figure, Kind, Row, Unit};
use super::report::Report;
use crate::probe::drawing::{COLOURS, Drawn, FAINT, INK, MUTED, Paper};

const WIDTH: i32 = 960;
/// Horizontal range of the bars; names are left of it, values right.
const BARS: std::ops::Range<i32> = 220..770;
const TOP: i32 = 84;
const BOTTOM: i32 = 46;
const TITLE_HEIGHT: i32 = 24;
const ROW_HEIGHT: i32 = 19;
const GROUP_GAP: i32 = 10;
const BAR_THICKNESS: i32 = 11;
/// Values of each decade that get a line.
const STEPS: [f64; 3] = [1.0, 2.0, 5.0];

/// Renders the picture as SVG.
pub fn render(report: &Report) -> anyhow::Result<String> {
    let figures: Vec<&Figure> = report
        .figures
        .iter()
        .filter(|figure| is_drawn(figure))
        .collect();
    let ours = report.systems.iter().find(|system| system.ours);
    let ours = ours
        .or(report.systems.first())
        .map_or("", |system| system.name.as_str());
    let others: Vec<&str> = report
        .systems
        .iter()
        .map(|s| s.name.as_str())
        .filter(|name| *name != ours)
        .collect();
    let height = TOP
        + BOTTOM
        + figures
            .iter()
            .map(|_| group_height(others.len()))
            .sum::<i32>();
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (WIDTH as u32, height as u32));
        let canvas = Canvas {
            paper: Paper(area.into_drawing_area()),
            scale: Scale::of(&figures),
        };
        let drawn = canvas.all(&figures, ours, &others, height);
        drawn.map_err(|error| anyhow!("the picture cannot be drawn: {error}"))?;
    }
    Ok(svg)
}

/// Draws only ratios, because percentage points need another scale.
fn is_drawn(figure: &Figure) -> bool {
    matches!(figure.unit, Unit::Seconds | Unit::Mebibytes) && figure.kind != Kind::BootstrapPoints
}

fn group_height(rows: usize) -> i32 {
    TITLE_HEIGHT + ROW_HEIGHT * rows as i32 + GROUP_GAP
}

/// Maps ratios to horizontal positions.
#[derive(Clone, Copy, Debug)]
struct Scale {
    low: f64,
    high: f64,
}

impl Scale {
    /// A scale that contains all bars and their bounds, with a margin on both sides of 1.
    fn of(figures: &[&Figure]) -> Self {
        let rows = figures.iter().flat_map(|figure| &figure.rows);
        let compared = rows.filter_map(|row| row.comparison);
        let ends =
            compared.flat_map(|c| [Some(c.value), c.bounds.map(|b| b.0), c.bounds.map(|b| b.1)]);
        let ends: Vec<f64> = ends
            .flatten()
            .filter(|end| end.is_finite() && *end > 0.0)
            .collect();
        let low = ends.iter().copied().fold(0.8, f64::min) / 1.1;
        let high = ends.iter().copied().fold(2.0, f64::max) * 1.1;
        Self { low, high }
    }

    fn x(self, ratio: f64) -> i32 {
        let share = (ratio / self.low).ln() / (self.high / self.low).ln();
        let width = f64::from(BARS.end - BARS.start);
        BARS.start + (share.clamp(0.0, 1.0) * width).round() as i32
    }

    /// Positions of the lines: 0.5, 1, 2, 5, 10 and so on.
    fn ticks(self) -> Vec<f64> {
        let powers = (-6..7).map(|power| 10_f64.powi(power));
        let all = powers.flat_map(|power| STEPS.map(|step| step * power));
        all.filter(|tick| (self.low..=self.high).contains(tick))
            .collect()
    }
}

struct Canvas<'a> {
    paper: Paper<'a>,
    scale: Scale,
}

impl<'a> Canvas<'a> {
    fn all(&self, figures: &[&Figure], ours: &str, others: &[&str], height: i32) -> Drawn<'a> {
        self.paper.0.fill(&WHITE)?;
        self.paper.text(
            &format!("Compared with {ours}"),
            (24, 26),
            20,
            INK,
            HPos::Left,
        )?;
        let legend = "Ratio to this system on a logarithmic scale: right of 1 the other system \
                      needs more time or memory, left of 1 less.";
        self.paper.text(legend, (24, 50), 13, MUTED, HPos::Left)?;
        if others.is_empty() || figures.is_empty() {
            return self
                .paper
                .text("Nothing was compared.", (24, 74), 13, MUTED, HPos::Left);
        }
        self.grid(height)?;
        let mut top = TOP;
        for figure in figures {
            self.group(figure, others, top)?;
            top += group_height(others.len());
        }
        self.paper.line(
            &[
                (self.scale.x(1.0), TOP - 4),
                (self.scale.x(1.0), height - BOTTOM),
            ],
            INK,
            1,
        )?;
        self.paper.0.present()
    }

    fn grid(&self, height: i32) -> Drawn<'a> {
        for tick in self.scale.ticks() {
            let x = self.scale.x(tick);
            self.paper
                .line(&[(x, TOP - 4), (x, height - BOTTOM)], FAINT, 1)?;
            self.paper.text(
                &format!("{tick}"),
                (x, height - BOTTOM + 14),
                12,
                MUTED,
                HPos::Center,
            )?;
        }
        Ok(())
    }

    fn group(&self, figure: &Figure, others: &[&str], top: i32) -> Drawn<'a> {
        let bounds = match figure.kind {
            _ if !figure.is_bounded() => "",
            Kind::BootstrapRatio => ", 95 % interval",
            Kind::RangeRatio => ", minimum to maximum",
            Kind::PlainRatio | Kind::BootstrapPoints => "",
        };
        let title = format!("{}{bounds}", capitalised(&figure.name));
        // A white background keeps the lines of the scale out of the title.
        let end = 30 + title.chars().count() as i32 * 8;
        let paper = Rectangle::new([(20, top), (end, top + TITLE_HEIGHT - 3)], WHITE.filled());
        self.paper.0.draw(&paper)?;
        self.paper
            .text(&title, (24, top + 11), 14, INK, HPos::Left)?;
        for (index, name) in others.iter().enumerate() {
            let middle = top + TITLE_HEIGHT + ROW_HEIGHT * index as i32 + ROW_HEIGHT / 2;
            self.paper
                .text(name, (BARS.start - 12, middle), 12, INK, HPos::Right)?;
            let row = figure.rows.iter().find(|row| row.system == *name);
            self.row(row, middle, COLOURS[index % COLOURS.len()])?;
        }
        Ok(())
    }

    fn row(&self, row: Option<&Row>, middle: i32, colour: RGBColor) -> Drawn<'a> {
        let one = self.scale.x(1.0);
        let Some((row, compared)) = row.and_then(|row| Some((row, row.comparison?))) else {
            return self
                .paper
                .text("not measured", (one + 8, middle), 12, MUTED, HPos::Left);
        };
        let tip = self.scale.x(compared.value);
        let half = BAR_THICKNESS / 2;
        let corners = [(one.min(tip), middle - half), (one.max(tip), middle + half)];
        self.paper
            .0
            .draw(&Rectangle::new(corners, colour.filled()))?;
        let mut right = one.max(tip);
        if let Some((low, high)) = compared.bounds {
            let (low, high) = (self.scale.x(low), self.scale.x(high));
            self.paper.line(&[(low, middle), (high, middle)], INK, 1)?;
            for end in [low, high] {
                self.paper
                    .line(&[(end, middle - 4), (end, middle + 4)], INK, 1)?;
            }
            right = right.max(high);
        }
        self.paper.text(
            &label(row.more_than, compared.value, compared.bounds),
            (right + 8, middle),
            12,
            INK,
            HPos::Left,
        )
    }
}

fn label(more_than: bool, value: f64, bounds: Option<(f64, f64)>) -> String {
    let number = |value: f64| {
        if value < 10.0 {
            format!("{value:.2}")
        } else {
            format!("{value:.1}")
        }
    };
    let more = if more_than { "> " } else { "" };
    match bounds {
        Some((low, high)) => format!(
            "{more}{} ({} to {})",
            number(value),
            number(low),
            number(high)
        ),
        None => format!("{more}{}", number(value)),
    }
}

fn capitalised(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().map(|first| first.to_uppercase().to_string());
    first.unwrap_or_default() + letters.as_str()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scale_is_logarithmic_and_marks_round_numbers() {
        let scale = Scale {
            low: 0.5,
            high: 50.0,
        };
        assert_eq!((scale.x(0.5), scale.x(50.0)), (BARS.start, BARS.end));
        assert_eq!(scale.x(5.0), i32::midpoint(BARS.start, BARS.end));
        assert_eq!(scale.x(1e9), BARS.end);
        let ticks: Vec<String> = scale
            .ticks()
            .iter()
            .map(|tick| format!("{tick:.1}"))
            .collect();
        assert_eq!(ticks, ["0.5", "1.0", "2.0", "5.0", "10.0", "20.0", "50.0"]);
    }

    #[test]
    fn values_are_labelled_with_their_bounds() {
        assert_eq!(
            label(false, 1.234, Some((1.0, 12.34))),
            "1.23 (1.00 to 12.3)"
        );
        assert_eq!(label(true, 20.0, None), "> 20.0");
        assert_eq!(capitalised("a clip"), "A clip");
    }
}
