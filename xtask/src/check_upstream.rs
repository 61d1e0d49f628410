// SPDX-License-Identifier: GPL-2.0

//! `make check-upstream`: upstream's own tests of memory management, and of what else touches a
//! program's memory, say on our kernel what they say on a pristine one.
//!
//! Two kernels of one configuration, but for our options, run the same programs in the same guest,
//! and each outcome is compared with its like. A test that fails on both is shown and is no
//! difference; a program that dies, a guest that hangs, a kernel that complains is a failure on
//! whichever kernel. A suite that differs is run again, see tries.rs. What the pristine kernel said
//! is kept in the cache, for as long as nothing changes that it depends on.

use crate::cli::Config;
use crate::ctx::Ctx;
use crate::guest::words;
use crate::kernel::{self, Kbuild};
use crate::selftests::{self, Run, Suite};
use crate::suites::SUITES;
use crate::tries::Tries;
use crate::util::{read_text, write_if_changed};
use crate::{initramfs, kconfig, state, toolchain, tree, worktree};
use anyhow::{bail, Context, Result};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

const MEMORY: &str = "upstream";

pub fn run(ctx: &Ctx) -> Result<()> {
    if ctx.config != Config::Plain {
        bail!("check-upstream compares plain kernels; leave out CONFIG=");
    }
    let suites = selftests::chosen(ctx, SUITES)?;
    ctx.ui.plan(9);
    if !kernel::prepare(ctx)? {
        bail!(tree::ELSEWHERE);
    }
    let pristine = Pristine::new(ctx, &suites)?;
    kernel::build(ctx)?;
    let (config, theirs) = pristine.run()?;
    same_configuration(ctx, &config)?;
    let ours = pristine.boot("ours", &ctx.objects(), &suites)?;
    let mut tries = Tries::new(&suites, theirs, ours);
    while let Some((nth, again)) = tries.again() {
        let names: Vec<_> = again.iter().map(|s| s.name).collect();
        ctx.ui.note(&format!("in trouble or not the same, so both kernels try again: {}", names.join(" ")));
        // Of one whose results are known there may be no kernel.
        pristine.build()?;
        let theirs = pristine.boot(&format!("pristine-{nth}"), &pristine.kbuild.objects, &again)?;
        let ours = pristine.boot(&format!("ours-{nth}"), &ctx.objects(), &again)?;
        tries.add(theirs, ours);
    }
    pristine.remember(&(config, tries.theirs()))?;
    let (text, failed) = tries.report();
    print!("{text}");
    if failed > 0 {
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
    /// The last one is the list of suites, which the guest's script reads.
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
        programs.extend(selftests::script(&dir.join("guest"), &selftests::list(suites))?);
        // Our options alone are off; Rust stays.
        let mut fragments = kconfig::fragments(ctx, Config::Plain);
        fragments.push(kconfig::without_ours(ctx, &dir, &[])?);
        let seen = [
            initramfs::INIT,
            include_str!("verdicts.rs"),
            words(ctx.arch),
            &selftests::PROCESSORS.to_string(),
        ]
        .concat();
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
        self.build()?;
        let config = read_text(&self.kbuild.objects.join(".config"))?;
        let said = (config, self.boot("pristine", &self.kbuild.objects, self.suites)?);
        self.remember(&said)?;
        Ok(said)
    }

    fn build(&self) -> Result<()> {
        let ctx = self.ctx;
        ctx.ui.step("kernel", &format!("{}, pristine", ctx.arch.name()));
        kconfig::make(ctx, &self.kbuild, &self.fragments, true)?;
        let hint = "does upstream build with this compiler? The first error in the log matters";
        self.kbuild.build(ctx, &["all"], 120, hint)
    }

    /// Keeps what it said, but for one that got into trouble, which is worth another try.
    fn remember(&self, said: &(String, Run)) -> Result<()> {
        if said.1.trouble.is_none() && said.1.suites.values().all(|s| s.trouble().is_none()) {
            state::remember(self.ctx, MEMORY, &self.key, said)?;
        }
        Ok(())
    }

    /// Runs suites on one of the kernels.
    fn boot(&self, name: &str, objects: &Path, suites: &[&Suite]) -> Result<Run> {
        if let Some(list) = self.programs.last() {
            write_if_changed(list, selftests::list(suites).as_bytes())?;
        }
        Ok(selftests::boot(self.ctx, name, objects, &self.programs, suites))
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
