// SPDX-License-Identifier: GPL-2.0

//! `make lint`: rustfmt and clippy, on kernel code the kernel's way, on user code cargo's.

use crate::ctx::Ctx;
use crate::kernel::{self, Kbuild};
use crate::run::{Job, MINUTE};
use crate::util::ends_in;
use crate::{deps, kconfig, overlay, programs, rules, toolchain, tree};
use anyhow::{bail, Result};
use std::path::Path;

pub fn run(ctx: &Ctx) -> Result<()> {
    ctx.ui.plan(7);
    let ours = kernel::prepare(ctx)?;
    ready(ctx)?;
    kernel_format(ctx)?;
    for (name, dir) in [("xtask", ctx.root.join("xtask")), ("tests", ctx.selftests().join("tests"))] {
        ctx.ui.step("user", name);
        user(ctx, name, &dir)?;
    }
    kernel_clippy(ctx, ours)?;
    println!("rustfmt and clippy have nothing to say");
    Ok(())
}

/// Sees to it that rustfmt and clippy are there, for the kernel's rustc and for our cargo.
fn ready(ctx: &Ctx) -> Result<()> {
    let missing = || -> Result<bool> {
        let toolchain = toolchain::find(ctx)?;
        let kernel = ["rustfmt", "clippy-driver"].iter().all(|p| toolchain.rustc.with_file_name(p).exists());
        let runs = |what: &str| {
            let run = programs::cargo(&[what, "--version"]).stdout_null().stderr_null().unchecked().run();
            run.is_ok_and(|out| out.status.success())
        };
        Ok(!kernel || !runs("fmt") || !runs("clippy"))
    };
    if missing()? {
        deps::refresh(ctx)?;
        deps::install(ctx, &toolchain::linters())?;
    }
    if missing()? {
        bail!("no rustfmt or no clippy for the cargo that runs this; with rustup: rustup component add rustfmt clippy");
    }
    Ok(())
}

/// Whether a file is kernel code: the rest of ours is built by cargo.
fn in_kernel(path: &str) -> bool {
    path.ends_with(".rs") && !path.starts_with("tools/")
}

fn kernel_format(ctx: &Ctx) -> Result<()> {
    ctx.ui.step("rustfmt", "kernel code");
    let toolchain = toolchain::find(ctx)?;
    let files: Vec<_> =
        overlay::files(ctx)?.into_iter().filter(|(p, _)| in_kernel(p)).map(|(_, f)| f.source).collect();
    if files.is_empty() {
        return Ok(());
    }
    let mut args = vec!["--check".into(), "--edition=2021".into(), "--config-path".into()];
    args.push(ctx.linux().join(".rustfmt.toml").into_os_string());
    args.extend(files.into_iter().map(|f| f.into_os_string()));
    let what = duct::cmd(toolchain.rust_program("rustfmt"), args).stdin_null();
    let hint = "run rustfmt --edition=2021 --config-path build/linux/.rustfmt.toml on the files named above";
    Job { ctx, name: "rustfmt-kernel", what, limit: 2 * MINUTE, hint }.run()
}

fn user(ctx: &Ctx, name: &str, dir: &Path) -> Result<()> {
    let target = ctx.build.join("lint");
    let job = |what: &str, args: &[&str], hint: &str| {
        let what_to_run = programs::cargo(args).dir(dir).env("CARGO_TARGET_DIR", &target);
        Job { ctx, name: &format!("{what}-{name}"), what: what_to_run, limit: 15 * MINUTE, hint }.run()
    };
    job("rustfmt", &["fmt", "--check"], "cargo fmt in that folder")?;
    let clippy = ["clippy", "--locked", "--all-targets", "--", "-D", "warnings"];
    job("clippy", &clippy, "do what clippy says")
}

/// Builds the Rust of the kernel with clippy in rustc's place, and shows what it says of our files.
fn kernel_clippy(ctx: &Ctx, strict: bool) -> Result<()> {
    ctx.ui.step("clippy", "kernel code");
    let objects = ctx.build.join(format!("{}-clippy", ctx.arch.name()));
    let kbuild = Kbuild::new(ctx, "clippy", ctx.linux(), objects, toolchain::find(ctx)?);
    kconfig::make(ctx, &kbuild, &kconfig::fragments(ctx, ctx.config), strict)?;
    // What is built already, clippy does not look at again: build what could be ours anew.
    let mut targets = vec!["CLIPPY=1", "prepare"];
    for stale in ["rust/macros.o", "rust/libmacros.so", "rust/kernel.o"] {
        let _ = std::fs::remove_file(kbuild.objects.join(stale));
    }
    for (folder, root) in rules::POLICY {
        if ctx.linux().join(root).exists() {
            let _ = std::fs::remove_file(kbuild.objects.join(root).with_extension("o"));
            targets.push(folder);
        }
    }
    kbuild.build(ctx, &targets, 30, "the compiler's message says what")?;
    let log = std::fs::read_to_string(ctx.log("clippy"))?;
    let touched = tree::touched(ctx, "HEAD")?;
    let said = complaints(&log, |path| touched.contains(path));
    if !said.is_empty() {
        bail!("clippy or rustc warn of kernel code:\n{}", said.join("\n"));
    }
    Ok(())
}

/// The warnings whose place is a file that `ours` knows.
pub fn complaints(log: &str, ours: impl Fn(&str) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    let mut block: Vec<&str> = Vec::new();
    let mut flush = |block: &mut Vec<&str>| {
        // rustc names the place below its message, clang before it.
        let below = block.iter().find_map(|l| l.trim_start().strip_prefix("--> "));
        let place = below.or(block.first().copied()).and_then(|l| l.split(':').next());
        if place.is_some_and(|path| ends_in(path, &ours)) {
            found.push(block.join("\n"));
        }
        block.clear();
    };
    for line in log.lines() {
        let begins = line.starts_with("warning") || line.starts_with("error") || line.contains(": warning: ");
        if begins || line.starts_with("  RUST") {
            flush(&mut block);
        }
        // Kbuild's own lines, such as "  CC      mm/memory.o", stand anywhere.
        let kbuild = line.strip_prefix("  ").is_some_and(|l| l.starts_with(|c: char| c.is_ascii_uppercase()));
        if !kbuild && (begins || !block.is_empty()) {
            block.push(line);
        }
    }
    flush(&mut block);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_our_warnings() {
        let log = "warning: unused\n  --> /w/build/linux/mm/userfault/fault.rs:3:1\n   |\n\
                   warning: other\n  --> /w/build/linux/rust/kernel/page.rs:3:1\n";
        assert_eq!(complaints(log, |p| p == "mm/userfault/fault.rs").len(), 1);
        assert!(complaints(log, |p| p == "x").is_empty());
        let log =
            "  CC      mm/memory.o\n../linux/include/linux/mm.h:3:1: warning: unused\n    3 | int a;\n  \
                   CC      mm/rmap.o\n../linux/mm/rmap.c:3:1: warning: other\n";
        assert_eq!(
            complaints(log, |p| p == "include/linux/mm.h"),
            ["../linux/include/linux/mm.h:3:1: warning: unused\n    3 | int a;"]
        );
    }
}
