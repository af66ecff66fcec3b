//! Draws the curve: word errors above, escalated audio and cost below.

use std::ops::Range;

use anyhow::anyhow;
use plotters::prelude::*;
use plotters::style::text_anchor::HPos;

use crate::curve::{Curve, Point, Report};
use uttera_stt_tools::probe::drawing::{Area, COLOURS, Drawn, FAINT, INK, MUTED, Paper};

const WIDTH: u32 = 860;
const HEIGHT: u32 = 760;
/// Width of the margin with the curves' names.
const RIGHT: u32 = 210;
/// Range of the threshold axis: hardly any text has a lower confidence.
const SHOWN: Range<f64> = 0.4..1.0;
/// Minimum distance between the names of two lines.
const LINE_HEIGHT: i32 = 16;

/// A line: its name, its colour, whether it is dashed, and its points.
struct Line {
    name: String,
    colour: RGBColor,
    broken: bool,
    points: Vec<(f64, f64)>,
}

/// Draws the first curve as SVG. `marked` has the thresholds to label, with their names.
///
/// # Errors
/// Drawing fails.
pub fn render(report: &Report, marked: &[(f64, String)]) -> anyhow::Result<String> {
    let curve = report.curves.first();
    let curve = curve.ok_or_else(|| anyhow!("there is no curve"))?;
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (WIDTH, HEIGHT)).into_drawing_area();
        let drawn = all(&area, report, curve, marked);
        drawn.map_err(|error| anyhow!("cannot draw the picture: {error}"))?;
    }
    Ok(svg)
}

fn all<'a>(area: &Area<'a>, report: &Report, curve: &Curve, marked: &[(f64, String)]) -> Drawn<'a> {
    area.fill(&WHITE)?;
    let (heads, panels) = area.split_vertically(56);
    let [small, large] = &report.models;
    let title = format!("From {small} to {large} by confidence");
    let heads = Paper(heads);
    heads.text(&title, (24, 22), 18, INK, HPos::Left)?;
    let explained = format!(
        "{} clips, {} words; shaded: 95 % interval of the difference to {large} alone",
        report.clips, report.words
    );
    heads.text(&explained, (24, 44), 13, MUTED, HPos::Left)?;
    let (above, below) = panels.split_vertically((HEIGHT as i32 - 56) * 6 / 11);
    word_errors(&above, report, curve, marked)?;
    shares(&below, report, curve, marked)?;
    area.present()
}

fn word_errors<'a>(
    area: &Area<'a>,
    report: &Report,
    curve: &Curve,
    marked: &[(f64, String)],
) -> Drawn<'a> {
    let [small, large] = &report.models;
    let level = |name: String, value: f64| Line {
        name,
        colour: MUTED,
        broken: true,
        points: vec![(SHOWN.start, value), (SHOWN.end, value)],
    };
    let lines = [
        line("by confidence", COLOURS[0], curve, |point| {
            point.word_errors.value
        }),
        line("by chance, same cost", COLOURS[1], curve, |point| {
            point.by_chance
        }),
        level(format!("{small} alone"), report.small.value),
        level(format!("{large} alone"), report.large.value),
        level("better one of each clip".to_owned(), report.oracle.value),
    ];
    // The interval of the difference, because clips are hard or easy for both models, which says nothing about either.
    let at = |value: f64| report.large.value + value;
    let bounds: Vec<(f64, (f64, f64))> = shown(curve)
        .filter_map(|point| {
            let (low, high) = point.to_large.bounds?;
            Some((f64::from(point.threshold), (at(low), at(high))))
        })
        .collect();
    let ends = bounds.iter().flat_map(|(_, (low, high))| [*low, *high]);
    let ends = ends.chain(
        lines
            .iter()
            .flat_map(|line| line.points.iter().map(|p| p.1)),
    );
    let (low, high) = ends.fold((f64::INFINITY, 0.0_f64), |(low, high), end| {
        (low.min(end), high.max(end))
    });
    let band = (bounds.iter().map(|(x, (low, _))| (*x, *low)))
        .chain(bounds.iter().rev().map(|(x, (_, high))| (*x, *high)));
    let range = (low - 0.5).floor().max(0.0)..(high + 0.2).ceil();
    panel(
        area,
        "Words wrong, %",
        range,
        band.collect(),
        &lines,
        marked,
    )
}

fn shares<'a>(
    area: &Area<'a>,
    report: &Report,
    curve: &Curve,
    marked: &[(f64, String)],
) -> Drawn<'a> {
    let cost = format!("inference, of {}'s alone", report.models[1]);
    let lines = [
        line("clips passed on", COLOURS[0], curve, |point| {
            100.0 * point.clips
        }),
        line("audio passed on", COLOURS[3], curve, |point| {
            100.0 * point.audio
        }),
        line(&cost, COLOURS[2], curve, |point| 100.0 * point.cost),
    ];
    let values = lines.iter().flat_map(|line| &line.points);
    let high = values.map(|point| point.1).fold(100.0, f64::max);
    let title = "Passed on, and what both models cost, %";
    panel(area, title, 0.0..high + 5.0, Vec::new(), &lines, marked)
}

fn shown(curve: &Curve) -> impl Iterator<Item = &Point> {
    let points = curve.points.iter();
    points.filter(|point| f64::from(point.threshold) > SHOWN.start - 1e-6)
}

fn line(name: &str, colour: RGBColor, curve: &Curve, value: fn(&Point) -> f64) -> Line {
    let points = shown(curve).map(|point| (f64::from(point.threshold), value(point)));
    Line {
        name: name.to_owned(),
        colour,
        broken: false,
        points: points.collect(),
    }
}

fn panel<'a>(
    area: &Area<'a>,
    title: &str,
    down: Range<f64>,
    band: Vec<(f64, f64)>,
    lines: &[Line],
    marked: &[(f64, String)],
) -> Drawn<'a> {
    let mut chart = ChartBuilder::on(area)
        .margin_top(50)
        .margin_left(12)
        .margin_right(RIGHT)
        .x_label_area_size(42)
        .y_label_area_size(44)
        .build_cartesian_2d(SHOWN, down.clone())?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(WHITE)
        .bold_line_style(FAINT)
        .axis_style(FAINT)
        .label_style(("sans-serif", 12).into_font().color(&MUTED))
        .x_desc("CONF_LOGPROB_THRESHOLD")
        .y_label_formatter(&|value| ((value * 10.0).round() / 10.0).to_string())
        .x_label_formatter(&|value| format!("{value:.1}"))
        .draw()?;
    if !band.is_empty() {
        let shade = COLOURS[0].mix(0.15).filled();
        chart.draw_series([Polygon::new(band, shade)])?;
    }
    for (at, _) in marked {
        let upright = [(*at, down.start), (*at, down.end)];
        chart.draw_series(DashedLineSeries::new(upright, 2, 3, INK.stroke_width(1)))?;
    }
    for Line {
        colour,
        broken,
        points,
        ..
    } in lines
    {
        let points = points.iter().copied();
        if *broken {
            chart.draw_series(DashedLineSeries::new(points, 6, 4, colour.stroke_width(1)))?;
        } else {
            chart.draw_series(LineSeries::new(points, colour.stroke_width(2)))?;
        }
    }
    let (corner, _) = area.get_pixel_range();
    let top = area.get_pixel_range().1.start;
    let place = |point: (f64, f64)| {
        let (x, y) = chart.backend_coord(&point);
        (x - corner.start, y - top)
    };
    let paper = Paper(area.clone());
    paper.text(title, (24, 20), 14, INK, HPos::Left)?;
    for (at, name) in marked {
        let (x, y) = place((*at, down.end));
        paper.text(name, (x, y - 9), 12, INK, HPos::Center)?;
    }
    let ends = lines
        .iter()
        .filter_map(|line| Some((line, place(*line.points.last()?))));
    for (line, at) in apart(ends.collect()) {
        paper.text(&line.name, (at.0 + 8, at.1), 12, line.colour, HPos::Left)?;
    }
    Ok(())
}

/// From top to bottom, without overlaps.
fn apart<T>(mut places: Vec<(T, (i32, i32))>) -> Vec<(T, (i32, i32))> {
    places.sort_by_key(|(_, (_, y))| *y);
    let mut least = i32::MIN;
    for (_, (_, y)) in &mut places {
        *y = (*y).max(least);
        least = *y + LINE_HEIGHT;
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clip::tests::clip;
    use crate::curve::report;

    #[test]
    fn names_are_moved_apart_in_their_order() {
        let places = vec![("b", (9, 12)), ("c", (9, 60)), ("a", (9, 10))];
        let moved = [("a", (9, 10)), ("b", (9, 26)), ("c", (9, 60))];
        assert_eq!(apart(places), moved);
    }

    #[test]
    fn the_picture_names_what_it_shows() {
        let clips = [
            clip("a b c", [("a b x", 0.4), ("a b c", 0.9)]),
            clip("a b c", [("a b c", 0.9), ("a x c", 0.9)]),
        ];
        let models = ["tiny".to_owned(), "base".to_owned()];
        let found = report(models, &clips, &[0.4, 0.5, 1.0], &[0]).unwrap();
        let svg = render(&found, &[(0.5, "default".to_owned())]).unwrap();
        for text in [
            "tiny alone",
            "base alone",
            "by chance, same cost",
            "default",
            "2 clips, 6 words",
        ] {
            assert!(svg.contains(text), "{text}");
        }
    }
}
