//! A drawing as SVG.

use super::drawing::{CHARACTER_WIDTH, Drawing, INK, LINE_HEIGHT, Shape};

/// Size of the type: characters of common monospaced ones are 0.6 of it wide.
const FONT_SIZE: f64 = CHARACTER_WIDTH as f64 / 0.6;

/// From the top of a line to where its letters stand.
const BASELINE: u32 = LINE_HEIGHT - 4;

impl Drawing {
    /// The drawing as an SVG document.
    pub(crate) fn to_svg(&self) -> String {
        let Drawing { width, height, shapes } = self;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
             viewBox=\"0 0 {width} {height}\" font-family=\"monospace\" \
             font-size=\"{FONT_SIZE:.2}\">\n\
             <rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>\n"
        );
        shapes.iter().for_each(|shape| svg.push_str(&element(shape)));
        svg.push_str("</svg>\n");
        svg
    }
}

fn element(shape: &Shape) -> String {
    match shape {
        Shape::Bar { place: [left, top, width, height], colour } => format!(
            "<rect x=\"{left}\" y=\"{top}\" width=\"{width}\" height=\"{height}\" \
             fill=\"{}\"/>\n",
            hex(*colour)
        ),
        Shape::Text { left, top, text } => {
            let (baseline, ink) = (top + BASELINE, hex(INK));
            let text = escape(text);
            format!("<text x=\"{left}\" y=\"{baseline}\" fill=\"{ink}\">{text}</text>\n")
        }
    }
}

fn hex([red, green, blue]: [u8; 3]) -> String {
    format!("#{red:02x}{green:02x}{blue:02x}")
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::plot::drawing::Anchor;

    #[test]
    fn shapes_become_elements() {
        let mut drawing = Drawing::new(100);
        drawing.set_height(50);
        drawing.bar([1, 2, 3, 4], [255, 0, 16]);
        drawing.text(90, 10, Anchor::End, "a < b & c".to_owned());
        let svg = drawing.to_svg();
        let bar = r##"<rect x="1" y="2" width="3" height="4" fill="#ff0010"/>"##;
        let text = r##"<text x="27" y="22" fill="#1e1e1e">a &lt; b &amp; c</text>"##;
        assert!(svg.contains(bar) && svg.contains(text), "{svg}");
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
    }
}
