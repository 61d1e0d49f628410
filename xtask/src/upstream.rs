// SPDX-License-Identifier: GPL-2.0

//! The pristine source, and the first commit of build/linux made of it.

use crate::ctx::Ctx;
use crate::debian;
use crate::git::Git;
use crate::run::{Job, MINUTE};
use crate::series::{AUTHOR, DATE};
use crate::util::{read_text, Hash};
use anyhow::{bail, Context, Result};
use std::path::{Path, PathBuf};

/// Where a source comes from.
pub enum Source {
    Folder(PathBuf),
    Tarball(PathBuf),
    Package(PathBuf),
    Clone { path: PathBuf, commit: String },
}

/// What the user named, or None.
pub fn named(ctx: &Ctx) -> Result<Option<Source>> {
    let Some(path) = &ctx.kernel_src else { return Ok(None) };
    let path = path.canonicalize().with_context(|| format!("KERNEL_SRC={}", path.display()))?;
    let git = Git::new(&path);
    let top = || {
        git.text(&["rev-parse", "--git-dir"])
            .is_ok_and(|d| d == "." || d == ".git" || path.join(".git").exists())
    };
    let source = match &ctx.kernel_ref {
        _ if path.is_file() => Source::Tarball(path),
        Some(name) => {
            let commit = git
                .resolve(&format!("{name}^{{commit}}"))
                .with_context(|| format!("KERNEL_REF={name} is no commit in {}", path.display()))?;
            Source::Clone { path, commit }
        }
        None if top() => {
            let commit = git.resolve("HEAD^{commit}").context("the clone in KERNEL_SRC has no commit")?;
            Source::Clone { path, commit }
        }
        None => Source::Folder(path),
    };
    Ok(Some(source))
}

impl Source {
    /// The same as long as the source is the same.
    pub fn key(&self) -> Result<String> {
        let hash = match self {
            Source::Clone { path, commit } => Hash::new().add(path.display().to_string()).add(commit),
            Source::Folder(path) => file_key(path, &path.join("Makefile"))?,
            Source::Tarball(path) | Source::Package(path) => file_key(path, path)?,
        };
        Ok(hash.hex())
    }
}

fn file_key(path: &Path, stamp: &Path) -> Result<Hash> {
    let meta = stamp.metadata().with_context(|| format!("{} is no source of Linux", path.display()))?;
    let time = meta.modified()?.duration_since(std::time::UNIX_EPOCH)?.as_nanos();
    Ok(Hash::new().add(path.display().to_string()).add(format!("{} {time}", meta.len())))
}

/// `7.3.4` from the text of the top Makefile. An error for anything but 7.3.y.
pub fn version(makefile: &str) -> Result<String> {
    let field = |key: &str| {
        let line =
            makefile.lines().take(20).find_map(|l| l.strip_prefix(key)?.trim_start().strip_prefix('='));
        line.map(|v| v.trim().to_string()).unwrap_or_default()
    };
    let (major, minor) = (field("VERSION"), field("PATCHLEVEL"));
    if major.is_empty() || minor.is_empty() {
        bail!("this is no source of Linux: its Makefile names no version; {}", debian::HELP);
    }
    let version = format!("{major}.{minor}.{}{}", field("SUBLEVEL"), field("EXTRAVERSION"));
    if (major.as_str(), minor.as_str()) != ("7", "3") {
        bail!("this is Linux {version}, but the patches are for 7.3.y: {}", debian::HELP);
    }
    Ok(version)
}

/// Makes build/linux.new: a repository whose tag `upstream` is the pristine source. The version.
pub fn import(ctx: &Ctx, source: &Source, dir: &Path) -> Result<String> {
    if dir.exists() {
        std::fs::remove_dir_all(dir)?;
    }
    std::fs::create_dir_all(dir)?;
    let git = Git::new(dir);
    match source {
        Source::Clone { path, commit } => return borrow(ctx, path, commit, dir),
        Source::Folder(path) => {
            let what = duct::cmd!("tar", "-c", "-C", path, "--exclude=./.git", ".")
                .pipe(duct::cmd!("tar", "-x", "-C", dir));
            let hint = "is the disk full?";
            Job { ctx, name: "copy-source", what, limit: 10 * MINUTE, hint }.run()?;
        }
        Source::Package(path) => {
            let inner = debian::tarball(ctx, path)?;
            unpack(ctx, &inner, dir)?;
            let _ = std::fs::remove_file(inner);
        }
        Source::Tarball(path) => unpack(ctx, path, dir)?,
    }
    let makefile = read_text(&dir.join("Makefile")).context("this is no source of Linux")?;
    let version = version(&makefile)?;
    if dir.join(".config").exists() || dir.join("include/config").exists() {
        bail!("the source in KERNEL_SRC was built in; run 'make mrproper' there, or give a clean one");
    }
    init(&git)?;
    // Loose objects are for the moment; compressing them is most of the time that this takes.
    let add = git.expression(&["-c", "core.compression=0", "-c", "core.fsync=none", "add", "-A", "-f", "."]);
    Job { ctx, name: "git-add", what: add, limit: 20 * MINUTE, hint: "is the disk full?" }.run()?;
    let message = format!("Linux {version}\n");
    git.env("GIT_AUTHOR_NAME", AUTHOR.0)
        .env("GIT_AUTHOR_EMAIL", AUTHOR.1)
        .env("GIT_AUTHOR_DATE", DATE)
        .env("GIT_COMMITTER_NAME", AUTHOR.0)
        .env("GIT_COMMITTER_EMAIL", AUTHOR.1)
        .env("GIT_COMMITTER_DATE", DATE)
        .bytes(&["commit", "--quiet", "--no-verify", "-F", "-"], message.as_bytes())?;
    git.bytes(&["tag", "upstream"], b"")?;
    Ok(version)
}

fn init(git: &Git) -> Result<()> {
    git.bytes(&["init", "--quiet", "--template=", "--initial-branch=userfault", "."], b"")?;
    for (key, value) in [("gc.auto", "0"), ("core.autocrlf", "false"), ("core.abbrev", "12")] {
        git.bytes(&["config", key, value], b"")?;
    }
    Ok(())
}

/// A clone keeps its history, so that git bisect can go on into upstream; its objects are shared.
fn borrow(ctx: &Ctx, path: &Path, commit: &str, dir: &Path) -> Result<String> {
    let theirs = Git::new(path);
    let version = version(&theirs.text(&["show", &format!("{commit}:Makefile")])?)?;
    let git = Git::new(dir);
    init(&git)?;
    let common = theirs.text(&["rev-parse", "--path-format=absolute", "--git-common-dir"])?;
    std::fs::create_dir_all(dir.join(".git/objects/info"))?;
    std::fs::write(dir.join(".git/objects/info/alternates"), format!("{common}/objects\n"))?;
    git.bytes(&["update-ref", "refs/heads/userfault", commit], b"")?;
    git.bytes(&["tag", "upstream", commit], b"")?;
    let checkout = git.expression(&["reset", "--hard", "--quiet"]);
    Job { ctx, name: "git-checkout", what: checkout, limit: 20 * MINUTE, hint: "is the disk full?" }.run()?;
    Ok(version)
}

fn unpack(ctx: &Ctx, tarball: &Path, dir: &Path) -> Result<()> {
    let what = duct::cmd!("tar", "-x", "-f", tarball, "-C", dir, "--strip-components=1");
    let hint = format!("is {} whole, and is the disk full?", tarball.display());
    Job { ctx, name: "unpack", what, limit: 15 * MINUTE, hint: &hint }.run()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_versions() {
        let makefile =
            |v: &str| format!("# SPDX\nVERSION = 7\nPATCHLEVEL = {v}\nSUBLEVEL = 4\nEXTRAVERSION =\n");
        assert_eq!(version(&makefile("3")).unwrap(), "7.3.4");
        assert!(version(&makefile("2")).unwrap_err().to_string().contains("Linux 7.2.4"));
        assert!(version("all:").is_err());
    }
}
