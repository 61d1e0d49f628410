// SPDX-License-Identifier: GPL-2.0

//! The commits of the branch, and what can be seen of them without a build.

use crate::branch::{straight, Branch};
use crate::ctx::Ctx;
use crate::git::Git;
use crate::util::write_if_changed;
use crate::{maintainers, rules, scripts, tree};
use anyhow::{bail, Result};
use regex::Regex;
use std::path::PathBuf;

/// A series of this many commits is too long to be read.
const TOO_MANY: usize = 25;
/// How long a subject may be.
const SUBJECT: usize = 75;
/// Where tests are, and where the code is that they test.
const TESTS: &str = "tools/testing/";
/// What mm/vma.c is built with outside of the kernel, which goes with it.
const STUBS: &str = "tools/testing/vma/include/";
const CODE: [&str; 5] = ["fs/", "include/", "kernel/", "mm/", "rust/"];

pub struct Commit {
    pub id: String,
    /// Its place in the series, from 1, of how many.
    pub place: (usize, usize),
    pub subject: String,
    body: String,
    /// The paths that it touches, and those of them that it adds.
    files: Vec<String>,
    added: Vec<String>,
}

/// The commits between the tag `upstream` and the branch's tip, in order.
pub fn load(git: &Git) -> Result<Vec<Commit>> {
    let ids = git.text(&["rev-list", "--reverse", &format!("upstream..{}", tree::BRANCH)])?;
    let count = ids.lines().count();
    let lines = |args: &[&str]| anyhow::Ok(git.text(args)?.lines().map(String::from).collect());
    let mut commits = Vec::new();
    for (i, id) in ids.lines().enumerate() {
        let tree = ["diff-tree", "-r", "--no-commit-id", "--name-only", "--no-renames"];
        commits.push(Commit {
            id: id.into(),
            place: (i + 1, count),
            subject: git.text(&["log", "-1", "--format=%s", id])?,
            body: git.text(&["log", "-1", "--format=%b", id])?,
            files: lines(&[&tree[..], &[id]].concat())?,
            added: lines(&[&tree[..], &["--diff-filter=A", id]].concat())?,
        });
    }
    Ok(commits)
}

/// A straight line of not too many commits, no two by one name.
pub fn series(git: &Git, commits: &[Commit]) -> Result<()> {
    straight(git, &format!("upstream..{}", tree::BRANCH))?;
    if commits.is_empty() || commits.len() >= TOO_MANY {
        bail!("{} commits; there should be some, and fewer than {TOO_MANY}", commits.len());
    }
    for (i, commit) in commits.iter().enumerate() {
        if commits[..i].iter().any(|other| other.subject == commit.subject) {
            bail!("two commits are called '{}'", commit.subject);
        }
    }
    Ok(())
}

impl Commit {
    /// Names it in a report: `3/7 fa265eec87d4`.
    pub fn name(&self) -> String {
        format!("{}/{} {}", self.place.0, self.place.1, &self.id[..12])
    }

    /// Whether it says what it does and why.
    pub fn message(&self) -> Result<()> {
        let form = Regex::new(r"^[\w/.-]+: \S.*[^.\s]$")?;
        if !form.is_match(&self.subject) || self.subject.chars().count() > SUBJECT {
            bail!(
                "the subject '{}' is not of the form 'area: what it does', of at most {SUBJECT} characters, without a full stop",
                self.subject
            );
        }
        if self.body.trim().is_empty() {
            bail!("there is nothing below the subject '{}': say why", self.subject);
        }
        Ok(())
    }

    /// What a program can see of "one concern per commit": the area that the subject names is a
    /// folder of what it touches, and tests do not come in one commit with the code. That a commit
    /// does no two things in that area, only a reader sees.
    pub fn concern(&self) -> Result<()> {
        let area = self.subject.split(':').next().unwrap_or_default();
        if !self.files.iter().any(|f| format!("/{f}").contains(&format!("/{area}/"))) {
            bail!(
                "it is about '{area}', but touches no folder of that name:\n    {}",
                self.files.join("\n    ")
            );
        }
        let code = self.files.iter().find(|f| CODE.iter().any(|folder| f.starts_with(folder)));
        let test = self.files.iter().find(|f| f.starts_with(TESTS) && !f.starts_with(STUBS));
        if let (Some(code), Some(test)) = (code, test) {
            bail!("code and tests in one commit: {code}, {test}");
        }
        Ok(())
    }

    /// Whether MAINTAINERS, as the tip has it, covers what the commit adds.
    pub fn maintained(&self, branch: &Branch) -> Result<()> {
        let (_, ours) = branch.maintainers(tree::BRANCH, "upstream")?;
        let bad = maintainers::uncovered(&ours, &self.added);
        rules::none(bad.into_iter(), "no entry of ours in MAINTAINERS covers what it adds")
    }

    /// Whether upstream's get_maintainer.pl knows somebody to send it to.
    pub fn recipients(&self, ctx: &Ctx) -> Result<()> {
        if !scripts::recipients(ctx, &self.patch(ctx)?)?.anybody() {
            bail!("get_maintainer.pl names neither a maintainer nor a list but the one for everything");
        }
        Ok(())
    }

    /// The commit as a file, as git format-patch writes it.
    pub fn patch(&self, ctx: &Ctx) -> Result<PathBuf> {
        let path = ctx.build.join(format!("bisect/{:04}.patch", self.place.0));
        let args = ["format-patch", "-1", "--stdout", "--zero-commit", "--no-signature", &self.id];
        write_if_changed(&path, &tree::git(ctx).bytes(&args, b"")?)?;
        Ok(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commit(subject: &str, body: &str, files: &[&str]) -> Commit {
        Commit {
            id: "0".repeat(40),
            place: (1, 2),
            subject: subject.into(),
            body: body.into(),
            files: files.iter().map(|f| f.to_string()).collect(),
            added: Vec::new(),
        }
    }

    #[test]
    fn messages() {
        let good = |subject| commit(subject, "Why.", &[]).message().is_ok();
        assert!(good("rust: macros: add #[syscall]"));
        assert!(good("Documentation: mm: describe user-space page faults"));
        assert!(!good("add a thing"));
        assert!(!good("fixup! mm: add a thing"));
        assert!(!good("mm: add a thing."));
        assert!(!good(&format!("mm: {}", "x".repeat(72))));
        assert!(commit("mm: add a thing", "\n", &[]).message().is_err());
    }

    #[test]
    fn concerns() {
        let good = |subject, files: &[&str]| commit(subject, "", files).concern().is_ok();
        assert!(good("mm: userfault: add", &["Documentation/a.rst", "mm/memory.c"]));
        assert!(good("selftests: userfault: add", &["arch/x86/configs/a", "tools/testing/selftests/a/b.c"]));
        assert!(good("mm: add", &["mm/vma.c", "tools/testing/vma/include/stubs.h"]));
        assert!(!good("fs: add", &["mm/fs.c"]));
        assert!(!good("mm: add", &["mm/memory.c", "tools/testing/selftests/a/b.c"]));
    }
}
