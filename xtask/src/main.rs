// SPDX-License-Identifier: GPL-2.0

//! The program behind `make`.
//!
//! The repository holds only what we add to Linux. This program fetches upstream, lays our
//! patches and files onto it as a git branch, builds the result, boots it in QEMU and runs the
//! tests in it. Each command has a file of its own; this one only picks.

mod bench;
mod bisect;
mod boot;
mod branch;
mod check;
mod check_deb;
mod check_upstream;
mod cli;
mod commits;
mod console;
mod coverage;
mod ctx;
mod deb;
mod debian;
mod deps;
mod docs;
mod elf;
mod export;
mod fresh;
mod fuzz;
mod git;
mod guest;
mod headers;
mod help;
mod initramfs;
mod kconfig;
mod kernel;
mod lint;
mod maintainers;
mod mbox;
mod off;
mod overlay;
mod patch;
mod plot;
mod programs;
mod qemu;
mod root;
mod rules;
mod run;
mod scripts;
mod selftests;
mod series;
mod shell;
mod state;
mod stress;
mod suites;
mod tap;
mod toolchain;
mod torture;
mod tree;
mod tries;
mod ui;
mod upstream;
mod util;
mod verdicts;
mod worktree;

use clap::Parser;
use cli::{Cli, Command};

fn main() -> std::process::ExitCode {
    let cli = Cli::parse();
    let ctx = match ctx::Ctx::new(&cli) {
        Ok(ctx) => ctx,
        Err(e) => return fail(&e),
    };
    let done = match cli.command {
        Command::Help => help::run(),
        Command::Deps => deps::run(&ctx),
        Command::Tree => tree::run(&ctx),
        Command::Export => export::run(&ctx),
        Command::Kernel => kernel::run(&ctx),
        Command::Headers => headers::run(&ctx),
        Command::Boot => boot::run(&ctx),
        Command::Shell => shell::run(&ctx),
        Command::Check => check::run(&ctx),
        Command::Bench => bench::run(&ctx),
        Command::Torture => torture::run(&ctx),
        Command::Fuzz => fuzz::run(&ctx),
        Command::CheckUpstream => check_upstream::run(&ctx),
        Command::Stress => stress::run(&ctx),
        Command::Deb => deb::run(&ctx),
        Command::CheckDeb => check_deb::run(&ctx),
        Command::Lint => lint::run(&ctx),
        Command::Docs => docs::run(&ctx),
        Command::Off => off::run(&ctx),
        Command::BisectCheck => bisect::run(&ctx),
        Command::Mbox => mbox::run(&ctx),
        Command::CheckFresh => fresh::run(&ctx),
    };
    match done {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(e) => fail(&e),
    }
}

/// Prints an error with all that led to it.
fn fail(error: &anyhow::Error) -> std::process::ExitCode {
    eprintln!("\nerror: {error}");
    for cause in error.chain().skip(1) {
        eprintln!("  because: {cause}");
    }
    std::process::ExitCode::FAILURE
}
