// SPDX-License-Identifier: GPL-2.0

//! The frames behind pages: which of them are one folio, what is split, what migrates.

use crate::harness::Outcome;
use crate::proc::{ensure_holes, entries, frames, vmstat};
use crate::sys::{remap, remap_all, Span};
use crate::{ensure_eq, knobs};
use anyhow::{ensure, Context};
use nix::errno::Errno;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// What has been split since the kernel has started.
#[derive(Debug)]
pub struct Splits(Vec<(String, u64)>);

impl Splits {
    /// So far.
    pub fn now() -> anyhow::Result<Self> {
        let mut counts = Vec::new();
        for name in ["thp_split_pmd", "thp_split_page", "thp_split_page_failed"] {
            counts.push((name.to_owned(), vmstat(name)?));
        }
        for path in knobs::multi_size()? {
            for name in ["stats/split", "stats/split_failed"] {
                let path = path.join(name).display().to_string();
                let count = knobs::number(&path)?;
                counts.push((path, count));
            }
        }
        Ok(Self(counts))
    }

    /// Fails if anything was split, or was tried to be split, since then.
    pub fn ensure_no_more(&self) -> Outcome {
        for ((name, before), (_, now)) in self.0.iter().zip(Self::now()?.0) {
            ensure_eq!(now, *before, "{name}");
        }
        Ok(())
    }
}

/// Moves pages, and fails unless they are the same as before and nothing was split for it.
pub fn move_unsplit(dst: Span, src: Span) -> Outcome {
    let (before, splits) = (frames(src)?, Splits::now()?);
    remap_all(dst, src)?;
    splits.ensure_no_more()?;
    ensure_eq!(frames(dst)?, before, "the frames");
    ensure_holes(src)
}

/// The call fails, and what is at the source is not even split for it.
pub fn ensure_refused(dst: Span, src: Span, reason: Errno) -> Outcome {
    let (before, splits) = (entries(src)?, Splits::now()?);
    ensure_eq!(remap(dst, src, 0), Err(reason));
    splits.ensure_no_more()?;
    ensure_eq!(entries(src)?, before, "the source");
    Ok(())
}

const SWAP_CACHE: u32 = 13;
const COMPOUND_HEAD: u32 = 15;
const COMPOUND_TAIL: u32 = 16;

/// The flags of frames, or of their folios, as `/proc/kpageflags` shows them.
struct Flags(File);

impl Flags {
    fn open() -> anyhow::Result<Self> {
        let path = "/proc/kpageflags";
        Ok(Self(File::open(path).context(path)?))
    }

    fn has(&self, pfn: u64, bit: u32) -> anyhow::Result<bool> {
        let mut bytes = [0; size_of::<u64>()];
        let offset = pfn * size_of::<u64>() as u64;
        self.0.read_exact_at(&mut bytes, offset).context("flags")?;
        Ok(u64::from_ne_bytes(bytes) & 1 << bit != 0)
    }
}

/// Whether the folio of a frame is in the swap cache.
pub fn in_swap_cache(pfn: u64) -> anyhow::Result<bool> {
    Flags::open()?.has(pfn, SWAP_CACHE)
}

/// Whether a frame belongs to a folio of several pages.
pub fn is_large(pfn: u64) -> anyhow::Result<bool> {
    let flags = Flags::open()?;
    Ok(flags.has(pfn, COMPOUND_HEAD)? || flags.has(pfn, COMPOUND_TAIL)?)
}

/// Whether the range is one folio from its first page to its last.
pub fn is_folio(span: Span) -> anyhow::Result<bool> {
    let (frames, flags) = (frames(span)?, Flags::open()?);
    if !flags.has(frames[0], COMPOUND_HEAD)? {
        return Ok(false);
    }
    for pair in frames.windows(2) {
        if pair[1] != pair[0] + 1 || !flags.has(pair[1], COMPOUND_TAIL)? {
            return Ok(false);
        }
    }
    let after = frames[frames.len() - 1] + 1;
    Ok(!flags.has(after, COMPOUND_TAIL)?)
}

/// Fails if a page of the range belongs to a folio of several pages.
pub fn ensure_small(span: Span) -> Outcome {
    let flags = Flags::open()?;
    for pfn in frames(span)? {
        let large = flags.has(pfn, COMPOUND_HEAD)? || flags.has(pfn, COMPOUND_TAIL)?;
        ensure!(!large, "frame {pfn:#x} of {span:x?} is not alone");
    }
    Ok(())
}

/// Lets all memory be compacted, or skips the test.
pub fn compact() -> Outcome {
    knobs::set("/proc/sys/vm/compact_memory", 1)
}

/// Lets the first page of a range migrate to another frame, and its folio with it or without it.
pub fn migrate(span: Span) -> Outcome {
    const MADV_SOFT_OFFLINE: i32 = 101;
    let (page, before) = (span.page(0), frames(span.page(0))?);
    match page.advise(MADV_SOFT_OFFLINE) {
        Ok(()) => {
            ensure!(frames(page)? != before, "it has not migrated");
            // Give the frame back where there is a way to; else one page is lost until the end.
            let unpoison = Path::new("/sys/kernel/debug/hwpoison/unpoison-pfn");
            let _ = std::fs::write(unpoison, before[0].to_string());
            Ok(())
        }
        // This kernel does not offline pages.
        Err(Errno::EINVAL) => compact(),
        Err(error) => anyhow::bail!("MADV_SOFT_OFFLINE: {error}"),
    }
}
