// SPDX-License-Identifier: GPL-2.0

//! Upstream's source from Debian's package, without touching the machine's own apt settings.
//!
//! An older Debian does not have the package in its suites, but its mirror serves the suites that
//! have it. So: the mirror that the machine uses, an apt state of our own, Debian's keys.

use crate::ctx::Ctx;
use crate::run::{self, Job, MINUTE};
use anyhow::{bail, Context, Result};
use std::path::{Path, PathBuf};
use std::time::Duration;

const PACKAGE: &str = "linux-source-7.3";
/// Where it may be.
const SUITES: [&str; 3] = ["trixie-backports", "forky", "sid"];
/// Debian's name of the powerpc that we build for, and a suite that has it.
const POWERPC: (&str, &str) = ("ppc64el", "trixie");
pub const KEYS: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// What to say where there is no source.
pub const HELP: &str = "give Linux 7.3.y with KERNEL_SRC=<directory, tarball or git clone> \
     (and KERNEL_REF=<tag> for a clone), or install Debian's package linux-source-7.3";

/// The package's tarball as the machine may have it already.
fn installed() -> Option<PathBuf> {
    let path = PathBuf::from(format!("/usr/src/{PACKAGE}.tar.xz"));
    path.is_file().then_some(path)
}

/// The package in the cache; the newest where there are several.
fn cached(ctx: &Ctx) -> Option<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(&ctx.cache)
        .ok()?
        .filter_map(|e| Some(e.ok()?.path()))
        .filter(|p| {
            let name = p.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with(PACKAGE) && name.ends_with(".deb")
        })
        .collect();
    found.sort_by_key(|p| p.metadata().and_then(|m| m.modified()).ok());
    found.pop()
}

/// Where the source is: a tarball, or a package that holds one.
pub fn source(ctx: &Ctx) -> Result<PathBuf> {
    if let Some(found) = installed().or_else(|| cached(ctx)) {
        return Ok(found);
    }
    if crate::util::which("apt-get").is_none() || !Path::new(KEYS).exists() {
        bail!("no source of Linux 7.3: {HELP}");
    }
    fetch(ctx, PACKAGE, "all", &SUITES).with_context(|| format!("no source of Linux 7.3: {HELP}"))
}

/// A busybox for powerpc. It runs in the guest, so it is not installed.
pub fn busybox(ctx: &Ctx) -> Result<PathBuf> {
    let (arch, suite) = POWERPC;
    let dir = ctx.cache.join(format!("busybox-{arch}"));
    let busybox = ["bin/busybox", "usr/bin/busybox"].map(|path| dir.join(path));
    let found = || busybox.iter().find(|path| path.exists()).cloned();
    if let Some(found) = found() {
        return Ok(found);
    }
    let package = fetch(ctx, "busybox-static", arch, &[suite])?;
    let what = duct::cmd!("dpkg-deb", "-x", &package, &dir);
    let hint = format!("remove {} and run again", dir.display());
    Job { ctx, name: "unpack-busybox", what, limit: MINUTE, hint: &hint }.run()?;
    found().context("Debian's package busybox-static holds no busybox")
}

/// What the machine's own apt sources name.
pub struct Mirrors {
    pub main: String,
    /// Has no kernels of other suites.
    pub security: Option<String>,
}

pub fn mirrors() -> Result<Mirrors> {
    let all = run::output("apt-get", &["indextargets", "--format", "$(REPO_URI)"])?;
    let first = |security: bool| {
        all.lines().find(|l| l.contains("://") && l.contains("security") == security).map(String::from)
    };
    Ok(Mirrors { main: first(false).context("apt has no mirror of Debian")?, security: first(true) })
}

/// Downloads a package of an architecture: the newest that one of the suites has.
fn fetch(ctx: &Ctx, package: &str, arch: &str, suites: &[&str]) -> Result<PathBuf> {
    let dir = ctx.cache.join("apt").join(arch);
    for sub in ["lists/partial", "cache/archives/partial", "parts"] {
        std::fs::create_dir_all(dir.join(sub))?;
    }
    let mirror = mirrors()?.main;
    let sources: String =
        suites.iter().map(|suite| format!("deb [signed-by={KEYS}] {mirror} {suite} main\n")).collect();
    std::fs::write(dir.join("sources.list"), sources)?;
    std::fs::write(dir.join("status"), "")?;
    let at = |key: &str, path: &str| format!("-o{key}={}", dir.join(path).display());
    let mut options = vec![
        at("Dir::State", "."),
        at("Dir::State::lists", "lists"),
        at("Dir::State::status", "status"),
        at("Dir::Cache", "cache"),
        at("Dir::Etc::sourcelist", "sources.list"),
        at("Dir::Etc::sourceparts", "parts"),
        "-oAcquire::Languages=none".into(),
        "-oAcquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".into(),
        "-oAcquire::IndexTargets::deb::Contents-deb::DefaultEnabled=false".into(),
        "-oAcquire::http::Timeout=30".into(),
        "-oAcquire::Retries=3".into(),
        // The cache folder belongs to the user, not to apt's own account.
        "-oAPT::Sandbox::User=root".into(),
    ];
    if arch != "all" {
        options.push(format!("-oAPT::Architecture={arch}"));
        options.push(format!("-oAPT::Architectures={arch}"));
    }
    let apt = |dir: &Path, args: &[&str]| {
        duct::cmd("apt-get", options.iter().map(String::as_str).chain(args.iter().copied()))
            .dir(dir)
            .stdin_null()
    };
    let hint = "look at the log; is the network there?";
    Job { ctx, name: "apt-update", what: apt(&dir, &["update"]), limit: 5 * MINUTE, hint }.run()?;
    let size = apt(&dir, &["download", "--print-uris", package]).stderr_null().unchecked().read()?;
    let size: Option<u64> = size.split_whitespace().nth(2).and_then(|s| s.parse().ok());

    let partial = ctx.cache.join("download");
    let _ = std::fs::remove_dir_all(&partial);
    std::fs::create_dir_all(&partial)?;
    let bar = ctx.ui.bar(size, "{bytes}/{total_bytes} {bytes_per_sec}");
    let job =
        Job { ctx, name: "download", what: apt(&partial, &["download", package]), limit: 30 * MINUTE, hint };
    let (end, ended) = std::sync::mpsc::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let ended = ended;
            while let Err(std::sync::mpsc::RecvTimeoutError::Timeout) =
                ended.recv_timeout(Duration::from_millis(300))
            {
                bar.set_position(largest(&partial).map_or(0, |f| f.1));
            }
        });
        let done = job.run();
        drop(end);
        done
    })?;
    bar.finish_and_clear();
    let (file, _) = largest(&partial).context("apt-get download left no file")?;
    let kept = ctx.cache.join(file.file_name().unwrap_or_default());
    std::fs::rename(file, &kept)?;
    let _ = std::fs::remove_dir_all(partial);
    Ok(kept)
}

fn largest(dir: &Path) -> Option<(PathBuf, u64)> {
    let files = std::fs::read_dir(dir).ok()?.filter_map(|e| {
        let e = e.ok()?;
        Some((e.path(), e.metadata().ok()?.len()))
    });
    files.max_by_key(|f| f.1)
}

/// The tarball inside a package, written beside the tree that is being made.
pub fn tarball(ctx: &Ctx, package: &Path) -> Result<PathBuf> {
    let out = ctx.build.join("upstream");
    std::fs::create_dir_all(&out)?;
    let member = format!("./usr/src/{PACKAGE}.tar.xz");
    let what = duct::cmd!("dpkg-deb", "--fsys-tarfile", package).pipe(duct::cmd!(
        "tar",
        "-x",
        "-C",
        &out,
        "--strip-components=3",
        member
    ));
    let hint = format!("remove {} and run again", package.display());
    Job { ctx, name: "unpack-package", what, limit: 5 * MINUTE, hint: &hint }.run()?;
    Ok(out.join(format!("{PACKAGE}.tar.xz")))
}
