//! Colours, lines and texts that all pictures share.

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// Colour of the main text.
pub const INK: RGBColor = RGBColor(38, 42, 48);
/// Colour of grid lines.
pub const FAINT: RGBColor = RGBColor(222, 225, 229);
/// Colour of explanations.
pub const MUTED: RGBColor = RGBColor(110, 117, 125);
/// Colours of the curves and bars; they can be told apart by people with colour blindness as well.
pub const COLOURS: [RGBColor; 6] = [
    RGBColor(68, 119, 170),
    RGBColor(204, 121, 61),
    RGBColor(34, 136, 102),
    RGBColor(150, 90, 150),
    RGBColor(170, 140, 40),
    RGBColor(110, 120, 130),
];

/// The area of a picture.
pub type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
/// Result of a drawing operation.
pub type Drawn<'a> =
    Result<(), DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>>;

/// The surface on which a picture is drawn.
pub struct Paper<'a>(pub Area<'a>);

impl<'a> Paper<'a> {
    /// Draws a line through these points.
    ///
    /// # Errors
    /// The backend cannot draw.
    pub fn line(&self, points: &[(i32, i32)], colour: RGBColor, width: u32) -> Drawn<'a> {
        let style = colour.stroke_width(width);
        self.0.draw(&PathElement::new(points.to_vec(), style))
    }

    /// Draws a text whose middle line is at this position.
    ///
    /// # Errors
    /// The backend cannot draw.
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
