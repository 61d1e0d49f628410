// SPDX-License-Identifier: GPL-2.0

//! `make bisect-check`: a person can stop at every commit of the branch in a bisection, and send it.
//!
//! Each commit is built with our options on, as far as it has them, and with them off. Both kernels
//! boot, and where the commit has tests, they pass. Its message and its patch are as upstream wants
//! them. What was proved of a commit is kept in the cache: the next run looks only at what is new.

use crate::branch::Branch;
use crate::check::{self, Report, Reports};
use crate::commits::{self, Commit};
use crate::ctx::Ctx;
use crate::guest::Guest;
use crate::kernel::{self, Kbuild};
use crate::tap::State;
use crate::ui::clock;
use crate::util::{read_text, write_if_changed};
use crate::{boot, initramfs, kconfig, lint, patch, programs, scripts, state, toolchain, tree, worktree};
use anyhow::{bail, Result};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// What runs in the guest of a commit that has no tests: busybox has it.
const PLAIN: [&str; 2] = ["uname", "-a"];
/// MiB that the test program moves.
const MIB: u32 = 16;
/// The tests of a commit, and the option without which they cannot run.
const SELFTESTS: &str = "tools/testing/selftests/userfault";
const OPTION: &str = "CONFIG_REMAP_ANON_PAGES=y";

pub fn run(ctx: &Ctx) -> Result<()> {
    // What precedes, the series, and of each commit itself and at most three boots.
    ctx.ui.plan(4 + patch::series(ctx)?.len() as u32 * 4);
    if !kernel::prepare(ctx)? {
        bail!(tree::ELSEWHERE);
    }
    ctx.ui.step("series", "upstream..userfault");
    let git = tree::git(ctx);
    let commits = commits::load(&git)?;
    let kernels = kernels(ctx)?;
    let mut report = Report::default();
    report.add(ctx, "a straight series, not too long", commits::series(&git, &commits));
    let branch = Branch::new(ctx, git)?;
    for commit in &commits {
        let name = commit.name();
        ctx.ui.step("commit", &format!("{name} {}", commit.subject));
        let mut add = |what: &str, result| report.add(ctx, &format!("{name} {what}"), result);
        add("message", commit.message());
        add("one concern", commit.concern());
        add("checkpatch.pl", commit.patch(ctx).and_then(|patch| scripts::checkpatch(ctx, &patch)));
        add("get_maintainer.pl", commit.recipients(ctx));
        add("MAINTAINERS", commit.maintained(&branch));
        for kernel in &kernels {
            let what = format!("builds and boots with our options {}", kernel.options);
            match kernel.prove(ctx, commit) {
                Ok(how) => add(&format!("{what} ({how})"), Ok(())),
                Err(e) => add(&what, Err(e)),
            }
        }
    }
    report.finish()
}

/// A configuration, with a folder of objects of its own, in which one commit after the other is built.
struct Kernel {
    options: &'static str,
    kbuild: Kbuild,
    fragments: Vec<PathBuf>,
}

fn kernels(ctx: &Ctx) -> Result<[Kernel; 2]> {
    let dir = ctx.build.join("bisect");
    // Our options alone: Rust stays, so that it is built without them too.
    let fragment = kconfig::without_ours(ctx, &dir, &[])?;
    let kernel = |options, added: &[PathBuf]| {
        let (name, source, objects) = (format!("bisect-{options}"), dir.join("linux"), dir.join(options));
        anyhow::Ok(Kernel {
            options,
            kbuild: Kbuild::new(ctx, &name, source, objects, toolchain::find(ctx)?),
            fragments: [&kconfig::fragments(ctx, ctx.config), added].concat(),
        })
    };
    Ok([kernel("on", &[])?, kernel("off", &[fragment])?])
}

impl Kernel {
    /// Builds and boots a commit, unless that is known to be well. Says how it came to know.
    fn prove(&self, ctx: &Ctx, commit: &Commit) -> Result<String> {
        let what = format!("{PLAIN:?} {MIB} {}", initramfs::INIT);
        let key =
            |fragments: &[PathBuf]| worktree::key(ctx, &commit.id, &self.kbuild.toolchain, &what, fragments);
        let known = |key: &str| state::recall::<()>(ctx, "bisect", key).is_some();
        let asked = key(&self.fragments)?;
        if known(&asked) {
            return Ok("known".into());
        }
        let started = Instant::now();
        worktree::check_out(ctx, &self.kbuild.source, &commit.id)?;
        // A compiler says once what it has to say, so a build that came to no good end begins anew.
        let unproved = self.kbuild.objects.with_extension("unproved");
        if unproved.exists() && self.kbuild.objects.exists() {
            std::fs::remove_dir_all(&self.kbuild.objects)?;
        }
        kconfig::make(ctx, &self.kbuild, &self.fragments, false)?;
        // Before the commit that brings our options, on and off are the same.
        let config = self.kbuild.objects.join(".config");
        let made = key(std::slice::from_ref(&config))?;
        if known(&made) {
            state::remember(ctx, "bisect", &asked, &())?;
            return Ok("a configuration that is known".into());
        }
        write_if_changed(&unproved, b"")?;
        self.build(ctx, commit)?;
        std::fs::remove_file(unproved)?;
        let tests = self.kbuild.source.join(SELFTESTS);
        let able = read_text(&config)?.lines().any(|line| line == OPTION);
        match able && tests.is_dir() {
            true => self.test(ctx, commit, &tests)?,
            false => self.boot(ctx, commit)?,
        }
        for key in [asked, made] {
            state::remember(ctx, "bisect", &key, &())?;
        }
        Ok(clock(started.elapsed()))
    }

    /// Names logs.
    fn log(&self, commit: &Commit) -> String {
        format!("bisect-{}-{}", commit.place.0, self.options)
    }

    /// Kernel and user headers, without a warning of a file that the branch touches.
    fn build(&self, ctx: &Ctx, commit: &Commit) -> Result<()> {
        let log = self.log(commit);
        let hint =
            "what the commit needs comes with a later one, or it lacks an #ifdef where our options are off";
        self.kbuild.build_to(ctx, &log, &["all", "headers"], 120, hint)?;
        let touched = tree::touched(ctx, &commit.id)?;
        let said = lint::complaints(&read_text(&ctx.log(&log))?, |path| touched.contains(path));
        if !said.is_empty() {
            bail!("it builds with warnings:\n{}\n  log: {}", said.join("\n"), ctx.log(&log).display());
        }
        Ok(())
    }

    /// Boots to the end without a complaint of the kernel.
    fn boot(&self, ctx: &Ctx, commit: &Commit) -> Result<()> {
        let (name, command) = (self.log(commit), PLAIN.map(String::from).to_vec());
        let guest = Guest { minutes: 5, ..Guest::new(&self.kbuild.objects, &name, &[], command) };
        match guest.boot(ctx, |_| ())?.ended.get(PLAIN[0]) {
            Some(0) => Ok(()),
            status => bail!("{} ended with status {}", PLAIN[0], status.unwrap_or(&-1)),
        }
    }

    /// Boots, and passes the tests that the commit has.
    fn test(&self, ctx: &Ctx, commit: &Commit, tests: &Path) -> Result<()> {
        let objects = &self.kbuild.objects;
        let name = self.log(commit);
        let program = programs::compile(ctx, tests, objects)?;
        boot::test_program(ctx, objects, &name, &program, MIB, |_| ())?;
        let programs = programs::tests_of(ctx, tests, objects)?;
        let mut reports = Reports::default();
        check::tests(ctx, objects, &format!("{name}-tests"), &programs, &[], &mut reports)?;
        // A commit may be older than the kernel's own tests.
        let outcomes = reports.kunit.outcomes.iter().chain(&reports.tests.outcomes);
        let failed = outcomes.filter(|o| o.state == State::Failed).map(|o| o.name.as_str());
        let failed: Vec<&str> = failed.collect();
        if !failed.is_empty() {
            bail!(
                "{} tests failed:\n    {}\n  console: {}",
                failed.len(),
                failed.join("\n    "),
                ctx.log(&format!("console-{name}-tests-{}", self.options)).display()
            );
        }
        Ok(())
    }
}
