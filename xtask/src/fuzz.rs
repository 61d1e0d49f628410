// SPDX-License-Identifier: GPL-2.0

//! `make fuzz`: random calls on the debug kernel, for a bounded time, and what they have reached.
//!
//! The program that makes the calls is part of the tests; what it prints becomes a table of the calls
//! and a list of the lines that no call has come to. The kernel's complaints fail it, as everywhere.

use crate::cli::Config;
use crate::console::Line;
use crate::ctx::Ctx;
use crate::guest::{words, Guest};
use crate::util::write_if_changed;
use crate::{coverage, kernel, programs};
use anyhow::{bail, Result};
use comfy_table::{presets, CellAlignment, Table};
use std::collections::BTreeSet;
use std::time::{SystemTime, UNIX_EPOCH};

/// So many lines of a hundred have to be reached.
const LEAST: usize = 80;
/// How long the guest may take for what is not the fuzzing, in minutes.
const REST: u64 = 10;

/// What the program has printed.
#[derive(Default)]
struct Report {
    /// The name of each call, how often it was made, and how often it succeeded.
    calls: Vec<(String, u64, u64)>,
    /// Addresses of code that was reached.
    reached: BTreeSet<u64>,
    /// Its last line was seen.
    ended: bool,
}

pub fn run(ctx: &Ctx) -> Result<()> {
    let ctx = &Ctx { config: Config::Debug, ..ctx.clone() };
    ctx.ui.plan(7);
    kernel::ready(ctx)?;
    let programs = programs::tests(ctx)?;
    let seed = ctx
        .seed
        .unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()));
    ctx.ui.note(&format!("SEED={seed} SECONDS={} is this run", ctx.seconds));
    let report = fuzz(ctx, seed, &programs)?;
    println!("{}", table(&report.calls));

    let lines = coverage::lines(&ctx.objects().join("vmlinux"), &report.reached)?;
    let (missed, (reached, all)) = (lines.missed(), lines.count());
    let file = ctx.build.join("fuzz.txt");
    write_if_changed(&file, (missed.join("\n") + "\n").as_bytes())?;
    println!("\nno call has come to\n  {}", missed.join("\n  "));
    println!(
        "{reached} of {all} lines reached, {:.1} %; the others are in {}",
        100.0 * reached as f64 / all as f64,
        file.display()
    );
    let never: Vec<_> = report.calls.iter().filter(|c| c.2 == 0).map(|c| c.0.as_str()).collect();
    if !never.is_empty() {
        bail!("these calls never did what they were to do: {}", never.join(" "));
    }
    if reached * 100 < all * LEAST {
        bail!("fewer than {LEAST} % of the lines were reached; see {}", file.display());
    }
    Ok(())
}

fn fuzz(ctx: &Ctx, seed: u64, programs: &[std::path::PathBuf]) -> Result<Report> {
    let mut command = vec!["userfault-tests".into(), "--fuzz".into()];
    command.extend(["--seconds".into(), ctx.seconds.to_string(), "--seed".into(), seed.to_string()]);
    let objects = ctx.objects();
    let guest = Guest {
        words: words(ctx.arch),
        minutes: REST + ctx.seconds.div_ceil(60),
        ..Guest::new(&objects, "fuzz", programs, command)
    };
    let mut report = Report::default();
    let console = guest.boot(ctx, |line| match line {
        Line::Program(text) if text.starts_with('#') => ctx.ui.note(text),
        Line::Program(text) => report.line(text),
        _ => {}
    })?;
    match console.ended.get("userfault-tests") {
        Some(0) if report.ended => Ok(report),
        status => bail!("the fuzzer ended with status {}\n{}", status.unwrap_or(&-1), console.tail()),
    }
}

impl Report {
    /// `fuzz|call|NAME|MADE|GOOD`, `fuzz|pc|ADDRESS`, `fuzz|end|...`.
    fn line(&mut self, line: &str) {
        let fields: Vec<&str> = line.trim().split('|').collect();
        match fields[..] {
            ["fuzz", "call", name, made, good] => {
                if let (Ok(made), Ok(good)) = (made.parse(), good.parse()) {
                    self.calls.push((name.into(), made, good));
                }
            }
            ["fuzz", "pc", address] => self.reached.extend(u64::from_str_radix(address, 16)),
            ["fuzz", "end", ..] => self.ended = true,
            _ => {}
        }
    }
}

fn table(calls: &[(String, u64, u64)]) -> Table {
    /// So many calls stand side by side, each with so many cells.
    const SIDE_BY_SIDE: usize = 3;
    const CELLS: [&str; 3] = ["call", "made", "good"];
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(CELLS.repeat(SIDE_BY_SIDE));
    for row in calls.chunks(SIDE_BY_SIDE) {
        let cells =
            |(name, made, good): &(String, u64, u64)| [name.clone(), made.to_string(), good.to_string()];
        table.add_row(row.iter().flat_map(cells));
    }
    for (index, column) in table.column_iter_mut().enumerate() {
        if index % CELLS.len() != 0 {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_lines() {
        let mut report = Report::default();
        for line in ["fuzz|call|mmap|20|10", "fuzz|pc|ffffffff81000005", "ok 1 - a", "fuzz|call|brk|1"] {
            report.line(line);
        }
        assert_eq!(report.calls, [("mmap".into(), 20, 10)]);
        assert_eq!(report.reached, BTreeSet::from([0xffff_ffff_8100_0005]));
        assert!(!report.ended);
        report.line("fuzz|end|1|30|7");
        assert!(report.ended);
    }
}
