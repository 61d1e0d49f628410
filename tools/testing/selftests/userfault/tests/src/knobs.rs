// SPDX-License-Identifier: GPL-2.0

//! Settings of the kernel that tests change.
//!
//! A test just writes them; the runner, which outlives every test, puts them back.

use crate::harness::{Outcome, Skip};
use crate::sys::page;
use anyhow::Context;
use nix::errno::Errno;
use nix::mount::{mount, MsFlags};
use std::fs;
use std::path::{Path, PathBuf};

const THP: &str = "/sys/kernel/mm/transparent_hugepage";
const KSM: &str = "/sys/kernel/mm/ksm";

/// Which tracer runs.
pub const TRACER: &str = "/sys/kernel/tracing/current_tracer";

/// Files that hold a number, a word or, in brackets, one of several words.
const KNOBS: [&str; 21] = [
    "/sys/kernel/mm/transparent_hugepage/enabled",
    "/sys/kernel/mm/transparent_hugepage/defrag",
    "/sys/kernel/mm/transparent_hugepage/use_zero_page",
    "/sys/kernel/mm/transparent_hugepage/shrink_underused",
    "/sys/kernel/mm/transparent_hugepage/khugepaged/defrag",
    "/sys/kernel/mm/transparent_hugepage/khugepaged/scan_sleep_millisecs",
    "/sys/kernel/mm/transparent_hugepage/khugepaged/alloc_sleep_millisecs",
    "/sys/kernel/mm/transparent_hugepage/khugepaged/pages_to_scan",
    "/sys/kernel/mm/transparent_hugepage/khugepaged/max_ptes_none",
    "/sys/kernel/mm/ksm/run",
    "/sys/kernel/mm/ksm/sleep_millisecs",
    "/sys/kernel/mm/ksm/pages_to_scan",
    "/sys/kernel/mm/ksm/smart_scan",
    "/sys/kernel/mm/ksm/use_zero_pages",
    "/proc/sys/kernel/core_pattern",
    "/proc/sys/kernel/printk",
    "/proc/sys/vm/max_map_count",
    "/proc/sys/vm/nr_hugepages",
    "/proc/sys/vm/overcommit_memory",
    "/proc/sys/vm/unprivileged_userfaultfd",
    TRACER,
];

/// The settings as they were.
pub struct Knobs(Vec<(PathBuf, String)>);

impl Knobs {
    /// Reads all of them that this kernel has.
    pub fn read() -> Self {
        let multi_size = multi_size()
            .into_iter()
            .flatten()
            .map(|path| path.join("enabled"));
        let paths = KNOBS.iter().map(PathBuf::from).chain(multi_size);
        Self(
            paths
                .filter_map(|path| Some((path.clone(), get(&path)?)))
                .collect(),
        )
    }

    /// Writes back those that have changed.
    pub fn restore(&self) {
        for (path, value) in &self.0 {
            if get(path).as_ref() != Some(value) {
                // KSM gives its pages back only when told so.
                if path.ends_with("ksm/run") {
                    let _ = fs::write(path, "2");
                }
                if let Err(error) = fs::write(path, value) {
                    println!("# {}: not restored: {error}", path.display());
                }
            }
        }
    }
}

/// The value of a setting: the whole text, or the word in brackets.
fn get(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let chosen = text
        .split_once('[')
        .and_then(|(_, rest)| rest.split_once(']'));
    Some(chosen.map_or(text.trim(), |(word, _)| word).to_owned())
}

/// Changes a setting.  A kernel that does not have it cannot run the test.
pub fn set(path: &str, value: impl ToString) -> Outcome {
    if !Path::new(path).exists() {
        return Err(Skip(format!("this kernel has no {path}")).into());
    }
    fs::write(path, value.to_string()).with_context(|| format!("{path}: {}", value.to_string()))
}

/// Changes a setting of transparent huge pages.
pub fn set_thp(name: &str, value: impl ToString) -> Outcome {
    set(&format!("{THP}/{name}"), value)
}

/// A setting or a counter of folios of so many pages.
pub fn folio_file(pages: usize, name: &str) -> String {
    format!("hugepages-{}kB/{name}", pages * page() / 1024)
}

/// Where the settings and the counters are of each size of folios that this kernel has.
pub fn multi_size() -> anyhow::Result<Vec<PathBuf>> {
    // Not every MMU has huge pages; without them nothing else is there.
    if !Path::new(THP).exists() {
        return Ok(Vec::new());
    }
    let entries = fs::read_dir(THP).context(THP)?;
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| path.join("enabled").exists());
    paths.sort();
    Ok(paths)
}

/// Changes a setting of the merging of equal pages.
pub fn set_ksm(name: &str, value: impl ToString) -> Outcome {
    set(&format!("{KSM}/{name}"), value)
}

/// Reads a number that the kernel counts in a file of its own.
pub fn number(path: &str) -> anyhow::Result<u64> {
    let text = fs::read_to_string(path).with_context(|| path.to_owned())?;
    text.trim().parse().with_context(|| path.to_owned())
}

/// Reads a counter of transparent huge pages.
pub fn thp_number(name: &str) -> anyhow::Result<u64> {
    number(&format!("{THP}/{name}"))
}

/// Reads a counter of the merging of equal pages.
pub fn ksm_number(name: &str) -> anyhow::Result<u64> {
    number(&format!("{KSM}/{name}"))
}

/// A file system of the kernel's, mounted where it usually is, or skips the test without it.
pub fn mount_at(place: &str, kind: &str) -> anyhow::Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("/proc/self/mounts")?;
    let mounted = mounts.lines().find_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let point = fields.next()?;
        (fields.next()? == kind).then(|| PathBuf::from(point))
    });
    if let Some(point) = mounted {
        return Ok(point);
    }
    let mut point = PathBuf::from(place);
    if !point.exists() {
        point = PathBuf::from(format!("/tmp/userfault-tests-{kind}"));
        fs::create_dir_all(&point).with_context(|| point.display().to_string())?;
    }
    match mount(
        None::<&str>,
        &point,
        Some(kind),
        MsFlags::empty(),
        None::<&str>,
    ) {
        Err(Errno::ENODEV) => Err(Skip(format!("this kernel has no {kind}")).into()),
        done => done
            .map(|()| point)
            .with_context(|| format!("mount of {kind}")),
    }
}
