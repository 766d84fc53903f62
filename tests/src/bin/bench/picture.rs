//! Pictures of what was measured, beside the document that they are shown in.

use std::path::{Path, PathBuf};

use plotters::prelude::*;

use crate::document::WRITE;
use crate::spread::quantile;

/// A row of a picture: its median as a bar, and its quartiles as a line.
pub struct Bar {
    /// What it is.
    pub name: String,
    /// Whether it is tombolo's.
    pub ours: bool,
    /// What was measured, round by round.
    pub numbers: Vec<f64>,
}

const WIDTH: u32 = 760;
/// Height of a row, and of what is above and below them.
const ROW: u32 = 30;
const AROUND: u32 = 80;
/// Where names end.
const NAMES: u32 = 280;

const OURS: RGBColor = RGBColor(0x1f, 0x77, 0xb4);
const THEIRS: RGBColor = RGBColor(0x9a, 0x9a, 0x9a);

/// Draws a picture, if there is a document to show it in; gives the lines that show it.
pub fn bars(name: &str, what: &str, all: &[Bar]) -> Vec<String> {
    let Some(path) = beside(name) else {
        return Vec::new();
    };
    draw(&path, what, all).unwrap_or_else(|e| panic!("drawing {}: {e}", path.display()));
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    vec![format!("![{what}](pictures/{file})"), String::new()]
}

fn beside(name: &str) -> Option<PathBuf> {
    let document = PathBuf::from(std::env::var_os(WRITE)?);
    let dir = document.parent()?.join("pictures");
    std::fs::create_dir_all(&dir).unwrap_or_else(|e| panic!("making {}: {e}", dir.display()));
    Some(dir.join(format!("{name}.svg")))
}

fn draw(path: &Path, what: &str, all: &[Bar]) -> Result<(), Box<dyn std::error::Error>> {
    let size = (WIDTH, AROUND + ROW * all.len() as u32);
    let root = SVGBackend::new(path, size).into_drawing_area();
    root.fill(&WHITE)?;
    let highest = all
        .iter()
        .map(|bar| quantile(&bar.numbers, 0.75))
        .fold(0.0, f64::max);
    let mut chart = ChartBuilder::on(&root)
        .caption(what, ("sans-serif", 16))
        .margin(10)
        .x_label_area_size(28)
        .y_label_area_size(NAMES)
        .build_cartesian_2d(0.0..highest * 1.1, (0..all.len()).into_segmented())?;
    // The first row is the uppermost.
    let row = |at: usize| all.len() - 1 - at;
    let label = |at: &SegmentValue<usize>| match at {
        SegmentValue::CenterOf(at) if *at < all.len() => all[row(*at)].name.clone(),
        _ => String::new(),
    };
    chart
        .configure_mesh()
        .disable_y_mesh()
        .y_labels(all.len())
        .y_label_formatter(&label)
        .label_style(("sans-serif", 13))
        .draw()?;
    for (at, bar) in all.iter().enumerate() {
        let color = if bar.ours { OURS } else { THEIRS };
        let [low, middle, high] = [0.25, 0.5, 0.75].map(|part| quantile(&bar.numbers, part));
        let (bottom, top) = (SegmentValue::Exact(row(at)), SegmentValue::Exact(row(at) + 1));
        let mut whole = Rectangle::new([(0.0, bottom), (middle, top)], color.filled());
        whole.set_margin(5, 5, 0, 0);
        let center = SegmentValue::CenterOf(row(at));
        let spread = PathElement::new([(low, center.clone()), (high, center)], BLACK.stroke_width(2));
        chart.draw_series([whole.into_dyn(), spread.into_dyn()])?;
    }
    root.present()?;
    Ok(())
}
