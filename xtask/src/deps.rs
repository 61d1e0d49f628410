// SPDX-License-Identifier: GPL-2.0

//! The programs that all this needs: says which are missing, and installs them on Debian.

use crate::cli::{Arch, Config};
use crate::ctx::Ctx;
use crate::run::{Job, MINUTE};
use crate::util::which;
use crate::{debian, elf, toolchain};
use anyhow::{bail, Context, Result};
use std::io::{BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};

/// How to see that something is there.
pub enum Sign {
    Program(&'static str),
    File(&'static str),
    StaticProgram(&'static str),
}

/// What must be there, and Debian's package of it.
pub type Need = (Sign, &'static str);

/// What each thing is for is plain from its name; beside it Debian's package.
const NEEDED: [Need; 17] = [
    (Sign::Program("git"), "git"),
    (Sign::Program("make"), "make"),
    (Sign::Program("gcc"), "gcc"),
    (Sign::File("/usr/include/stdlib.h"), "libc6-dev"),
    (Sign::Program("flex"), "flex"),
    (Sign::Program("bison"), "bison"),
    (Sign::Program("bc"), "bc"),
    (Sign::Program("perl"), "perl"),
    (Sign::Program("python3"), "python3"),
    (Sign::Program("cpio"), "cpio"),
    (Sign::Program("rsync"), "rsync"),
    (Sign::Program("tar"), "tar"),
    (Sign::Program("xz"), "xz-utils"),
    (Sign::Program("find"), "findutils"),
    (Sign::Program("diff"), "diffutils"),
    (Sign::File("/usr/include/gelf.h"), "libelf-dev"),
    (Sign::Program("ccache"), "ccache"),
];

/// What else an architecture needs.
fn needed_for(arch: Arch) -> Vec<Need> {
    match arch {
        Arch::X86_64 => vec![
            (Sign::StaticProgram("busybox"), "busybox-static"),
            (Sign::Program(arch.qemu()), "qemu-system-x86"),
        ],
        Arch::Powerpc => vec![
            (Sign::Program(arch.gcc()), "gcc-powerpc64le-linux-gnu"),
            (Sign::File("/usr/powerpc64le-linux-gnu/include/stdlib.h"), "libc6-dev-ppc64el-cross"),
            (Sign::Program(arch.qemu()), "qemu-system-ppc"),
        ],
    }
}

/// What else a configuration needs: with lockdown modules are signed, by a key that each build makes.
fn needed_by(config: Config) -> Vec<Need> {
    match config {
        Config::Distro | Config::Vm => vec![
            (Sign::Program("openssl"), "openssl"),
            (Sign::File("/usr/include/openssl/bio.h"), "libssl-dev"),
        ],
        _ => Vec::new(),
    }
}

/// A busybox for the guest.
pub fn busybox(ctx: &Ctx) -> Result<PathBuf> {
    match ctx.arch {
        Arch::X86_64 => which("busybox").context("busybox is missing"),
        Arch::Powerpc => debian::busybox(ctx),
    }
}

impl Sign {
    fn there(&self) -> bool {
        match self {
            Sign::Program(name) => which(name).is_some(),
            Sign::File(path) => Path::new(path).exists(),
            Sign::StaticProgram(name) => which(name).is_some_and(|p| elf::is_static(&p)),
        }
    }
}

pub fn run(ctx: &Ctx) -> Result<()> {
    ctx.ui.plan(1);
    all(ctx)?;
    println!("all programs are there");
    Ok(())
}

/// Everything, the compilers too.
pub fn all(ctx: &Ctx) -> Result<()> {
    ctx.ui.step("programs", "what a build and a boot need");
    base(ctx)?;
    toolchain::find(ctx).map(drop)
}

/// Everything but the compilers.
fn base(ctx: &Ctx) -> Result<()> {
    let mut needed: Vec<_> =
        NEEDED.into_iter().chain(needed_for(ctx.arch)).chain(needed_by(ctx.config)).collect();
    if which("apt-get").is_some() {
        needed.push((Sign::File(debian::KEYS), "debian-archive-keyring"));
    }
    need(ctx, &needed)
}

/// Installs what of this is missing.
pub fn need(ctx: &Ctx, needed: &[Need]) -> Result<()> {
    let missing: Vec<&str> = needed.iter().filter(|(sign, _)| !sign.there()).map(|(_, p)| *p).collect();
    if !missing.is_empty() {
        install(ctx, &missing)?;
    }
    for (sign, package) in needed {
        if !sign.there() {
            bail!(
                "{package} is still missing after its installation; see {}",
                ctx.log("apt-install").display()
            );
        }
    }
    Ok(())
}

/// Whether apt knows a package that it could install.
pub fn available(package: &str) -> bool {
    let said = duct::cmd!("apt-cache", "policy", package).env("LC_ALL", "C").stderr_null().read();
    said.is_ok_and(|said| said.lines().any(|l| l.trim().starts_with("Candidate:") && !l.contains("(none)")))
}

/// Sees to it that apt knows its packages: a fresh machine has no lists yet.
pub fn refresh(ctx: &Ctx) -> Result<()> {
    if available("rustc") {
        return Ok(());
    }
    update(ctx)
}

/// Has apt learn of the newest packages.
pub fn update(ctx: &Ctx) -> Result<()> {
    if which("apt-get").is_none() {
        return Ok(());
    }
    let root = rustix::process::geteuid().is_root();
    let line = if root { vec!["apt-get", "update"] } else { vec!["sudo", "-E", "apt-get", "update"] };
    let hint = "is the network there, and are apt's sources right?";
    Job { ctx, name: "apt-update", what: duct::cmd(line[0], &line[1..]), limit: 5 * MINUTE, hint }.run()
}

/// Installs packages. Asks first where a person sits at the terminal.
pub fn install(ctx: &Ctx, packages: &[&str]) -> Result<()> {
    let list = packages.join(" ");
    if which("apt-get").is_none() {
        bail!("these are missing (names of Debian's packages); install them and run again:\n  {list}");
    }
    let root = rustix::process::geteuid().is_root();
    println!("      missing: {list}");
    if std::io::stdin().is_terminal() {
        print!("      install them with apt-get{}? [Y/n] ", if root { "" } else { " and sudo" });
        std::io::stdout().flush()?;
        let mut answer = String::new();
        std::io::stdin().lock().read_line(&mut answer)?;
        if !matches!(answer.trim().to_lowercase().as_str(), "" | "y" | "yes") {
            bail!("not installed; install them and run again: {list}");
        }
    }
    if !root && which("sudo").is_none() {
        bail!("no sudo here; as root run: apt-get install {list}");
    }
    let apt = |args: &[&str]| {
        let mut line = if root { Vec::new() } else { vec!["sudo", "-E"] };
        line.extend(["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-oDPkg::Lock::Timeout=120"]);
        line.extend(["-oAcquire::http::Timeout=30", "-oAcquire::Retries=3"]);
        line.extend(args);
        duct::cmd(line[0], &line[1..])
    };
    let hint = "look at the log; is the network there, and are apt's sources right?";
    let update = || Job { ctx, name: "apt-update", what: apt(&["update"]), limit: 5 * MINUTE, hint }.run();
    let mut args = vec!["install", "--yes", "--no-install-recommends"];
    args.extend(packages);
    let install = || Job { ctx, name: "apt-install", what: apt(&args), limit: 30 * MINUTE, hint }.run();
    // Lists that are missing or old: get new ones, and try once more.
    let known = packages.iter().all(|p| available(p));
    if !known || install().is_err() {
        update()?;
        install().with_context(|| format!("cannot install {list}"))?;
    }
    Ok(())
}
