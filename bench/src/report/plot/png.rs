//! A drawing as PNG. The type is part of this program, so that no font needs to be installed.

use anyhow::{Context, Result};
use noto_sans_mono_bitmap::{FontWeight, RasterHeight, get_raster, get_raster_width};

use super::drawing::{CHARACTER_WIDTH, Drawing, INK, LINE_HEIGHT, Shape};

const RASTER: RasterHeight = RasterHeight::Size16;

// What the layout counts with is what the type has.
const _: () = assert!(RASTER.val() == LINE_HEIGHT as usize);
const _: () = assert!(get_raster_width(FontWeight::Regular, RASTER) == CHARACTER_WIDTH as usize);

const BYTES_PER_PIXEL: usize = 3;

impl Drawing {
    /// The drawing as a PNG file.
    pub(crate) fn to_png(&self) -> Result<Vec<u8>> {
        let mut canvas = Canvas::new(self.width as usize, self.height as usize);
        self.shapes.iter().for_each(|shape| canvas.draw(shape));
        let mut file = Vec::new();
        let mut encoder = png::Encoder::new(&mut file, self.width, self.height);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        let mut writer = encoder.write_header().context("Cannot begin a PNG")?;
        writer.write_image_data(&canvas.pixels).context("Cannot write a PNG")?;
        writer.finish().context("Cannot end a PNG")?;
        Ok(file)
    }
}

struct Canvas {
    width: usize,
    pixels: Vec<u8>,
}

impl Canvas {
    fn new(width: usize, height: usize) -> Canvas {
        Canvas { width, pixels: vec![255; width * height * BYTES_PER_PIXEL] }
    }

    fn draw(&mut self, shape: &Shape) {
        match shape {
            Shape::Bar { place, colour } => {
                let [left, top, width, height] = place.map(|value| value as usize);
                for y in top..top + height {
                    (left..left + width).for_each(|x| self.blend(x, y, *colour, 255));
                }
            }
            Shape::Text { left, top, text } => {
                for (index, character) in text.chars().enumerate() {
                    let left = *left as usize + index * CHARACTER_WIDTH as usize;
                    self.draw_character(left, *top as usize, character);
                }
            }
        }
    }

    fn draw_character(&mut self, left: usize, top: usize, character: char) {
        // What the type does not have stays blank.
        let Some(raster) = get_raster(character, FontWeight::Regular, RASTER) else { return };
        for (y, line) in raster.rows().enumerate() {
            for (x, strength) in line.iter().enumerate() {
                self.blend(left + x, top + y, INK, *strength);
            }
        }
    }

    /// Lays a colour over a pixel: 0 leaves it as it is, 255 covers it. What lies outside is left
    /// out.
    fn blend(&mut self, x: usize, y: usize, colour: [u8; 3], strength: u8) {
        if x >= self.width {
            return;
        }
        let start = (y * self.width + x) * BYTES_PER_PIXEL;
        let Some(pixel) = self.pixels.get_mut(start..start + BYTES_PER_PIXEL) else { return };
        let strength = u32::from(strength);
        for (old, new) in pixel.iter_mut().zip(colour) {
            let mixed = (u32::from(*old) * (255 - strength) + u32::from(new) * strength) / 255;
            *old = mixed as u8;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::plot::drawing::Anchor;

    fn decode(file: &[u8]) -> (u32, u32, Vec<u8>) {
        let mut reader = png::Decoder::new(std::io::Cursor::new(file)).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        (info.width, info.height, pixels)
    }

    #[test]
    fn bars_and_letters_are_where_they_belong() {
        let mut drawing = Drawing::new(40);
        drawing.set_height(20);
        drawing.bar([1, 2, 3, 4], [255, 0, 16]);
        drawing.text(20, 0, Anchor::Start, "M".to_owned());
        // Beyond the edge: no harm.
        drawing.bar([38, 18, 9, 9], [1, 1, 1]);
        let (width, height, pixels) = decode(&drawing.to_png().unwrap());
        assert_eq!((width, height), (40, 20));
        let pixel = |x: usize, y: usize| &pixels[(y * 40 + x) * 3..][..3];
        assert_eq!((pixel(1, 2), pixel(3, 5)), (&[255, 0, 16][..], &[255, 0, 16][..]));
        assert_eq!((pixel(4, 5), pixel(0, 2)), (&[255; 3][..], &[255; 3][..]));
        let dark = |x: usize| (0..16).filter(|&y| pixel(x, y)[0] < 128).count();
        assert!((20..27).map(dark).sum::<usize>() > 10, "the letter is drawn");
        assert_eq!((27..38).map(dark).sum::<usize>(), 0, "and nothing beside it");
    }
}
