// SPDX-License-Identifier: GPL-2.0

//! Which lines of our Rust code a program has come to in the kernel, by what KCOV says.
//!
//! The compiler puts a call at the beginning of each block of code, and the address behind that call is
//! what the kernel notes. So all such calls in the kernel's file are all that could be noted.

use crate::util::read;
use addr2line::Loader;
use anyhow::{anyhow, bail, Context, Result};
use object::{Object, ObjectSection, ObjectSymbol};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The folders whose code is instrumented.
const FOLDERS: [&str; 2] = ["mm/userfault/", "fs/userfaultfd/"];
/// What every instrumented block calls.
const CALLED: &str = "__sanitizer_cov_trace_pc";
/// A part of the names of the kernel's own tests, which no system call comes to.
const TESTS: &str = "5tests";
/// x86's instruction for a call: its first byte, and how long it is.
const CALL: u8 = 0xe8;
const CALL_LEN: usize = 5;

/// The lines of each file that have instrumented code, and whether it was reached.
#[derive(Default)]
pub struct Lines(BTreeMap<String, BTreeMap<u32, bool>>);

/// Finds them in a kernel's `vmlinux`, of which these addresses were reached.
pub fn lines(path: &Path, reached: &BTreeSet<u64>) -> Result<Lines> {
    let loader = Loader::new(path).map_err(|e| anyhow!("{}: {e}", path.display()))?;
    let data = read(path)?;
    let possible = instrumented(&data).with_context(|| path.display().to_string())?;
    // Where the call is the last thing that a function does it is a jump, and its caller is what is noted.
    if !reached.is_empty() && reached.is_disjoint(&possible) {
        bail!("what was reached is not of {}", path.display());
    }
    let mut lines = Lines::default();
    for address in possible {
        // That of the call itself: the one behind it may be another line's.
        let call = address - CALL_LEN as u64;
        if loader.find_symbol(call).is_some_and(|name| name.contains(TESTS)) {
            continue;
        }
        let mut frames = loader.find_frames(call).map_err(|e| anyhow!("{call:#x}: {e}"))?;
        // A function of ours, and where it is inlined into another one.
        while let Some(frame) = frames.next().map_err(|e| anyhow!("{call:#x}: {e}"))? {
            let at = frame.location.as_ref().and_then(|at| Some((ours(at.file?)?, at.line?)));
            if let Some((file, line)) = at {
                lines.add(file, line, reached.contains(&address));
            }
        }
    }
    if lines.0.is_empty() {
        bail!("{} has no lines of {}: was it built with KCOV?", path.display(), FOLDERS.join(" and "));
    }
    Ok(lines)
}

/// The part of a path that is in a folder of ours.
fn ours(path: &str) -> Option<&str> {
    FOLDERS.iter().find_map(|folder| path.find(folder)).map(|at| &path[at..])
}

/// The address behind each call that notes where it is.
fn instrumented(data: &[u8]) -> Result<BTreeSet<u64>> {
    let file = object::File::parse(data)?;
    let called = file.symbols().find(|s| s.name() == Ok(CALLED)).context("it has no KCOV")?.address();
    let text = file.section_by_name(".text").context("it has no code")?;
    Ok(calls(text.data()?, text.address(), called))
}

/// The same in some code, which is at this address. That the bytes of something else look like a call of
/// just this function is too unlikely to be decoded for.
fn calls(code: &[u8], base: u64, called: u64) -> BTreeSet<u64> {
    let starts = code.windows(CALL_LEN).enumerate().filter(|(_, bytes)| bytes[0] == CALL);
    starts
        .filter_map(|(at, bytes)| {
            let behind = base + (at + CALL_LEN) as u64;
            let distance = i32::from_le_bytes(bytes[1..].try_into().ok()?);
            (behind.wrapping_add_signed(distance.into()) == called).then_some(behind)
        })
        .collect()
}

impl Lines {
    fn add(&mut self, file: &str, line: u32, reached: bool) {
        *self.0.entry(file.into()).or_default().entry(line).or_default() |= reached;
    }

    /// How many lines were reached, and how many there are.
    pub fn count(&self) -> (usize, usize) {
        let all = || self.0.values().flat_map(BTreeMap::values);
        (all().filter(|reached| **reached).count(), all().count())
    }

    /// The lines that were not reached, as `FILE:FIRST-LAST` where nothing between was.
    pub fn missed(&self) -> Vec<String> {
        let mut missed = Vec::new();
        for (file, lines) in &self.0 {
            let mut range: Option<(u32, u32)> = None;
            let mut end = |range: Option<(u32, u32)>| match range {
                Some((first, last)) if first == last => missed.push(format!("{file}:{first}")),
                Some((first, last)) => missed.push(format!("{file}:{first}-{last}")),
                None => {}
            };
            for (line, reached) in lines {
                match reached {
                    true => end(range.take()),
                    false => range = Some((range.map_or(*line, |(first, _)| first), *line)),
                }
            }
            end(range);
        }
        missed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_calls() {
        // Forward, back, and one of something else.
        let code = [0x90, 0xe8, 4, 0, 0, 0, 0xe8, 0, 0, 0, 0, 0x90, 0xe8, 0xf9, 0xff, 0xff, 0xff];
        assert_eq!(calls(&code, 0x1000, 0x100a), BTreeSet::from([0x1006, 0x1011]));
    }

    #[test]
    fn says_what_is_missed() {
        let mut lines = Lines::default();
        for (line, reached) in [(1, true), (2, false), (3, false), (3, true), (7, false), (9, false)] {
            lines.add("mm/a.rs", line, reached);
        }
        lines.add("mm/b.rs", 4, false);
        assert_eq!(lines.count(), (2, 6));
        assert_eq!(lines.missed(), ["mm/a.rs:2", "mm/a.rs:7-9", "mm/b.rs:4"]);
    }

    #[test]
    fn knows_our_folders() {
        assert_eq!(ours("/x/build/linux/mm/userfault/huge.rs"), Some("mm/userfault/huge.rs"));
        assert_eq!(ours("/x/rust/kernel/mm/run.rs"), None);
    }
}
