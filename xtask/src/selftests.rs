// SPDX-License-Identifier: GPL-2.0

//! Upstream's own tests of memory management, tools/testing/selftests/mm, and of virtual machines
//! that wait for their memory, of tools/testing/selftests/kvm: which we run, and how they are built.

use crate::ctx::Ctx;
use crate::deps::{self, Sign};
use crate::kernel;
use crate::run::{Job, MINUTE};
use anyhow::{bail, Result};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// A program of upstream's, run in one way.
pub struct Suite {
    /// One word, and only this suite's: what `TESTS=` takes.
    pub name: &'static str,
    /// The program and its arguments.
    pub command: &'static str,
    /// Longer than this it may not take.
    pub minutes: u64,
    /// What the guest's shell does before it.
    pub before: &'static str,
    /// It runs on one processor.
    pub pinned: bool,
    /// Where in upstream's folder of selftests its program is.
    folder: &'static str,
}

const fn suite(name: &'static str, command: &'static str, minutes: u64) -> Suite {
    Suite { name, command, minutes, before: "", pinned: false, folder: "mm" }
}

impl Suite {
    const fn after(self, before: &'static str) -> Self {
        Self { before, ..self }
    }

    /// For one that asks for pages to be swapped out and looks whether they are: those that wait
    /// for the LRU on another processor, where the test ran a moment ago, are not.
    const fn pinned(self) -> Self {
        Self { pinned: true, ..self }
    }

    /// Those of KVM load themselves into a machine, from where they lie.
    const fn of_kvm(self) -> Self {
        Self { folder: "kvm", before: "ln -s /bin/demand_paging_test .", ..self }
    }

    fn program(&self) -> &str {
        self.command.split(' ').next().unwrap_or_default()
    }
}

/// What they are linked with. Without liburing they leave tests out.
const LIBRARIES: [(Sign, &str); 2] = [
    (Sign::File("/usr/include/numa.h"), "libnuma-dev"),
    (Sign::File("/usr/include/liburing.h"), "liburing-dev"),
];

/// The list, in the order in which they run. Each asks for the huge pages that it needs.
/// tools/testing/selftests/mm/run_vmtests.sh shows what upstream runs, and with what preparation.
pub const SUITES: [Suite; 30] = [
    suite("uffd-unit-tests", "uffd-unit-tests", 15),
    suite("uffd-stress-anon", "uffd-stress anon 20 16", 5),
    suite("uffd-stress-shmem", "uffd-stress shmem 20 16", 5),
    suite("uffd-stress-shmem-private", "uffd-stress shmem-private 20 16", 5),
    suite("uffd-stress-hugetlb", "uffd-stress hugetlb 64 32", 5),
    suite("uffd-stress-hugetlb-private", "uffd-stress hugetlb-private 64 32", 5),
    suite("mremap", "mremap_test", 5),
    suite("madv_populate", "madv_populate", 2),
    suite("guard-regions", "guard-regions", 5),
    suite("merge", "merge", 5),
    suite("cow", "cow", 10).pinned(),
    suite("khugepaged", "khugepaged", 10).pinned(),
    suite("khugepaged-order-2", "khugepaged -s 2", 10).pinned(),
    suite("khugepaged-shmem", "khugepaged all:shmem", 10).pinned(),
    suite("khugepaged-shmem-order-4", "khugepaged -s 4 all:shmem", 10).pinned(),
    suite("khugepaged-mthp", "khugepaged -c 4 mthp_khugepaged:anon", 10).pinned(),
    suite("khugepaged-file", "khugepaged all:file /huge", 10)
        .after("mkdir /huge; mount -t tmpfs -o huge=advise tmpfs /huge")
        .pinned(),
    suite("migration", "migration", 5),
    suite("gup-fast", "gup_test -u -w -n 1", 2),
    suite("gup-fast-all", "gup_test -u -w -n -1", 2),
    suite("gup-basic", "gup_test -U -n 512", 2),
    suite("pin-fast", "gup_test -a -w -n 1", 2),
    suite("pin-fast-all", "gup_test -a -w -n -1", 2),
    suite("pin-fast-huge", "gup_test -a -t -w -n 512", 2),
    suite("pin-basic", "gup_test -b -n 512", 2),
    suite("pin-longterm", "gup_test -L -w -n 123", 2),
    suite("gup-dump", "gup_test -ct -F 0x1 0 19 0x1000", 2),
    suite("gup-longterm", "gup_longterm", 10),
    suite("kvm-demand-paging", "demand_paging_test -u MISSING -b 16M", 5).of_kvm(),
    suite("kvm-demand-paging-minor", "demand_paging_test -u MINOR -s shmem -b 16M", 5).of_kvm(),
];

/// The suites that `TESTS=` names; all where it names none.
pub fn chosen(ctx: &Ctx) -> Result<Vec<&'static Suite>> {
    let known = |name: &String| SUITES.iter().any(|s| s.name == name);
    if let Some(name) = ctx.tests.iter().find(|name| !known(name)) {
        let names: Vec<_> = SUITES.iter().map(|s| s.name).collect();
        bail!("TESTS names {name}, which is none of these suites: {}", names.join(" "));
    }
    Ok(SUITES.iter().filter(|s| ctx.tests.is_empty() || ctx.tests.iter().any(|t| t == s.name)).collect())
}

/// What the guest's script reads.
pub fn list(suites: &[&Suite]) -> String {
    let line = |s: &&Suite| {
        let pin = if s.pinned { "taskset 1 " } else { "" };
        format!("suite {} {} '{}' {pin}{}\n", s.name, s.minutes * 60, s.before, s.command)
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
    for (folder, linking) in [("mm", "USERLDFLAGS=-static"), ("kvm", "no-pie-option=-no-pie -static")] {
        // Each has a library of its own beside its programs.
        let out = out.join(folder);
        let wanted: BTreeSet<_> =
            suites.iter().filter(|s| s.folder == folder).map(|s| out.join(s.program())).collect();
        if wanted.is_empty() {
            continue;
        }
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
        let name = format!("selftests-{folder}");
        Job { ctx, name: &name, what: kernel::make(&args), limit: 20 * MINUTE, hint }.run()?;
        programs.extend(wanted);
    }
    Ok(programs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_one_that_the_guest_can_read() {
        for (i, suite) in SUITES.iter().enumerate() {
            assert!(
                SUITES[..i].iter().all(|other| other.name != suite.name),
                "{} is there twice",
                suite.name
            );
            assert!(!suite.name.contains(' ') && !suite.program().is_empty() && suite.minutes > 0);
            assert!(!suite.before.contains('\''), "{}: the guest's list quotes with '", suite.name);
        }
        let two = [&suite("a", "b 20 16", 5), &suite("c", "d", 1).after("swapoff -a").pinned()];
        assert_eq!(list(&two), "suite a 300 '' b 20 16\nsuite c 60 'swapoff -a' taskset 1 d\n");
    }
}
