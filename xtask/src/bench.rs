// SPDX-License-Identifier: GPL-2.0

//! `make bench`: what a page costs, ours beside mainline's, in one boot with a clock that counts
//! instructions. What replaces functions of C is measured in two boots, of kernels with it and
//! without. The program that measures is part of the tests; here its figures become a table,
//! `build/bench.json` and `build/bench.svg`, and are compared with those of an earlier run.

use crate::console::Line;
use crate::ctx::Ctx;
use crate::guest::{Clock, Guest};
use crate::kernel::Kbuild;
use crate::util::{read_text, write_if_changed};
use crate::{kconfig, kernel, plot, programs, toolchain};
use anyhow::{bail, Context, Result};
use comfy_table::{presets, CellAlignment, Table};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// By how much a row may move without being named, as a part of what it was.
const NOISE: f64 = 0.01;
/// What ours is compared with, and what ours is called.
const BASE: [&str; 2] = ["UFFDIO_MOVE", IN_C];
pub const OURS: [&str; 2] = ["remap_anon_pages", IN_RUST];
/// How a kernel does what the options below replace.
const IN_RUST: &str = "Rust";
const IN_C: &str = "C";
/// The options that replace functions of C, which another kernel has.
const REPLACED: [&str; 2] = ["GUP_LOCKED_RUST", "ANON_RMAP_RUST"];

/// What one way to do a work costs.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct Figure {
    pub work: String,
    pub how: String,
    pub unit: String,
    pub value: f64,
}

pub fn run(ctx: &Ctx) -> Result<()> {
    ctx.ui.plan(10);
    let earlier = ctx.against.as_deref().map(load).transpose()?;
    kernel::ready(ctx)?;
    let kernel_in_c = in_c(ctx)?;
    let programs = programs::tests(ctx)?;
    let mut figures = measure(ctx, &ctx.objects(), "bench", &programs)?;
    for (how, objects) in [(IN_RUST, &ctx.objects()), (IN_C, &kernel_in_c)] {
        let measured = measure(ctx, objects, "bench-gup", &programs)?;
        figures.extend(measured.into_iter().map(|figure| Figure { how: how.into(), ..figure }));
    }
    // Those of one work side by side.
    let order: Vec<_> = figures.iter().map(|f| (f.work.clone(), f.unit.clone())).collect();
    figures.sort_by_key(|f| order.iter().position(|o| (&o.0, &o.1) == (&f.work, &f.unit)));
    println!("{}", table(&figures));
    let json = ctx.build.join("bench.json");
    write_if_changed(&json, &serde_json::to_vec_pretty(&figures)?)?;
    let svg = ctx.build.join("bench.svg");
    plot::draw(&svg, &figures)?;
    println!("{}\n{}", json.display(), svg.display());
    if let (Some(earlier), Some(path)) = (earlier, &ctx.against) {
        let moved = moved(&earlier, &figures);
        println!(
            "\n{} of {} rows moved by more than 1 % since {}",
            moved.len(),
            figures.len(),
            path.display()
        );
        moved.iter().for_each(|row| println!("  {row}"));
    }
    Ok(())
}

/// Builds the same kernel with the functions of C.
fn in_c(ctx: &Ctx) -> Result<PathBuf> {
    ctx.ui.step("kernel", "the same with functions of C");
    let objects = ctx.build.join("bench-c");
    let kbuild = Kbuild::new(ctx, "bench-c", ctx.linux(), objects.clone(), toolchain::find(ctx)?);
    let mut fragments = kconfig::fragments(ctx, ctx.config);
    fragments.extend(kconfig::without(ctx, &objects, &REPLACED)?);
    kconfig::make(ctx, &kbuild, &fragments, false)?;
    kbuild.build(ctx, &["all"], 120, "the kernel of make kernel has to build first")?;
    Ok(objects)
}

/// Runs the program that measures, for which `what` is the argument.
fn measure(ctx: &Ctx, objects: &Path, what: &str, programs: &[PathBuf]) -> Result<Vec<Figure>> {
    let command = vec!["userfault-tests".into(), format!("--{what}")];
    let guest = Guest {
        clock: Clock::Instructions,
        // Pages migrate between them.
        words: if what == "bench" { "" } else { "numa=fake=2" },
        ..Guest::new(objects, what, programs, command)
    };
    let mut figures = Vec::new();
    let console = guest.boot(ctx, |line| {
        if let Line::Program(text) = line {
            figures.extend(parse(text));
        }
    })?;
    match console.ended.get("userfault-tests") {
        Some(0) if !figures.is_empty() => Ok(figures),
        Some(0) => bail!("no figure came out of the guest\n{}", console.tail()),
        status => bail!("the measuring ended with status {}\n{}", status.unwrap_or(&-1), console.tail()),
    }
}

/// `bench|WORK|HOW|UNIT|VALUE`.
fn parse(line: &str) -> Option<Figure> {
    let mut fields = line.strip_prefix("bench|")?.split('|');
    let mut next = || fields.next().map(String::from);
    Some(Figure { work: next()?, how: next()?, unit: next()?, value: next()?.trim().parse().ok()? })
}

fn load(path: &Path) -> Result<Vec<Figure>> {
    let text = read_text(path)?;
    serde_json::from_str(&text).with_context(|| format!("{} is no bench.json", path.display()))
}

/// What ours costs, as a part of what mainline's move costs for the same work.
pub fn ratio(figures: &[Figure], of: &Figure) -> Option<f64> {
    let base =
        figures.iter().find(|f| f.work == of.work && f.unit == of.unit && BASE.contains(&f.how.as_str()))?;
    (base.value > 0.0).then(|| of.value / base.value)
}

fn table(figures: &[Figure]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(["work", "by", "cost", "", &format!("to {}", BASE.join(", "))]);
    let mut last = ("", "");
    for figure in figures {
        let work = (figure.work.as_str(), figure.unit.as_str());
        let ratio = ratio(figures, figure).map(|r| format!("{r:.3}")).unwrap_or_default();
        if work != last {
            table.add_row([""]);
        }
        table.add_row([
            if work == last { "" } else { work.0 },
            &figure.how,
            &format!("{:.1}", figure.value),
            work.1,
            &ratio,
        ]);
        last = work;
    }
    for column in [2, 4] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// The rows that cost more or less than they did, and those that only one of the runs has.
fn moved(earlier: &[Figure], now: &[Figure]) -> Vec<String> {
    let same = |a: &Figure, b: &Figure| (&a.work, &a.how, &a.unit) == (&b.work, &b.how, &b.unit);
    let name = |f: &Figure| format!("{}, {}, {}", f.work, f.how, f.unit);
    let mut rows = Vec::new();
    for figure in now {
        match earlier.iter().find(|e| same(e, figure)) {
            Some(old) if (figure.value - old.value).abs() > NOISE * old.value => {
                let change = (figure.value / old.value - 1.0) * 100.0;
                rows.push(format!(
                    "{}: {:.1} -> {:.1} ({change:+.1} %)",
                    name(figure),
                    old.value,
                    figure.value
                ));
            }
            Some(_) => {}
            None => rows.push(format!("{}: new", name(figure))),
        }
    }
    let gone = earlier.iter().filter(|e| !now.iter().any(|f| same(e, f)));
    rows.extend(gone.map(|e| format!("{}: gone", name(e))));
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(how: &str, value: f64) -> Figure {
        Figure { work: "1 page".into(), how: how.into(), unit: "instructions".into(), value }
    }

    #[test]
    fn reads_lines() {
        assert_eq!(parse("bench|1 page|mremap|instructions|34.50"), { Some(figure("mremap", 34.5)) });
        assert_eq!(parse("ok 1 - a"), None);
        assert_eq!(parse("bench|1 page|mremap|instructions"), None);
    }

    #[test]
    fn compares_with_mainline() {
        let figures = [figure(BASE[0], 200.0), figure(OURS[0], 100.0)];
        assert_eq!(ratio(&figures, &figures[1]), Some(0.5));
        assert_eq!(ratio(&figures[1..], &figures[1]), None);
    }

    #[test]
    fn says_what_moved() {
        let earlier = [figure("a", 100.0), figure("b", 200.0)];
        assert!(moved(&earlier, &[figure("a", 100.9), figure("b", 198.1)]).is_empty());
        let rows = moved(&earlier, &[figure("a", 102.0), figure("mremap", 1.0)]);
        assert_eq!(rows.len(), 3);
        assert!(rows[0].contains("+2.0 %") && rows[1].contains("new") && rows[2].contains("gone"));
    }
}
