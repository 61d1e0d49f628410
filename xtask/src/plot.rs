// SPDX-License-Identifier: GPL-2.0

//! Draws the figures of `make bench`: for each work a bar for each way to do it.

use crate::bench::{Figure, OURS};
use anyhow::{anyhow, Result};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::collections::BTreeMap;
use std::path::Path;

const WIDTH: u32 = 1000;
const BAR: i32 = 14;
const GAP: i32 = 12;
/// Where the bars begin, and how much room is above and below them.
const LEFT: i32 = 320;
const MARGIN: i32 = 40;

/// Works in the order of their first figure, with what instructions were counted for them.
fn groups(figures: &[Figure]) -> Vec<(&str, Vec<&Figure>)> {
    let mut groups: Vec<(&str, Vec<&Figure>)> = Vec::new();
    for figure in figures.iter().filter(|f| f.unit.starts_with("instructions")) {
        match groups.iter_mut().find(|(work, _)| *work == figure.work) {
            Some((_, list)) => list.push(figure),
            None => groups.push((&figure.work, vec![figure])),
        }
    }
    groups
}

pub fn draw(path: &Path, figures: &[Figure]) -> Result<()> {
    let groups = groups(figures);
    let bars: usize = groups.iter().map(|g| g.1.len()).sum();
    let height = 2 * MARGIN + bars as i32 * BAR + groups.len() as i32 * GAP;
    // The costs are far apart: a bar is as long as the logarithm of what it stands for.
    let most = figures.iter().map(|f| f.value).fold(10.0, f64::max).log10();
    let length = |value: f64| (value.max(1.0).log10() / most * f64::from(WIDTH as i32 - LEFT - 80)) as i32;

    let root = SVGBackend::new(path, (WIDTH, height as u32)).into_drawing_area();
    let failed = |e: &dyn std::fmt::Display| anyhow!("cannot draw {}: {e}", path.display());
    root.fill(&WHITE).map_err(|e| failed(&e))?;
    let font = ("sans-serif", 12).into_font().color(&BLACK);
    let text = |words: String, x: i32, y: i32, h: HPos| {
        root.draw(&Text::new(words, (x, y), font.pos(Pos::new(h, VPos::Center)))).map_err(|e| failed(&e))
    };
    text("Instructions, on a logarithmic scale".into(), LEFT, MARGIN / 2, HPos::Left)?;
    let mut colours = BTreeMap::new();
    let mut y = MARGIN;
    for (work, list) in groups {
        text(work.into(), 10, y + list.len() as i32 * BAR / 2, HPos::Left)?;
        for figure in list {
            let next = colours.len();
            let colour = match figure.how.as_str() {
                how if OURS.contains(&how) => RED.to_rgba(),
                how => Palette99::pick(1 + *colours.entry(how.to_string()).or_insert(next)).mix(0.6),
            };
            let end = LEFT + length(figure.value);
            root.draw(&Rectangle::new([(LEFT, y + 1), (end, y + BAR - 1)], colour.filled()))
                .map_err(|e| failed(&e))?;
            text(figure.how.clone(), LEFT - 6, y + BAR / 2, HPos::Right)?;
            text(format!("{:.0}", figure.value), end + 4, y + BAR / 2, HPos::Left)?;
            y += BAR;
        }
        y += GAP;
    }
    root.present().map_err(|e| failed(&e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_a_bar_for_each_figure() {
        let figure = |how: &str, unit: &str| Figure {
            work: "1 page".into(),
            how: how.into(),
            unit: unit.into(),
            value: 100.0,
        };
        let figures = [
            figure(OURS[0], "instructions a page"),
            figure("mremap", "instructions a page"),
            figure(OURS[0], "TLB flushes a MiB"),
        ];
        let file = tempfile::NamedTempFile::new().unwrap();
        draw(file.path(), &figures).unwrap();
        let svg = std::fs::read_to_string(file.path()).unwrap();
        // The background is one more.
        assert_eq!(svg.matches("<rect").count(), 3);
        assert!(svg.contains("mremap"));
    }
}
