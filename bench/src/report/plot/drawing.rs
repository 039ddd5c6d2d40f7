//! Rectangles and lines of text, to be written in one format or another.

/// Height of a line of text, and width of each of its characters: all have the same.
pub(super) const LINE_HEIGHT: u32 = 16;
pub(super) const CHARACTER_WIDTH: u32 = 7;

/// The colour of texts.
pub(super) const INK: [u8; 3] = [30, 30, 30];

/// Where a text is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Anchor {
    /// At its first character.
    Start,
    /// Behind its last one.
    End,
}

/// One thing to be drawn. Coordinates are pixels from the upper left corner.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Shape {
    /// A filled rectangle: left, top, width, height.
    Bar { place: [u32; 4], colour: [u8; 3] },
    /// One line of text, in a type whose characters are equally wide.
    Text { left: u32, top: u32, text: String },
}

/// A picture on white ground.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Drawing {
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) shapes: Vec<Shape>,
}

impl Drawing {
    pub(super) fn new(width: u32) -> Drawing {
        Drawing { width, height: 0, shapes: Vec::new() }
    }

    pub(super) fn set_height(&mut self, height: u32) {
        self.height = height;
    }

    pub(super) fn bar(&mut self, place: [u32; 4], colour: [u8; 3]) {
        self.shapes.push(Shape::Bar { place, colour });
    }

    pub(super) fn text(&mut self, x: u32, top: u32, anchor: Anchor, text: String) {
        let left = match anchor {
            Anchor::Start => x,
            Anchor::End => x.saturating_sub(text_width(&text)),
        };
        self.shapes.push(Shape::Text { left, top, text });
    }
}

/// How wide a text is.
pub(super) fn text_width(text: &str) -> u32 {
    text.chars().count() as u32 * CHARACTER_WIDTH
}
