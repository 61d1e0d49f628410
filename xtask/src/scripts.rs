// SPDX-License-Identifier: GPL-2.0

//! Upstream's own scripts that look at a patch: checkpatch.pl and get_maintainer.pl.

use crate::ctx::Ctx;
use crate::run::{Job, MINUTE};
use crate::util::{read, Hash};
use crate::{deps, state, tree};
use anyhow::{bail, Context, Result};
use regex::Regex;
use std::path::Path;

/// What checkpatch.pl may say of a patch: the type of its word, and the file that it is of, any where
/// none is named. Everything else is an error.
const EXCUSED: [(&str, Option<&str>); 6] = [
    // A person signs, not a program.
    ("MISSING_SIGN_OFF", None),
    ("NO_AUTHOR_SIGN_OFF", None),
    // MAINTAINERS comes with one patch, for all of them: that it covers each file that a patch adds
    // is a check of its own.
    ("FILE_PATH_CHANGES", None),
    // It takes mm/Kconfig.userfault, which this file sources, for the file's own name.
    ("EMBEDDED_FILENAME", Some("mm/Kconfig")),
    // The form that every TRACE_EVENT() of upstream has.
    ("OPEN_ENDED_LINE", Some("include/trace/events/userfaultfd.h")),
    ("PARENTHESIS_ALIGNMENT", Some("include/trace/events/userfaultfd.h")),
];

/// The list that get_maintainer.pl names whatever the file is.
const EVERYTHING: &str = "linux-kernel@vger.kernel.org";

/// Whom a patch goes to: addresses.
#[derive(Default)]
pub struct Recipients {
    /// The maintainers.
    pub to: Vec<String>,
    /// Reviewers and lists.
    pub cc: Vec<String>,
}

impl Recipients {
    /// Takes in others, each once: who is in `to` is not in `cc`.
    pub fn add(&mut self, other: &Recipients) {
        for address in &other.to {
            if !self.to.contains(address) {
                self.to.push(address.clone());
            }
        }
        for address in &other.cc {
            if !self.cc.contains(address) {
                self.cc.push(address.clone());
            }
        }
        self.cc.retain(|address| !self.to.contains(address));
    }

    /// Whether it names anybody but the list that gets everything.
    pub fn anybody(&self) -> bool {
        self.to.iter().chain(&self.cc).any(|address| address != EVERYTHING)
    }
}

/// Asks get_maintainer.pl about a patch. Addresses without names: those are not all ASCII.
pub fn recipients(ctx: &Ctx, patch: &Path) -> Result<Recipients> {
    let ask = |kinds: &[&str]| {
        let fixed = ["--no-git", "--no-git-fallback", "--no-rolestats", "--no-n"];
        let (lines, ended) = script(ctx, "get_maintainer", &[&fixed, kinds].concat(), patch);
        ended.map(|_| lines.iter().filter_map(|l| address(l)).collect())
    };
    let found = Recipients { to: ask(&["--no-r", "--no-l"])?, cc: ask(&["--no-m"])? };
    let mut each_once = Recipients::default();
    each_once.add(&found);
    Ok(each_once)
}

/// The address in a line: some come with a name, asked for or not.
fn address(line: &str) -> Option<String> {
    let line = line.trim();
    let inner = line.split_once('<').and_then(|(_, rest)| rest.split_once('>')).map_or(line, |(a, _)| a);
    (inner.contains('@') && !inner.contains(' ')).then(|| inner.to_string())
}

/// checkpatch.pl --strict has nothing to say of a patch, but for what is excused. The verdict of a
/// patch that did not change is remembered.
pub fn checkpatch(ctx: &Ctx, patch: &Path) -> Result<()> {
    let scripts = tree::git(ctx).text(&["rev-parse", "HEAD:scripts"])?;
    let key = Hash::new().add(read(patch)?).add(scripts).add(format!("{EXCUSED:?}")).hex();
    if state::recall::<()>(ctx, "checkpatch", &key).is_some() {
        return Ok(());
    }
    spdxcheck_runs(ctx)?;
    let (lines, ended) =
        script(ctx, "checkpatch", &["--strict", "--show-types", "--terse", "--showfile"], patch);
    // It exits with 1 on what is excused too; that it came to its end, its last line shows.
    if !lines.last().is_some_and(|l| l.starts_with("total: ")) {
        ended?;
        bail!("checkpatch.pl did not come to its end: {}", lines.join("\n"));
    }
    let said = complaints(&lines)?;
    if !said.is_empty() {
        bail!("checkpatch.pl --strict says of {}:\n    {}", patch.display(), said.join("\n    "));
    }
    state::remember(ctx, "checkpatch", &key, &())
}

/// What is not excused, in lines such as `mm/rmap.c:9: WARNING:LONG_LINE: ...`. A line of another
/// form is one of perl or python that something is wrong.
fn complaints(lines: &[String]) -> Result<Vec<&str>> {
    let form = Regex::new(r"^([^:]*):\d+: (?:ERROR|WARNING|CHECK):([A-Z0-9_]+): ")?;
    let excused = |line: &&str| match form.captures(line) {
        Some(part) => {
            EXCUSED.iter().any(|(kind, file)| *kind == &part[2] && file.is_none_or(|f| f == &part[1]))
        }
        None => line.starts_with("total: ") || line.trim().is_empty(),
    };
    Ok(lines.iter().map(String::as_str).filter(|line| !excused(line)).collect())
}

/// checkpatch.pl asks scripts/spdxcheck.py about licences, and takes it for a good sign if that does
/// not run: so see to it that it does.
fn spdxcheck_runs(ctx: &Ctx) -> Result<()> {
    let there = || {
        let probe = duct::cmd!("python3", "-c", "import git, ply").env("PATH", path());
        probe.stdin_null().stdout_null().stderr_null().unchecked().run().is_ok_and(|out| out.status.success())
    };
    if !there() {
        deps::install(ctx, &["python3-git", "python3-ply"])?;
    }
    if !there() {
        bail!("python3 still has no modules git and ply, which scripts/spdxcheck.py needs");
    }
    Ok(())
}

/// The distribution's python3 before any other: its packages are where the modules come from.
fn path() -> String {
    format!("/usr/bin:{}", std::env::var("PATH").unwrap_or_default())
}

/// Runs a script of upstream on a patch, in the tree: the lines that it printed, and how it ended.
fn script(ctx: &Ctx, name: &str, arguments: &[&str], patch: &Path) -> (Vec<String>, Result<u64>) {
    let mut lines = Vec::new();
    let patch = patch.display().to_string();
    let program = format!("scripts/{name}.pl");
    let words = [program.as_str()].into_iter().chain(arguments.iter().copied()).chain([patch.as_str()]);
    let what = duct::cmd("perl", words).dir(ctx.linux()).env("PATH", path()).stdin_null();
    let job = Job { ctx, name, what, limit: 15 * MINUTE, hint: "is the patch what git format-patch writes?" };
    let bar = ctx.ui.bar(None, "{elapsed} {wide_msg}");
    bar.set_message(program);
    let ended = job.run_with(&bar, |line| lines.push(line.to_string()));
    (lines, ended.context("a script of upstream's failed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(lines: &[&str]) -> usize {
        complaints(&lines.iter().map(|l| l.to_string()).collect::<Vec<_>>()).unwrap().len()
    }

    #[test]
    fn excuses_what_it_may() {
        assert_eq!(
            left(&["mm/a.c:3: ERROR:MISSING_SIGN_OFF: Missing", "", "total: 1 errors, 0 warnings"]),
            0
        );
        assert_eq!(left(&["mm/Kconfig:9: WARNING:EMBEDDED_FILENAME: It's"]), 0);
        assert_eq!(left(&["mm/userfault/a.rs:9: WARNING:EMBEDDED_FILENAME: It's"]), 1);
        assert_eq!(left(&["mm/a.c:3: CHECK:BIT_MACRO: Prefer"]), 1);
        assert_eq!(left(&["ModuleNotFoundError: No module named 'ply'"]), 1);
    }

    #[test]
    fn reads_addresses() {
        assert_eq!(address("x86@kernel.org").as_deref(), Some("x86@kernel.org"));
        assert_eq!(address("A. B <a@b.org>").as_deref(), Some("a@b.org"));
        assert_eq!(address("Bad divisor in main::vcs_assign: 0"), None);
    }

    #[test]
    fn each_gets_it_once() {
        let list = |l: &[&str]| l.iter().map(|a| a.to_string()).collect::<Vec<_>>();
        let mut all = Recipients { to: list(&["a@b"]), cc: list(&["l@l", "c@d"]) };
        assert!(all.anybody());
        all.add(&Recipients { to: list(&["c@d", "a@b"]), cc: list(&["l@l", "a@b", "m@m"]) });
        assert_eq!((all.to, all.cc), (list(&["a@b", "c@d"]), list(&["l@l", "m@m"])));
        assert!(!Recipients { to: Vec::new(), cc: list(&[EVERYTHING]) }.anybody());
    }
}
