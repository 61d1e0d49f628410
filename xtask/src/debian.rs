// SPDX-License-Identifier: GPL-2.0

//! What comes from Debian's packages but is not installed: upstream's source, programs for the guest.
//! The machine's own apt settings are not touched.
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
/// The same of what the guest runs on x86-64: of one suite, whichever the machine has.
const PROGRAMS: (&str, &str) = ("amd64", "trixie");
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

/// A program for the guest and each library that it loads, none of which is installed here. `package`
/// is the program's name too.
pub fn program(ctx: &Ctx, package: &str) -> Result<Vec<PathBuf>> {
    let dir = ctx.cache.join(package);
    if !dir.exists() {
        let (new, root) = (ctx.cache.join("program"), ctx.cache.join("root"));
        let _ = (std::fs::remove_dir_all(&new), std::fs::remove_dir_all(&root));
        std::fs::create_dir_all(&new)?;
        let (arch, suite) = PROGRAMS;
        let apt = Apt::new(ctx, arch, &[suite])?;
        // As nothing is installed, all that it depends on comes with it.
        let args = ["install", "--download-only", "--yes", "--no-install-recommends", package];
        apt.job("apt-download", apt.get(&apt.dir, &args), 30).run()?;
        let archives = apt.dir.join("cache/archives");
        for package in std::fs::read_dir(&archives)?.filter_map(|e| Some(e.ok()?.path())) {
            if package.extension().is_some_and(|e| e == "deb") {
                apt.job("unpack-program", duct::cmd!("dpkg-deb", "-x", &package, &root), 5).run()?;
            }
        }
        let program = root.join("usr/bin").join(package);
        let libraries = root.join("usr/lib/x86_64-linux-gnu");
        let loader = root.join("usr/lib64/ld-linux-x86-64.so.2");
        let list = duct::cmd!(&loader, "--library-path", &libraries, "--list", &program)
            .read()
            .with_context(|| format!("{} cannot be loaded", program.display()))?;
        for (name, path) in list.lines().filter_map(library).chain([(package, program)]) {
            std::fs::copy(&path, new.join(name)).with_context(|| format!("{name} is missing"))?;
        }
        std::fs::remove_dir_all(&root)?;
        std::fs::remove_dir_all(&archives)?;
        std::fs::rename(&new, &dir)?;
    }
    let mut files =
        std::fs::read_dir(&dir)?.map(|e| Ok(e?.path())).collect::<std::io::Result<Vec<PathBuf>>>()?;
    files.sort();
    Ok(files)
}

/// A library's name, and where it was found, of a line of the loader's: "NAME => PATH (ADDRESS)".
fn library(line: &str) -> Option<(&str, PathBuf)> {
    let (name, found) = line.trim().split_once(" => ")?;
    let path = found.rsplit_once(" (").map_or(found, |(path, _)| path);
    Some((name.rsplit('/').next()?, path.into()))
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

/// An apt that has its own sources, lists and idea of what is installed: nothing.
struct Apt<'a> {
    ctx: &'a Ctx,
    dir: PathBuf,
    options: Vec<String>,
}

impl<'a> Apt<'a> {
    fn new(ctx: &'a Ctx, arch: &str, suites: &[&str]) -> Result<Self> {
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
        let apt = Self { ctx, dir, options };
        apt.job("apt-update", apt.get(&apt.dir, &["update"]), 5).run()?;
        Ok(apt)
    }

    /// apt-get, which runs in the folder `at`.
    fn get(&self, at: &Path, args: &[&str]) -> duct::Expression {
        let options = self.options.iter().map(String::as_str);
        duct::cmd("apt-get", options.chain(args.iter().copied())).dir(at).stdin_null()
    }

    fn job(&self, name: &'a str, what: duct::Expression, minutes: u32) -> Job<'a> {
        let hint = "look at the log; is the network there?";
        Job { ctx: self.ctx, name, what, limit: minutes * MINUTE, hint }
    }
}

/// Downloads a package of an architecture: the newest that one of the suites has.
fn fetch(ctx: &Ctx, package: &str, arch: &str, suites: &[&str]) -> Result<PathBuf> {
    let apt = Apt::new(ctx, arch, suites)?;
    let size = apt.get(&apt.dir, &["download", "--print-uris", package]).stderr_null().unchecked().read()?;
    let size: Option<u64> = size.split_whitespace().nth(2).and_then(|s| s.parse().ok());

    let partial = ctx.cache.join("download");
    let _ = std::fs::remove_dir_all(&partial);
    std::fs::create_dir_all(&partial)?;
    let bar = ctx.ui.bar(size, "{bytes}/{total_bytes} {bytes_per_sec}");
    let job = apt.job("download", apt.get(&partial, &["download", package]), 30);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_loader_s_list() {
        let of = |line| library(line).map(|(name, path)| (name, path.display().to_string()));
        assert_eq!(of("\tlinux-vdso.so.1 (0x00007f)"), None);
        assert_eq!(
            of("\tlibm.so.6 => a b/libm.so.6 (0x00007f)"),
            Some(("libm.so.6", "a b/libm.so.6".into()))
        );
        assert_eq!(
            of("\t/lib64/ld.so.2 => root/lib64/ld.so.2 (0x00007f)"),
            Some(("ld.so.2", "root/lib64/ld.so.2".into()))
        );
        // That is no path: the copy fails and says so.
        assert_eq!(of("\tlibx.so.1 => not found"), Some(("libx.so.1", "not found".into())));
    }
}
