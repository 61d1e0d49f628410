// SPDX-License-Identifier: GPL-2.0

//! `make check`: all tests, of the host's side and in the booted kernel, and one line at the end.

use crate::boot;
use crate::cli::{self, Arch, Config, Machine};
use crate::console::Line;
use crate::ctx::Ctx;
use crate::guest::{words, Guest};
use crate::rules::{self, Rules};
use crate::run::{Job, MINUTE};
use crate::tap::{State, Tap};
use crate::{docs, headers, kernel, off, programs, tree};
use anyhow::{anyhow, bail, Result};
use clap::ValueEnum;
use std::path::{Path, PathBuf};

/// What came of all checks so far.
#[derive(Default)]
pub struct Report {
    passed: usize,
    failed: Vec<String>,
    skipped: Vec<String>,
}

impl Report {
    /// Takes in one check, and says at once why it failed.
    pub fn add(&mut self, ctx: &Ctx, name: &str, result: Result<()>) {
        match result {
            Ok(()) => {
                self.passed += 1;
                ctx.ui.note(&format!("ok      {name}"));
            }
            Err(e) => {
                ctx.ui.note(&format!("FAILED  {name}\n{e:#}"));
                self.failed.push(name.into());
            }
        }
    }

    /// Takes in one that could not be done here.
    pub fn skip(&mut self, name: &str) {
        self.skipped.push(name.into());
    }

    pub fn finish(&self) -> Result<()> {
        println!();
        for name in &self.skipped {
            println!("skipped: {name}");
        }
        for name in &self.failed {
            println!("failed: {name}");
        }
        let skipped = match self.skipped.len() {
            0 => String::new(),
            n => format!(", {n} skipped"),
        };
        println!("{} passed, {} failed{skipped}", self.passed, self.failed.len());
        if !self.failed.is_empty() {
            // The line above is the last word; no error after it.
            std::process::exit(1);
        }
        Ok(())
    }
}

pub fn run(ctx: &Ctx) -> Result<()> {
    if ctx.config == Config::Vm {
        bail!("the kernel of make deb has nothing that is there for tests alone; run make check-deb");
    }
    ctx.ui.plan(17);
    if !kernel::prepare(ctx)? {
        bail!(tree::ELSEWHERE);
    }
    let git = tree::git(ctx);
    if git.resolve("HEAD") != Some(crate::state::load::<tree::State>(ctx, "tree").tip) {
        ctx.ui.note(
            "build/linux has commits that were not exported: the rules look at patches/ and our files alone",
        );
    }
    let mut report = Report::default();
    if ctx.arch == Arch::X86_64 {
        host(ctx, &mut report);
        report.add(ctx, "every configuration takes all its lines", configurations(ctx));
        report.add(ctx, "off means off", off::prove(ctx));
    }
    let configs = match ctx.all {
        true if ctx.arch == Arch::Powerpc => vec![Config::Plain, Config::Pages4k],
        _ => vec![ctx.config],
    };
    for config in configs {
        let ctx = Ctx { config, ..ctx.clone() };
        let built = kernel::build(&ctx).and_then(|()| headers::install(&ctx));
        let good = built.is_ok();
        report.add(&ctx, "the kernel builds", built);
        for machine in machines(&ctx).into_iter().filter(|_| good) {
            booted(&Ctx { machine, ..ctx.clone() }, &mut report);
        }
    }
    report.finish()
}

/// That each kernel which can be asked for can be configured. To build them all takes hours.
fn configurations(ctx: &Ctx) -> Result<()> {
    ctx.ui.step("configs", "those of CONFIG= and of the packages");
    for &config in Config::value_variants().iter().filter(|&&config| config != Config::Pages4k) {
        kernel::configure(&Ctx { config, without: Vec::new(), ..ctx.clone() })?;
    }
    Ok(())
}

/// The machines to boot on.
fn machines(ctx: &Ctx) -> Vec<Option<Machine>> {
    match (ctx.arch, ctx.machine, ctx.all) {
        (Arch::X86_64, ..) | (_, Some(_), _) => vec![ctx.machine],
        (Arch::Powerpc, None, true) => Machine::value_variants().iter().copied().map(Some).collect(),
        (Arch::Powerpc, None, false) => vec![Some(Machine::Power9), Some(Machine::Power9Hash)],
    }
}

/// What needs the booted kernel.
fn booted(ctx: &Ctx, report: &mut Report) {
    let on = ctx.machine.map_or(String::new(), |m| format!("{}, {}: ", cli::name(ctx.config), cli::name(m)));
    let moved = programs::test_program(ctx)
        .and_then(|program| boot::test_program(ctx, &ctx.objects(), "boot", &program, ctx.size, |_| ()));
    report.add(ctx, &format!("{on}the test program"), moved);
    for name in programs::EXAMPLES {
        report.add(ctx, &format!("{on}{name}, an example of the documentation"), boot::example(ctx, name));
    }
    let mut reports = Reports::default();
    let run = programs::tests(ctx)
        .and_then(|programs| tests(ctx, &ctx.objects(), "check", &programs, &ctx.tests, &mut reports));
    for outcome in reports.kunit.outcomes.iter().chain(&reports.tests.outcomes) {
        let name = format!("{on}{}", outcome.name);
        match outcome.state {
            State::Passed => report.passed += 1,
            // No test of ours is expected to fail.
            State::Failed | State::Expected => report.failed.push(name),
            State::Skipped if lacks(ctx, &outcome.why) => {
                report.failed.push(format!("{name} ({})", outcome.why))
            }
            State::Skipped => report.skipped.push(name),
        }
    }
    report.add(ctx, &format!("{on}the guest ran all tests, and its kernel had no complaint"), run);
    let kunit = reports.kunit.complaint().map_or(Ok(()), |why| Err(anyhow!(why)));
    report.add(ctx, &format!("{on}the kernel ran its own tests"), kunit);
}

/// Whether a test was skipped for want of something that this kernel is to have: its configuration
/// has lost it, and nobody would see that the test never runs.
fn lacks(ctx: &Ctx, why: &str) -> bool {
    let known: &[&str] = match (ctx.arch, ctx.config) {
        (Arch::X86_64, Config::Plain) => {
            &["allocations that fail on demand", "tracer of interrupts that are off"]
        }
        (Arch::X86_64, Config::Debug) => &[],
        // These are made for what they have not.
        _ => return false,
    };
    let lacking = why.strip_prefix("SKIP this kernel has no ");
    ctx.without.is_empty() && lacking.is_some_and(|what| !known.contains(&what))
}

/// What needs no kernel.
fn host(ctx: &Ctx, report: &mut Report) {
    ctx.ui.step("host", "rules, and xtask's own tests");
    let manifest = ctx.root.join("xtask/Cargo.toml");
    let what =
        programs::cargo(&["test", "--quiet", "--locked", "--manifest-path", &manifest.display().to_string()]);
    let job =
        Job { ctx, name: "xtask-tests", what, limit: 10 * MINUTE, hint: "cargo test in xtask/ shows more" };
    report.add(ctx, "xtask's own tests", job.run());
    match Rules::new(ctx) {
        Ok(rules) => {
            for (name, rule) in rules::all() {
                report.add(ctx, name, rule(&rules));
            }
        }
        Err(e) => report.add(ctx, "the rules", Err(e)),
    }
    match docs::quick(ctx) {
        Ok(all) => all.into_iter().for_each(|(name, result)| report.add(ctx, name, result)),
        Err(e) => report.add(ctx, "the documentation", Err(e)),
    }
}

/// What was reported in a guest: of the kernel by itself (KUnit), and by the tests.
#[derive(Default)]
pub struct Reports {
    pub kunit: Tap,
    pub tests: Tap,
}

/// The tests in a guest: those that `names` has, all where it is empty.
pub fn tests(
    ctx: &Ctx,
    objects: &Path,
    name: &str,
    programs: &[PathBuf],
    names: &[String],
    reports: &mut Reports,
) -> Result<()> {
    let Reports { kunit, tests: tap } = reports;
    let mut command = vec!["userfault-tests".to_string()];
    if ctx.slow() {
        command.push("--timeout=180".into());
    }
    command.extend(names.iter().cloned());
    let words = format!("{} kunit.autorun=1 kunit.filter_glob=rust_userfault*", words(ctx.arch));
    let guest = Guest { words: &words, minutes: 30, ..Guest::new(objects, name, programs, command) };
    let console = guest.boot(ctx, |line| match line {
        Line::Program(text) if tap.line(text) || text.starts_with('#') => ctx.ui.note(text),
        Line::Kernel(text) if kunit.kernel_line(text) => ctx.ui.note(text),
        _ => {}
    })?;
    if let Some(complaint) = tap.complaint() {
        bail!("{complaint}\n{}", console.tail());
    }
    match console.ended.get("userfault-tests") {
        Some(0) => Ok(()),
        Some(_) if tap.outcomes.iter().any(|o| o.state == State::Failed) => Ok(()),
        status => bail!("the tests ended with status {}", status.unwrap_or(&-1)),
    }
}
