// SPDX-License-Identifier: GPL-2.0

//! Allocations of the kernel that fail on demand.

use crate::harness::{Outcome, Skip};
use crate::knobs::{self, mount_at};
use crate::sys::{page, Area, Map, Span};
use crate::{ensure_eq, proc};
use anyhow::{ensure, Context};
use nix::errno::Errno;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Makes one allocation of this thread fail.
pub struct FailNth(File);

impl FailNth {
    /// Prepares it, or skips the test where the kernel has no such thing.
    pub fn new() -> anyhow::Result<Self> {
        let none = || Skip("this kernel has no allocations that fail on demand".into());
        let debug = mount_at("/sys/kernel/debug", "debugfs")?;
        for kind in ["failslab", "fail_page_alloc"] {
            let dir = debug.join(kind);
            if !dir.exists() {
                return Err(none().into());
            }
            for (name, value) in [("verbose", "0"), ("ignore-gfp-wait", "N")] {
                fs::write(dir.join(name), value).with_context(|| format!("{kind}/{name}"))?;
            }
        }
        fs::write(debug.join("fail_page_alloc/min-order"), "0").context("min-order")?;
        let path = Path::new("/proc/thread-self/fail-nth");
        let file = File::options().read(true).write(true).open(path);
        Ok(Self(file.map_err(|_| none())?))
    }

    /// Makes an allocation of this thread fail: the first from now on, the second, or none (0).
    pub fn arm(&self, nth: usize) -> Outcome {
        let done = self.0.write_all_at(nth.to_string().as_bytes(), 0);
        done.context("fail-nth")
    }

    /// Runs `call` with one allocation of it failing.  Says whether it came to that.
    fn with<T>(&self, nth: usize, call: impl FnOnce() -> T) -> anyhow::Result<(T, bool)> {
        self.arm(nth)?;
        let result = call();
        // What is left of the number; none is left when it was used.
        let mut left = [0; 16];
        let count = self.0.read_at(&mut left, 0);
        self.arm(0)?;
        Ok((result, nth > 0 && left[..count?].starts_with(b"0")))
    }
}

/// The forms of a call.  One that does not do as it should hides no other.
pub struct Forms {
    fail_nth: FailNth,
    wrong: Vec<String>,
}

impl Forms {
    /// Prepares them, or skips the test.
    pub fn new() -> anyhow::Result<Self> {
        Ok(Self {
            fail_nth: FailNth::new()?,
            wrong: Vec::new(),
        })
    }

    /// Makes a call once for each allocation in it, with that allocation failing, each time on what
    /// `make` has prepared anew.  What failed is repeated, and then works.  Nothing is left behind.
    pub fn form<C: Call>(
        &mut self,
        name: &str,
        expect: Expect,
        make: impl Fn() -> anyhow::Result<C>,
    ) -> Outcome {
        /// How many sweeps may miss every allocation that counts.  The slab allocator and KASAN
        /// allocate, too, now more and now less, and do without: the number of an allocation in a
        /// call is not the same each time, and few of them are any that the call needs.
        const SWEEPS: usize = 8;
        let mut tally = Tally::default();
        let mut result = Ok(());
        for _ in 0..SWEEPS {
            result = self.rounds(expect, &mut tally, &make);
            if result.is_err() || tally.check(expect).is_ok() {
                break;
            }
        }
        let result = result.and_then(|()| tally.check(expect));
        let Tally { failed, refused } = tally;
        println!("# {name}: {failed} allocations, {refused} of them missed");
        match result {
            Err(error) if error.is::<Skip>() && self.wrong.is_empty() => return Err(error),
            Err(error) => self.wrong.push(format!("{name}: {error:#}")),
            Ok(()) => (),
        }
        Ok(())
    }

    /// Says what was wrong.
    pub fn end(self) -> Outcome {
        ensure!(self.wrong.is_empty(), "{}", self.wrong.join("\n"));
        Ok(())
    }

    fn rounds<C: Call>(
        &self,
        expect: Expect,
        tally: &mut Tally,
        make: &impl Fn() -> anyhow::Result<C>,
    ) -> Outcome {
        /// The first round sets up what the test itself needs, and its heap may grow later, too;
        /// but not every time.
        const TRIES: usize = 3;
        for nth in 0..MOST {
            let (mut failed, mut clean) = (false, false);
            for _ in 0..TRIES {
                let before = Counts::now()?;
                let state = make()?;
                failed = self
                    .round(nth, &state, expect, tally)
                    .with_context(|| format!("allocation {nth}"))?;
                drop(state);
                let after = Counts::now()?;
                clean = (after.swap, after.tables) == (before.swap, before.tables);
                if clean {
                    break;
                }
            }
            ensure!(clean || nth == 0, "allocation {nth} leaves tables, or swap");
            if nth > 0 && !failed {
                return Ok(());
            }
        }
        anyhow::bail!("more than {MOST} allocations")
    }

    fn round<C: Call>(
        &self,
        nth: usize,
        state: &C,
        expect: Expect,
        tally: &mut Tally,
    ) -> anyhow::Result<bool> {
        let before = Counts::now()?;
        let (result, failed) = self.fail_nth.with(nth, || state.call(0))?;
        let after = Counts::now()?;
        let done = match (result, expect) {
            (Ok(done), _) => done,
            (Err(error), Expect::Refused(errors)) if errors.contains(&error) => 0,
            (Err(error), _) => anyhow::bail!("{error}, an allocation failed: {failed}"),
        };
        let all = state.all();
        ensure!(done <= all, "{done} is more than {all}");
        ensure!(done == all || failed, "{done} of {all}, and none failed");
        if C::KEEPS_COUNTS {
            // Some may have been brought back.
            let (after, before) = (after.pages + after.swap, before.pages + before.swap);
            ensure_eq!(after, before, "pages, in memory and in swap");
        }
        state.check(done).with_context(|| format!("{result:?}"))?;
        tally.failed += usize::from(failed);
        if done < all {
            tally.refused += 1;
            ensure_eq!(state.call(done), Ok(all - done), "when repeated");
            state.check(all).context("when repeated")?;
        }
        Ok(failed)
    }
}

/// A touched vma and so many bytes in it: behind its first page, or where no table of any level is.
pub fn room(far: bool, len: usize) -> anyhow::Result<(Area, Span)> {
    const FAR: usize = 1 << 39;
    let area = Map::bytes(2 * FAR).align(FAR).map()?;
    area.page(0).fill(1);
    let place = Span::new(area.addr + if far { FAR } else { page() }, len);
    Ok((area, place))
}

/// How many allocations a call may have.
const MOST: usize = 2000;

/// What becomes of a call one of whose allocations fails.
#[derive(Clone, Copy, Debug)]
pub enum Expect {
    /// It has none.
    Nothing,
    /// It does without.
    Works,
    /// It fails with one of these, or says how far it got; not for every allocation.
    Refused(&'static [Errno]),
}

/// The usual one.
pub const ENOMEM: Expect = Expect::Refused(&[Errno::ENOMEM]);

/// A call, and what was prepared for it.
pub trait Call {
    /// Whether the process has as many pages afterwards, in memory and in swap, as before.
    const KEEPS_COUNTS: bool = true;

    /// Makes the call, or what is left of it when so much is done.  Says how much that is.
    fn call(&self, done: usize) -> nix::Result<usize>;

    /// How much there is to do.
    fn all(&self) -> usize {
        1
    }

    /// Checks that so much is done, and everything else is as it was.
    fn check(&self, done: usize) -> Outcome;
}

#[derive(Default)]
struct Tally {
    failed: usize,
    refused: usize,
}

impl Tally {
    fn check(&self, expect: Expect) -> Outcome {
        let Self { failed, refused } = self;
        match expect {
            Expect::Nothing => ensure!(*failed == 0, "{failed} allocations"),
            Expect::Works => ensure!(*failed > 0 && *refused == 0, "{failed}, {refused} refused"),
            Expect::Refused(_) => ensure!(*refused > 0, "{failed} allocations, none was missed"),
        }
        Ok(())
    }
}

/// What the process has, in KiB.
struct Counts {
    pages: u64,
    swap: u64,
    tables: u64,
}

impl Counts {
    /// Reads them without allocating anything, which would change them.
    fn now() -> anyhow::Result<Self> {
        let mut text = [0; 4096];
        let file = File::open("/proc/self/status").context("status")?;
        let len = file.read_at(&mut text, 0).context("status")?;
        let text = std::str::from_utf8(&text[..len])?;
        let count = |name| {
            let mut lines = text.lines();
            let line = lines.find_map(|line| line.strip_prefix(name));
            let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
            number.with_context(|| format!("no {name}"))
        };
        Ok(Self {
            pages: count("RssAnon:")?,
            swap: count("VmSwap:")?,
            tables: count("VmPTE:")?,
        })
    }
}

/// Keeps the kernel, until the end of the test, from saying of each fault that it is tried again.
pub fn quieten() -> Outcome {
    knobs::set("/proc/sys/kernel/printk", 4)
}

/// The flags of each page's vma: what stays the same where vmas are split, or not merged.
pub fn layout(span: Span) -> anyhow::Result<Vec<BTreeSet<String>>> {
    let vmas = proc::vmas_in(span)?;
    let flags = |page| match vmas.iter().find(|vma| vma.span.overlaps(page)) {
        Some(vma) => vma.flags.iter().chain([&vma.access]).cloned().collect(),
        None => BTreeSet::new(),
    };
    Ok(span.each_page().map(flags).collect())
}
