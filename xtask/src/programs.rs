// SPDX-License-Identifier: GPL-2.0

//! The programs that run in the guest, linked statically. Those in C are built against the user headers
//! in a build folder, which must be there.

use crate::cli::Arch;
use crate::ctx::Ctx;
use crate::run::{Job, MINUTE};
use crate::toolchain;
use anyhow::Result;
use std::path::{Path, PathBuf};

/// The test program in C.
pub fn test_program(ctx: &Ctx) -> Result<PathBuf> {
    ctx.ui.step("program", "the test program");
    compile(ctx, &ctx.selftests(), &ctx.plain())
}

/// The examples of Documentation/admin-guide/mm/userfault.rst.
pub const EXAMPLES: [&str; 2] = ["lazy_image", "serve_holes"];

/// One of them. People paste it: no compiler of theirs is to complain.
pub fn example(ctx: &Ctx, name: &str) -> Result<PathBuf> {
    ctx.ui.step("program", &format!("{name}, an example of the documentation"));
    gcc(ctx, name, &ctx.selftests(), &ctx.plain(), &["-pthread", "-Wpedantic", "-Werror"])
}

/// The tests in Rust, and what they run.
pub fn tests(ctx: &Ctx) -> Result<Vec<PathBuf>> {
    ctx.ui.step("tests", "the tests in Rust");
    tests_of(ctx, &ctx.selftests(), &ctx.plain())
}

/// Compiles the test program of a folder of selftests, with the headers that a build folder has.
pub fn compile(ctx: &Ctx, selftests: &Path, objects: &Path) -> Result<PathBuf> {
    gcc(ctx, "remap_anon_pages", selftests, objects, &["-pthread"])
}

/// Builds the tests of a folder of selftests, in a build folder. The first is their program.
pub fn tests_of(ctx: &Ctx, selftests: &Path, objects: &Path) -> Result<Vec<PathBuf>> {
    let target = ctx.arch.user_target();
    let dir = objects.join("tests/cargo");
    let mut args = vec!["build", "--release", "--locked", "--target", target];
    let mut flags = "-C target-feature=+crt-static".to_string();
    if ctx.arch == Arch::Powerpc {
        // Debian has Rust's library for the host only, but its source.
        args.push("-Zbuild-std=std,panic_unwind");
        flags += &format!(" -C linker={}", ctx.arch.gcc());
    }
    let mut what =
        cargo(&args).dir(selftests.join("tests")).env("RUSTFLAGS", flags).env("CARGO_TARGET_DIR", &dir);
    if ctx.arch == Arch::Powerpc {
        what = what.env("RUSTC_BOOTSTRAP", "1").env("RUSTC", toolchain::find(ctx)?.rustc);
    }
    let hint = "the compiler's message says what; is crates.io in reach?";
    Job { ctx, name: "tests", what, limit: 20 * MINUTE, hint }.run()?;
    let mut programs = vec![dir.join(target).join("release/userfault-tests")];
    // An older commit of the branch may not have it.
    if selftests.join("userfault-32.c").exists() {
        // It needs no libc for 32 bits.
        let alone = ["-m32", "-nostdlib", "-ffreestanding", "-fno-pic", "-no-pie", "-fno-stack-protector"];
        programs.push(gcc(ctx, "userfault-32", selftests, objects, &alone)?);
    }
    Ok(programs)
}

/// Compiles one program in C for the guest.
fn gcc(ctx: &Ctx, name: &str, selftests: &Path, objects: &Path, options: &[&str]) -> Result<PathBuf> {
    let out = objects.join("tests").join(name);
    std::fs::create_dir_all(objects.join("tests"))?;
    let mut args: Vec<String> = ["-static", "-O2", "-Wall", "-Wextra"].map(String::from).into();
    args.extend(options.iter().map(|o| o.to_string()));
    // As where a distribution has them, so that their own style is of no interest.
    args.extend(["-isystem".into(), objects.join("usr/include").display().to_string()]);
    args.extend(["-o".into(), out.display().to_string()]);
    args.push(selftests.join(name).with_extension("c").display().to_string());
    let hint = "the compiler's message says what; the headers come from include/uapi";
    let log = format!("compile-{name}");
    Job { ctx, name: &log, what: duct::cmd(ctx.arch.gcc(), args), limit: 2 * MINUTE, hint }.run()?;
    Ok(out)
}

/// The cargo that runs us, without what it told us.
pub fn cargo(args: &[&str]) -> duct::Expression {
    let cargo = std::env::var("CARGO").unwrap_or("cargo".into());
    let mut command = duct::cmd(cargo, args).stdin_null();
    for (key, _) in std::env::vars() {
        if key.starts_with("CARGO_PKG_") || key.starts_with("CARGO_MANIFEST_") {
            command = command.env_remove(key);
        }
    }
    command
}
