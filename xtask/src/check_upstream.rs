// SPDX-License-Identifier: GPL-2.0

//! `make check-upstream`: upstream's own tests of memory management say on our kernel what they
//! say on a pristine one.
//!
//! Two kernels of one configuration, but for our options, run the same programs in the same guest,
//! and each outcome is compared with its like. A test that fails on both is shown and is no
//! difference; a program that dies, a guest that hangs, a kernel that complains is a failure on
//! whichever kernel. What the pristine kernel said is kept in the cache, for as long as nothing
//! changes that it depends on.

use crate::cli::Config;
use crate::console::Line;
use crate::ctx::Ctx;
use crate::guest::Guest;
use crate::kernel::{self, Kbuild};
use crate::selftests::{self, Suite};
use crate::util::{read_text, write_if_changed};
use crate::verdicts::{compare, Count, Reader, Said};
use crate::{initramfs, kconfig, state, toolchain, tree, worktree};
use anyhow::{bail, Context, Result};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Instant;

const SCRIPT: &str = include_str!("../guest/upstream.sh");
/// Two nodes, between which pages can migrate.
const WORDS: &str = "numa=fake=2";
const MEMORY: &str = "upstream";
/// Two of them are not enough for the suite of migration.
const PROCESSORS: u32 = 3;

/// What a kernel's guest said.
#[derive(Default, Serialize, Deserialize)]
struct Run {
    suites: BTreeMap<String, Said>,
    /// The kernel's complaint, or why the guest was stopped.
    trouble: Option<String>,
}

pub fn run(ctx: &Ctx) -> Result<()> {
    if ctx.config != Config::Plain {
        bail!("check-upstream compares plain kernels; leave out CONFIG=");
    }
    let suites = selftests::chosen(ctx)?;
    ctx.ui.plan(9);
    if !kernel::prepare(ctx)? {
        bail!(tree::ELSEWHERE);
    }
    let pristine = Pristine::new(ctx, &suites)?;
    kernel::build(ctx)?;
    let (config, theirs) = pristine.run()?;
    same_configuration(ctx, &config)?;
    let ours = boot(ctx, "ours", &ctx.objects(), &pristine.programs, &suites)?;
    if report(&suites, &theirs, &ours) > 0 {
        // The report's last line is the last word; no error after it.
        std::process::exit(1);
    }
    Ok(())
}

/// The pristine kernel, and the programs, which are built of its source.
struct Pristine<'a> {
    ctx: &'a Ctx,
    suites: &'a [&'a Suite],
    kbuild: Kbuild,
    fragments: Vec<PathBuf>,
    programs: Vec<PathBuf>,
    /// A digest of all that its results depend on.
    key: String,
}

impl<'a> Pristine<'a> {
    fn new(ctx: &'a Ctx, suites: &'a [&'a Suite]) -> Result<Self> {
        let dir = ctx.build.join("pristine");
        let (source, objects) = (dir.join("linux"), dir.join(ctx.arch.name()));
        ctx.ui.step("pristine", "the tag upstream, its headers, its tests");
        let commit =
            tree::git(ctx).resolve("upstream^{commit}").context("build/linux has no tag upstream")?;
        worktree::check_out(ctx, &source, &commit)?;
        let kbuild = Kbuild::new(ctx, "pristine", source, objects, toolchain::find(ctx)?);
        kbuild.build_to(ctx, "pristine-headers", &["headers"], 10, "remove build/pristine and try again")?;
        let headers = kbuild.objects.join("usr/include");
        let mut programs = selftests::build(ctx, suites, &kbuild.source, &headers, &dir.join("selftests"))?;
        for (name, text) in [("upstream.sh", SCRIPT), ("suites", &selftests::list(suites))] {
            programs.push(dir.join("guest").join(name));
            write_if_changed(&dir.join("guest").join(name), text.as_bytes())?;
        }
        // Our options alone are off; Rust stays.
        let mut fragments = kconfig::fragments(ctx, Config::Plain);
        fragments.push(kconfig::without_ours(ctx, &dir, &[])?);
        let seen = [initramfs::INIT, include_str!("verdicts.rs"), WORDS, &PROCESSORS.to_string()].concat();
        let files = [programs.as_slice(), &fragments].concat();
        let key = worktree::key(ctx, &commit, &kbuild.toolchain, &seen, &files)?;
        Ok(Self { ctx, suites, kbuild, fragments, programs, key })
    }

    /// Its configuration, and what its guest said: remembered, or built and booted.
    fn run(&self) -> Result<(String, Run)> {
        let ctx = self.ctx;
        if let (Some(known), false) = (state::recall(ctx, MEMORY, &self.key), ctx.force) {
            ctx.ui.step("boot", "pristine: its results are known; FORCE=1 runs it again");
            return Ok(known);
        }
        ctx.ui.step("kernel", &format!("{}, pristine", ctx.arch.name()));
        kconfig::make(ctx, &self.kbuild, &self.fragments, true)?;
        let hint = "does upstream build with this compiler? The first error in the log matters";
        self.kbuild.build(ctx, &["all"], 120, hint)?;
        let config = read_text(&self.kbuild.objects.join(".config"))?;
        let said = (config, boot(ctx, "pristine", &self.kbuild.objects, &self.programs, self.suites)?);
        // One that got into trouble is worth another try.
        if said.1.trouble.is_none() && said.1.suites.values().all(|s| s.trouble().is_none()) {
            state::remember(ctx, MEMORY, &self.key, &said)?;
        }
        Ok(said)
    }
}

/// But for our options the two kernels are configured alike.
fn same_configuration(ctx: &Ctx, theirs: &str) -> Result<()> {
    let ours = read_text(&ctx.objects().join(".config"))?;
    let options = kconfig::our_options(ctx)?;
    let lines = |text: &str| -> BTreeSet<String> {
        let not_ours = |line: &&str| kconfig::option(line).is_some_and(|o| !options.contains(&o));
        text.lines().filter(not_ours).map(String::from).collect()
    };
    let (theirs, ours) = (lines(theirs), lines(&ours));
    let different: Vec<_> = theirs.symmetric_difference(&ours).map(String::as_str).collect();
    if !different.is_empty() {
        bail!("the two kernels are configured differently:\n  {}", different.join("\n  "));
    }
    Ok(())
}

/// Runs the suites on one kernel.
fn boot(ctx: &Ctx, name: &str, objects: &Path, programs: &[PathBuf], suites: &[&Suite]) -> Result<Run> {
    let guest = Guest {
        words: WORDS,
        processors: PROCESSORS,
        minutes: 5 + suites.iter().map(|s| s.minutes).sum::<u64>(),
        ..Guest::new(objects, name, programs, vec!["upstream.sh".into()])
    };
    let mut run = Run::default();
    let mut reading: Option<(String, Reader, Instant)> = None;
    let mut end = |reading: Option<(String, Reader, Instant)>, status| {
        let Some((name, reader, since)) = reading else { return };
        let said = reader.end(status, since.elapsed().as_secs());
        let Count { passed, failed, skipped, expected } = said.count();
        ctx.ui.note(&format!(
            "{name}: {passed} passed, {failed} failed, {skipped} skipped, {expected} failed as expected ({} s)",
            said.seconds
        ));
        run.suites.insert(name, said);
    };
    let booted = guest.boot(ctx, |line| match line {
        Line::Begin(name) if suites.iter().any(|s| s.name == name) => {
            reading = Some((name.into(), Reader::default(), Instant::now()));
        }
        Line::End(status) => end(reading.take(), Some(status)),
        Line::Program(text) => {
            if let (Some((_, reader, _)), Some(text)) = (&mut reading, text.strip_prefix("# ")) {
                reader.line(text);
            }
        }
        _ => {}
    });
    end(reading, None);
    run.trouble = booted.err().map(|e| format!("{e:#}"));
    Ok(run)
}

/// Prints what came of it. How many things failed.
fn report(suites: &[&Suite], theirs: &Run, ours: &Run) -> usize {
    let kernels = [("pristine", theirs), ("ours", ours)];
    let (mut total, mut failed, mut diffs) = (Count::default(), 0, String::new());
    println!("\n{:28} {:^27}  {:^27}", "", "pristine", "ours");
    let head = format!("{:>6}{:>6}{:>6}{:>6}   ", "pass", "fail", "xfail", "skip");
    println!("{:28} {head}  {head}", "suite");
    for suite in suites {
        let nothing = Said::default();
        let said = kernels.map(|(_, run)| run.suites.get(suite.name).unwrap_or(&nothing));
        let mut verdicts = Vec::new();
        for (said, (kernel, _)) in said.iter().zip(&kernels) {
            if let Some(trouble) = said.trouble() {
                failed += 1;
                verdicts.push(format!("FAILED: {trouble} on {kernel}"));
            }
        }
        let compared = compare(said[0], said[1]);
        let same = compared.same;
        total.passed += same.passed + same.expected;
        total.failed += same.failed;
        total.skipped += same.skipped;
        failed += compared.different;
        if compared.different > 0 {
            verdicts.push(format!("DIFFERS in {}", compared.different));
            diffs += &format!("\n{}: - pristine, + ours\n{}", suite.name, compared.diff);
        } else if verdicts.is_empty() {
            verdicts.push(match same {
                Count { passed: 0, failed: 0, expected: 0, .. } => "nothing ran: all skipped".into(),
                Count { failed: 0, .. } => "same".into(),
                Count { failed, .. } => format!("same: {failed} fail on both"),
            });
        }
        let columns = said.map(|s| {
            let Count { passed, failed, skipped, expected } = s.count();
            format!("{passed:>6}{failed:>6}{expected:>6}{skipped:>6}   ")
        });
        println!("{:28} {}  {}", suite.name, columns.join("  "), verdicts.join("; "));
    }
    print!("{diffs}");
    if !diffs.is_empty() {
        println!("\nwhat the pristine kernel said may be of an earlier run; FORCE=1 asks it again");
    }
    for (kernel, run) in kernels {
        if let Some(trouble) = &run.trouble {
            failed += 1;
            println!("\nthe {kernel} kernel: {trouble}");
        }
    }
    if total.failed > 0 {
        println!("\nfail on both kernels alike, and are counted neither way: {}", total.failed);
    }
    println!("\n{} passed, {failed} failed, {} skipped on both", total.passed, total.skipped);
    failed
}
