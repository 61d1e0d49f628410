// SPDX-License-Identifier: GPL-2.0

//! A suite of tests that are not ours: how its program is built, and how it runs in the guest.
//! Which there are of upstream's: suites.rs.

use crate::console::Line;
use crate::ctx::Ctx;
use crate::deps::{self, Sign};
use crate::guest::{words, Guest};
use crate::kernel;
use crate::run::{Job, MINUTE};
use crate::util::write_if_changed;
use crate::verdicts::{Count, Reader, Said};
use anyhow::{bail, Result};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Instant;

const SCRIPT: &str = include_str!("../guest/suites.sh");
/// Two of them are not enough for the suite of migration.
pub const PROCESSORS: u32 = 3;

/// A program, run in one way.
pub struct Suite {
    /// One word, and only this suite's: what `TESTS=` takes.
    pub name: &'static str,
    /// The program and its arguments.
    pub command: &'static str,
    /// Where the command begins with another one.
    program: Option<&'static str>,
    /// Longer than this it may not take.
    pub minutes: u64,
    /// What the guest's shell does before it.
    pub before: &'static str,
    /// It runs on one processor.
    pub pinned: bool,
    /// It wants its program where it runs.
    in_place: bool,
    /// Where in upstream's folder of selftests its program is.
    folder: &'static str,
}

pub const fn suite(name: &'static str, command: &'static str, minutes: u64) -> Suite {
    Suite { name, command, program: None, minutes, before: "", pinned: false, in_place: false, folder: "mm" }
}

impl Suite {
    pub const fn after(self, before: &'static str) -> Self {
        Self { before, ..self }
    }

    /// For one that asks for pages to be swapped out and looks whether they are: those that wait
    /// for the LRU on another processor, where the test ran a moment ago, are not.
    pub const fn pinned(self) -> Self {
        Self { pinned: true, ..self }
    }

    /// For one that starts itself again, or maps its own file.
    pub const fn in_place(self) -> Self {
        Self { in_place: true, ..self }
    }

    /// For one that is not memory management's.
    pub const fn of(self, folder: &'static str) -> Self {
        Self { folder, ..self }
    }

    /// For a command of the guest's that runs this program.
    pub const fn runs(self, program: &'static str) -> Self {
        Self { program: Some(program), ..self }
    }

    fn program(&self) -> &str {
        self.program.or(self.command.split(' ').next()).unwrap_or_default()
    }

    /// How make is told to link statically.
    fn linking(&self) -> &'static str {
        match self.folder {
            "kvm" => "no-pie-option=-no-pie -static",
            // A few of its rules know of no other variable.
            "mm" => "EXTRA_CFLAGS=-static",
            _ => "USERLDFLAGS=-static",
        }
    }
}

/// What they are linked with. Without liburing they leave tests out.
const LIBRARIES: [(Sign, &str); 3] = [
    (Sign::File("/usr/include/sys/capability.h"), "libcap-dev"),
    (Sign::File("/usr/include/numa.h"), "libnuma-dev"),
    (Sign::File("/usr/include/liburing.h"), "liburing-dev"),
];

/// What a kernel's guest said.
#[derive(Clone, Default, Serialize, Deserialize)]
pub struct Run {
    pub suites: BTreeMap<String, Said>,
    /// The kernel's complaint, or why the guest was stopped.
    pub trouble: Option<String>,
}

/// The suites that `TESTS=` names; all where it names none.
pub fn chosen(ctx: &Ctx, all: &'static [Suite]) -> Result<Vec<&'static Suite>> {
    let known = |name: &String| all.iter().any(|s| s.name == name);
    if let Some(name) = ctx.tests.iter().find(|name| !known(name)) {
        let names: Vec<_> = all.iter().map(|s| s.name).collect();
        bail!("TESTS names {name}, which is none of these suites: {}", names.join(" "));
    }
    Ok(all.iter().filter(|s| ctx.tests.is_empty() || ctx.tests.iter().any(|t| t == s.name)).collect())
}

/// Writes the guest's script and the list that it reads, the last of what it returns.
pub fn script(dir: &Path, list: &str) -> Result<[PathBuf; 2]> {
    let files = ["suites.sh", "suites"].map(|name| dir.join(name));
    for (path, text) in files.iter().zip([SCRIPT, list]) {
        write_if_changed(path, text.as_bytes())?;
    }
    Ok(files)
}

/// What the guest's script reads.
pub fn list(suites: &[&Suite]) -> String {
    let line = |s: &&Suite| {
        let pin = if s.pinned { "taskset 1 " } else { "" };
        let link = if s.in_place { format!("ln -s /bin/{} .", s.program()) } else { String::new() };
        format!("suite {} {} '{}{link}' {pin}{}\n", s.name, s.minutes * 60, s.before, s.command)
    };
    suites.iter().map(line).collect()
}

/// Builds their programs out of `source` into `out`, against the user headers in `headers`.
pub fn build(
    ctx: &Ctx,
    suites: &[&Suite],
    source: &Path,
    headers: &Path,
    out: &Path,
) -> Result<Vec<PathBuf>> {
    deps::need(ctx, &LIBRARIES)?;
    let mut programs = Vec::new();
    let mut folders: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for suite in suites {
        folders.entry((suite.folder, suite.linking())).or_default().push(suite.program());
    }
    for ((folder, linking), names) in folders {
        // Some have a library of their own beside their programs.
        let out = out.join(folder);
        let wanted: BTreeSet<_> = names.into_iter().map(|name| out.join(name)).collect();
        std::fs::create_dir_all(&out)?;
        let mut args = vec![
            "-C".into(),
            source.join("tools/testing/selftests").join(folder).display().to_string(),
            format!("OUTPUT={}", out.display()),
            format!("ARCH={}", ctx.arch.name()),
            format!("KHDR_INCLUDES=-isystem {}", headers.display()),
            linking.into(),
        ];
        args.extend(wanted.iter().map(|p| p.display().to_string()));
        let hint = "a library that is missing? See LIBRARIES in xtask/src/selftests.rs";
        let name = format!("selftests-{}", folder.replace('/', "-"));
        Job { ctx, name: &name, what: kernel::make(&args), limit: 20 * MINUTE, hint }.run()?;
        programs.extend(wanted);
    }
    Ok(programs)
}

/// Runs suites on one kernel. Among its programs are those that script() wrote.
pub fn boot(ctx: &Ctx, name: &str, objects: &Path, programs: &[PathBuf], suites: &[&Suite]) -> Run {
    let guest = Guest {
        words: words(ctx.arch),
        processors: PROCESSORS,
        minutes: 5 + suites.iter().map(|s| s.minutes).sum::<u64>(),
        ..Guest::new(objects, name, programs, vec!["suites.sh".into()])
    };
    let mut run = Run::default();
    let mut reading: Option<(String, Reader, Instant)> = None;
    let mut end = |reading: Option<(String, Reader, Instant)>, status| {
        let Some((name, reader, since)) = reading else { return };
        let said = reader.end(status, since.elapsed().as_secs());
        let Count { passed, failed, skipped, expected } = said.count();
        ctx.ui.note(&format!(
            "{name}: {passed} passed, {failed} failed, {skipped} skipped, {expected} failed as expected ({} s)",
            said.seconds
        ));
        run.suites.insert(name, said);
    };
    let booted = guest.boot(ctx, |line| match line {
        Line::Begin(name) if suites.iter().any(|s| s.name == name) => {
            reading = Some((name.into(), Reader::default(), Instant::now()));
        }
        Line::End(status) => end(reading.take(), Some(status)),
        Line::Program(text) => {
            if let (Some((_, reader, _)), Some(text)) = (&mut reading, text.strip_prefix("# ")) {
                reader.line(text);
            }
        }
        _ => {}
    });
    end(reading, None);
    run.trouble = booted.err().map(|e| format!("{e:#}"));
    run
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::suites::SUITES;

    /// Holds a list to what the guest's script and its /bin ask of it.
    pub fn the_guest_can_read(suites: &[Suite]) {
        for (i, suite) in suites.iter().enumerate() {
            for other in &suites[..i] {
                assert_ne!(other.name, suite.name);
                // All programs are in /bin of the guest.
                let other = (other.folder, other.program());
                assert!(other.1 != suite.program() || other.0 == suite.folder, "{other:?}");
            }
            assert!(!suite.name.contains(' ') && !suite.program().is_empty() && suite.minutes > 0);
            assert!(!suite.before.contains('\''), "{}: the guest's list quotes with '", suite.name);
            assert!(!suite.in_place || suite.before.is_empty(), "{}", suite.name);
        }
    }

    #[test]
    fn the_list_is_one_that_the_guest_can_read() {
        the_guest_can_read(SUITES);
        let two = [&suite("a", "b 20 16", 5), &suite("c", "d", 1).after("swapoff -a").pinned()];
        assert_eq!(list(&two), "suite a 300 '' b 20 16\nsuite c 60 'swapoff -a' taskset 1 d\n");
    }
}
