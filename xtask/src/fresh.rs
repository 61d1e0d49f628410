// SPDX-License-Identifier: GPL-2.0

//! `make check-fresh`: the README's two commands, each to its end, on new Debian machines.
//!
//! A machine is the least of a Debian, see root.rs, with what a reader installs to clone and to type
//! make, and a clone of what is committed here.

use crate::boot;
use crate::check::Report;
use crate::cli::Release;
use crate::ctx::Ctx;
use crate::git::Git;
use crate::root::{self, Root, Step, UPDATE};
use anyhow::{bail, Result};
use regex::Regex;
use std::path::PathBuf;

/// What the reader does before the first command. The certificates are for cargo, which git and
/// make do not bring.
const READER: &str = r#"
apt-get -q -y --no-install-recommends install git make ca-certificates
"#;

/// Makes an ordinary user, who may become root without a password: nobody is there to type it.
const USER: &str = r#"
apt-get -q -y --no-install-recommends install sudo
useradd --create-home --shell /bin/bash reader
echo 'reader ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/reader
chown -R reader: /srv/userfault
"#;

pub fn run(ctx: &Ctx) -> Result<()> {
    root::prepare(ctx, "check-fresh")?;
    if !Git::new(&ctx.root).text(&["status", "--porcelain"])?.is_empty() {
        ctx.ui.note("what is not committed is not tested");
    }
    let releases = root::releases(ctx);
    ctx.ui.plan(4 * releases.len() as u32);
    let mut report = Report::default();
    for release in releases {
        let machine = Machine { ctx, root: Root::new(ctx, "fresh", release) };
        machine.all(&mut report)?;
    }
    report.finish()
}

struct Machine<'a> {
    ctx: &'a Ctx,
    root: Root<'a>,
}

impl Machine<'_> {
    fn all(&self, report: &mut Report) -> Result<()> {
        let steps: [Step; 4] = [
            ("debootstrap", &|| self.root.make()),
            ("git, make, ca-certificates, a clone", &|| self.equip()),
            ("make boot", &|| self.command("boot", 60, |last| last == boot::GOOD)),
            ("make check", &|| self.command("check", 90, all_passed)),
        ];
        self.root.steps(report, &steps)
    }

    /// On one machine the reader is root, on the other a user with sudo: both are in the README.
    fn user(&self) -> &'static str {
        match self.root.release {
            Release::Bookworm => "root",
            Release::Trixie => "reader",
        }
    }

    /// What the reader needs to have before the first command.
    fn equip(&self) -> Result<()> {
        // Another registry than crates.io, if this machine has one: cargo looks for its settings in
        // every folder above the one that it runs in.
        let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
        if let Ok(settings) = std::fs::read(home.join(".cargo/config.toml")) {
            self.root.write(".cargo/config.toml", settings)?;
        }
        let clone = self.root.dir.join("srv/userfault");
        let what = Git::new(&self.ctx.root).expression(&[
            "clone",
            "--quiet",
            "--no-hardlinks",
            ".",
            &clone.display().to_string(),
        ]);
        self.root.job("clone", what, 5, |_| ())?;
        let script = match self.user() {
            "root" => format!("{UPDATE}{READER}"),
            _ => format!("{UPDATE}{READER}{USER}"),
        };
        self.root.job("reader", self.root.inside("root", &script), 15, |_| ())
    }

    /// One of the README's commands, and whether its last line is the one that it is to end with.
    fn command(&self, target: &str, minutes: u32, good: impl Fn(&str) -> bool) -> Result<()> {
        let script = format!("cd /srv/userfault\nmake {target}");
        let mut last = String::new();
        self.root.job(target, self.root.inside(self.user(), &script), minutes, |line| {
            if !line.trim().is_empty() {
                last = line.trim().to_string();
            }
        })?;
        if !good(&last) {
            bail!("make {target} ended with '{last}'");
        }
        Ok(())
    }
}

/// Whether a line says of some checks that none failed.
fn all_passed(line: &str) -> bool {
    Regex::new(r"^[1-9]\d* passed, 0 failed(, \d+ skipped)?$").is_ok_and(|r| r.is_match(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_a_good_end() {
        assert!(all_passed("53 passed, 0 failed"));
        assert!(all_passed("53 passed, 0 failed, 2 skipped"));
        for bad in ["0 passed, 0 failed", "53 passed, 1 failed", "1 failed: 5 passed, 0 failed", ""] {
            assert!(!all_passed(bad), "{bad}");
        }
    }
}
