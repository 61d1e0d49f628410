// SPDX-License-Identifier: GPL-2.0

//! `make deb`: packages of the kernel and its headers for Debian, by upstream's own bindeb-pkg.

use crate::cli::Config;
use crate::ctx::Ctx;
use crate::deps::{self, Need, Sign};
use crate::git::Git;
use crate::kernel;
use crate::state;
use crate::tree::{self, State};
use crate::util::read_text;
use anyhow::{bail, Context, Result};
use std::path::PathBuf;

/// What makes packages, beside what makes kernels.
const NEEDED: [Need; 3] = [
    (Sign::Program("dpkg-buildpackage"), "dpkg-dev"),
    (Sign::Program("dh_listpackages"), "debhelper"),
    (Sign::Program("depmod"), "kmod"),
];

/// What was made.
pub struct Packages {
    /// `uname -r` of the kernel in them.
    pub release: String,
    pub files: Vec<PathBuf>,
}

pub fn run(ctx: &Ctx) -> Result<()> {
    ctx.ui.plan(4);
    for file in build(ctx)?.files {
        println!("{}", file.display());
    }
    Ok(())
}

/// Makes the packages, in build/deb. They have a configuration of their own.
pub fn build(ctx: &Ctx) -> Result<Packages> {
    if !matches!(ctx.config, Config::Plain | Config::Vm) || !ctx.without.is_empty() {
        bail!("the packages are of one kernel, which is fit for a virtual machine; leave out CONFIG= and WITHOUT=");
    }
    let ctx = &Ctx { config: Config::Vm, ..ctx.clone() };
    if !kernel::prepare(ctx)? {
        bail!(tree::ELSEWHERE);
    }
    deps::need(ctx, &NEEDED)?;
    ctx.ui.step("packages", "kernel, modules, headers");
    let kbuild = kernel::configure(ctx)?;

    let version = version(ctx)?;
    let (version_is, suite) = (format!("KDEB_PKGVERSION={version}"), "KDEB_CHANGELOG_DIST=unstable");
    // What it names as needed to build is not what is: gcc, and libdw, although this is for clang.
    let unasked = "DPKG_FLAGS=-d";
    let hint = "the first error in the log is the one that matters; make deb V=1 shows every line";
    kbuild.build_to(ctx, "deb", &["bindeb-pkg", &version_is, suite, unasked], 120, hint)?;

    // They are left beside the build folder.
    let made = ctx.build.join("deb");
    let _ = std::fs::remove_dir_all(&made);
    std::fs::create_dir_all(&made)?;
    for entry in std::fs::read_dir(&ctx.build)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().contains(&format!("_{version}_")) {
            std::fs::rename(entry.path(), made.join(entry.file_name()))?;
        }
    }
    let release = read_text(&kbuild.objects.join("include/config/kernel.release"))?.trim().to_string();
    let packages =
        [format!("linux-image-{release}"), format!("linux-headers-{release}"), "linux-libc-dev".into()];
    let files = packages.map(|package| made.join(format!("{package}_{version}_amd64.deb"))).to_vec();
    if let Some(file) = files.iter().find(|file| !file.exists()) {
        bail!("bindeb-pkg did not make {}; see {}", file.display(), ctx.log("deb").display());
    }
    Ok(Packages { release, files })
}

/// Upstream's version, and how many commits of ours made the packages: what comes later is newer.
fn version(ctx: &Ctx) -> Result<String> {
    let commits = Git::new(&ctx.root).text(&["rev-list", "--count", "HEAD"]);
    let commits = commits.context("the packages' version counts the commits of this repository")?;
    Ok(format!("{}-{}", state::load::<State>(ctx, "tree").version, commits.trim()))
}
