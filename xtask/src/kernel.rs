// SPDX-License-Identifier: GPL-2.0

//! `make kernel`: the build, in a folder of its own beside the tree.

use crate::cli::{self, Cli};
use crate::ctx::Ctx;
use crate::run::{Job, MINUTE};
use crate::toolchain::{self, Toolchain};
use crate::{deps, headers, kconfig, state, tree};
use anyhow::Result;
use clap::CommandFactory;
use std::path::PathBuf;

/// Where and with what a kernel is built.
pub struct Kbuild {
    /// Names the folder in messages and in what xtask remembers.
    pub name: String,
    pub source: PathBuf,
    pub objects: PathBuf,
    pub toolchain: Toolchain,
    arch: &'static str,
    ccache: Vec<(&'static str, String)>,
}

impl Kbuild {
    pub fn new(ctx: &Ctx, name: &str, source: PathBuf, objects: PathBuf, toolchain: Toolchain) -> Self {
        let mut ccache = vec![
            // Paths are made relative to the build folder, and what still names one is not looked
            // at: so the same source in two folders, or two clones, shares its objects.
            ("CCACHE_BASEDIR", ctx.build.display().to_string()),
            ("CCACHE_NOHASHDIR", "1".into()),
            ("CCACHE_IGNOREOPTIONS", "-fmacro-prefix-map=*".into()),
        ];
        if std::env::var_os("CCACHE_DIR").is_none() {
            ccache.push(("CCACHE_DIR", ctx.cache.join("ccache").display().to_string()));
        }
        Self { name: name.into(), source, objects, toolchain, arch: ctx.arch.name(), ccache }
    }

    /// `make` with all that Kbuild must be told.
    pub fn make(&self, targets: &[&str]) -> duct::Expression {
        let jobs = std::thread::available_parallelism().map_or(2, usize::from);
        let mut args: Vec<String> = vec![
            "-C".into(),
            self.source.display().to_string(),
            format!("-j{jobs}"),
            format!("O={}", self.objects.display()),
            format!("ARCH={}", self.arch),
            // Not set at all, it gives the version a "+" for each commit after the tag.
            "LOCALVERSION=".into(),
            "KBUILD_BUILD_USER=userfault".into(),
            "KBUILD_BUILD_HOST=localhost".into(),
            // ccache makes paths relative; __FILE__ is to be as if it did not.
            "KCPPFLAGS=-fmacro-prefix-map=../linux/=".into(),
        ];
        args.extend(self.toolchain.variables());
        args.extend(targets.iter().map(|t| t.to_string()));
        let mut make = make(&args);
        for (key, value) in self.toolchain.environment() {
            make = make.env(key, value);
        }
        for (key, value) in &self.ccache {
            make = make.env(key, value);
        }
        make
    }

    /// Builds with a bar that knows how many lines the last build of the same kind printed.
    pub fn build(&self, ctx: &Ctx, targets: &[&str], limit: u32, hint: &str) -> Result<()> {
        self.build_to(ctx, &self.name, targets, limit, hint)
    }

    /// The same with a log of another name.
    pub fn build_to(&self, ctx: &Ctx, log: &str, targets: &[&str], limit: u32, hint: &str) -> Result<()> {
        let memory = format!("lines-{}", self.name);
        let last: u64 = state::load(ctx, &memory);
        let total = (last > 0).then_some(last);
        let bar = ctx.ui.bar(
            total,
            if total.is_some() { "{pos}/{len} {elapsed} {wide_msg}" } else { "{pos} {elapsed} {wide_msg}" },
        );
        let job = Job { ctx, name: log, what: self.make(targets), limit: limit * MINUTE, hint };
        let lines = job.run_with(&bar, |line| {
            bar.set_message(line.trim().to_string());
            if line.contains("warning:") && !ctx.ui.verbose {
                bar.suspend(|| println!("      {line}"));
            }
        })?;
        if lines > last {
            state::save(ctx, &memory, &lines)?;
        }
        Ok(())
    }
}

/// `make` without what our own make was told, which is not meant for another.
pub fn make(args: &[String]) -> duct::Expression {
    let make = ["MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES"]
        .iter()
        .fold(duct::cmd("make", args).stdin_null(), |make, variable| make.env_remove(variable));
    Cli::command()
        .get_arguments()
        .filter_map(|argument| argument.get_env())
        .fold(make, |make, variable| make.env_remove(variable))
}

/// The kernel that the command line asks for.
fn kbuild(ctx: &Ctx) -> Result<Kbuild> {
    let objects = ctx.objects();
    let name = objects.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(Kbuild::new(ctx, &format!("kernel-{name}"), ctx.linux(), objects, toolchain::find(ctx)?))
}

pub fn run(ctx: &Ctx) -> Result<()> {
    ctx.ui.plan(4);
    prepare(ctx)?;
    build(ctx)?;
    println!("{}", ctx.image().display());
    Ok(())
}

/// Programs and tree: what every build begins with.
pub fn prepare(ctx: &Ctx) -> Result<bool> {
    deps::all(ctx)?;
    tree::ensure(ctx)
}

/// What programs in the guest need: the kernel that boots, and the user headers.
pub fn ready(ctx: &Ctx) -> Result<()> {
    prepare(ctx)?;
    build(ctx)?;
    headers::install(ctx)
}

/// Configures the kernel that the command line asks for.
pub fn configure(ctx: &Ctx) -> Result<Kbuild> {
    let kbuild = kbuild(ctx)?;
    let mut fragments = kconfig::fragments(ctx, ctx.config);
    fragments.extend(kconfig::without(ctx, &kbuild.objects, &ctx.without)?);
    // In the middle of a bisection the tree may lack options that the fragments name.
    kconfig::make(ctx, &kbuild, &fragments, tree::on_branch(ctx))?;
    Ok(kbuild)
}

/// Configures and builds the kernel that the command line asks for.
pub fn build(ctx: &Ctx) -> Result<()> {
    let mut kind = cli::name(ctx.config);
    if !ctx.without.is_empty() {
        kind = format!("{kind}, without {}", ctx.without.join(" "));
    }
    ctx.ui.step("kernel", &format!("{}, {kind}", ctx.arch.name()));
    let kbuild = configure(ctx)?;
    let hint = "the first error in the log is the one that matters; make kernel V=1 shows every line";
    kbuild.build(ctx, &[ctx.arch.target()], 120, hint)
}
