//! What pictures have in common: colours, lines and texts.

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// Of what is to be read first.
pub const INK: RGBColor = RGBColor(38, 42, 48);
/// Of grids.
pub const FAINT: RGBColor = RGBColor(222, 225, 229);
/// Of what explains.
pub const MUTED: RGBColor = RGBColor(110, 117, 125);
/// Of what is compared; told apart by people who see few colours as well.
pub const COLOURS: [RGBColor; 6] = [
    RGBColor(68, 119, 170),
    RGBColor(204, 121, 61),
    RGBColor(34, 136, 102),
    RGBColor(150, 90, 150),
    RGBColor(170, 140, 40),
    RGBColor(110, 120, 130),
];

/// Where a picture is drawn.
pub type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
/// What drawing comes to.
pub type Drawn<'a> =
    Result<(), DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>>;

/// What a picture is drawn on.
pub struct Paper<'a>(pub Area<'a>);

impl<'a> Paper<'a> {
    /// A line through these points.
    ///
    /// # Errors
    /// Where the area cannot be drawn on.
    pub fn line(&self, points: &[(i32, i32)], colour: RGBColor, width: u32) -> Drawn<'a> {
        let style = colour.stroke_width(width);
        self.0.draw(&PathElement::new(points.to_vec(), style))
    }

    /// A text at this place, which is its middle line.
    ///
    /// # Errors
    /// Where the area cannot be drawn on.
    pub fn text(
        &self,
        text: &str,
        at: (i32, i32),
        size: i32,
        colour: RGBColor,
        anchor: HPos,
    ) -> Drawn<'a> {
        let font = ("sans-serif", size).into_font().color(&colour);
        let style = font.pos(Pos::new(anchor, VPos::Center));
        self.0.draw(&Text::new(text.to_owned(), at, style))
    }
}
