// SPDX-License-Identifier: GPL-2.0

//! What the kernel tells about memory in `/proc`.

use crate::sys::{page, Span};
use anyhow::{ensure, Context};
use std::fmt::Display;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;

/// An entry of `/proc/self/pagemap`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry(u64);

impl Entry {
    /// A page is mapped.
    pub fn present(self) -> bool {
        self.0 & 1 << 63 != 0
    }

    /// A page is in swap, or migrates; markers are shown in the same way.
    pub fn swapped(self) -> bool {
        self.0 & 1 << 62 != 0
    }

    /// There is a guard marker.
    pub fn guard(self) -> bool {
        self.0 & 1 << 58 != 0
    }

    /// The page is mapped here and nowhere else.
    pub fn exclusive(self) -> bool {
        self.0 & 1 << 56 != 0
    }

    /// The page is written, as far as soft-dirty tracking knows.
    pub fn soft_dirty(self) -> bool {
        self.0 & 1 << 55 != 0
    }

    /// Mainline's userfaultfd write-protects it, or watches every access to it.
    pub fn watched(self) -> bool {
        self.0 & 1 << 57 != 0
    }

    /// The place in swap.
    pub fn swap_place(self) -> anyhow::Result<u64> {
        ensure!(self.swapped(), "not in swap: {self:x?}");
        Ok(self.0 & ((1 << 55) - 1))
    }

    /// Nothing at all is there.
    pub fn hole(self) -> bool {
        !self.present() && !self.swapped() && !self.guard()
    }

    /// The number of the page's frame.
    pub fn pfn(self) -> anyhow::Result<u64> {
        let pfn = self.0 & ((1 << 55) - 1);
        ensure!(
            self.present() && pfn != 0,
            "no frame to be seen in {self:x?}"
        );
        Ok(pfn)
    }
}

/// The entries of all pages of a range.
pub fn entries(span: Span) -> anyhow::Result<Vec<Entry>> {
    entries_of("self", span)
}

/// The same of a process by its number.
pub fn entries_of(process: impl Display, span: Span) -> anyhow::Result<Vec<Entry>> {
    let path = format!("/proc/{process}/pagemap");
    let file = File::open(&path).with_context(|| path.clone())?;
    let mut bytes = vec![0; span.nr_pages() * size_of::<u64>()];
    let offset = span.addr / page() * size_of::<u64>();
    file.read_exact_at(&mut bytes, offset as u64)
        .context(path)?;
    Ok(bytes
        .chunks_exact(size_of::<u64>())
        .map(|entry| Entry(u64::from_ne_bytes(entry.try_into().expect("8 bytes"))))
        .collect())
}

/// The frames of all pages of a range.
pub fn frames(span: Span) -> anyhow::Result<Vec<u64>> {
    entries(span)?
        .into_iter()
        .map(|entry| entry.pfn())
        .collect()
}

/// Where all pages of a range are in swap.
pub fn swap_places(span: Span) -> anyhow::Result<Vec<u64>> {
    entries(span)?
        .into_iter()
        .map(|entry| entry.swap_place())
        .collect()
}

/// The entry of the first page of a range.
pub fn entry(span: Span) -> anyhow::Result<Entry> {
    Ok(entries(span.page(0))?[0])
}

/// Forgets, for this process, what was written so far.
pub fn clear_soft_dirty() -> anyhow::Result<()> {
    fs::write("/proc/self/clear_refs", "4").context("clear_refs")
}

/// Fails unless the whole range is holes.
pub fn ensure_holes(span: Span) -> anyhow::Result<()> {
    ensure_entries(span, "a hole", Entry::hole)
}

/// Fails unless every page of the range is mapped.
pub fn ensure_present(span: Span) -> anyhow::Result<()> {
    ensure_entries(span, "present", Entry::present)
}

/// Fails unless every page of the range is as it should be.
pub fn ensure_entries(span: Span, what: &str, want: fn(Entry) -> bool) -> anyhow::Result<()> {
    for (index, entry) in entries(span)?.into_iter().enumerate() {
        ensure!(
            want(entry),
            "page {index} of {span:x?} is not {what}: {entry:x?}"
        );
    }
    Ok(())
}

/// A vma as `/proc/self/smaps` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vma {
    pub span: Span,
    /// `rw-p` and so on.
    pub access: String,
    /// The file, or a name like `[heap]`.
    pub name: String,
    /// Two letters each, as in `rd wr uf`.
    pub flags: Vec<String>,
    /// The numbers, all in KiB.
    sizes: Vec<(String, u64)>,
}

impl Vma {
    /// Whether it has the flag of these two letters.
    pub fn has(&self, flag: &str) -> bool {
        self.flags.iter().any(|own| own == flag)
    }

    /// A size in KiB, by its name.
    pub fn kib(&self, name: &str) -> anyhow::Result<u64> {
        self.sizes
            .iter()
            .find(|(own, _)| own == name)
            .map(|(_, kib)| *kib)
            .with_context(|| format!("smaps has no {name}"))
    }
}

/// All vmas of this process.
pub fn vmas() -> anyhow::Result<Vec<Vma>> {
    vmas_of("self")
}

/// All vmas of a process by its number.
pub fn vmas_of(process: impl Display) -> anyhow::Result<Vec<Vma>> {
    let path = format!("/proc/{process}/smaps");
    let text = fs::read_to_string(&path).context(path)?;
    let mut vmas: Vec<Vma> = Vec::new();
    for line in text.lines() {
        match line.split_once(char::is_whitespace) {
            Some(("VmFlags:", flags)) => {
                let vma = vmas.last_mut().context("flags before a range")?;
                vma.flags = flags.split_whitespace().map(str::to_owned).collect();
            }
            Some((name, value)) if name.ends_with(':') => {
                let number = value.split_whitespace().next().unwrap_or_default();
                if let (Some(vma), Ok(kib)) = (vmas.last_mut(), number.parse()) {
                    vma.sizes.push((name.trim_end_matches(':').to_owned(), kib));
                }
            }
            Some((range, rest)) => {
                let (start, end) = range.split_once('-').context("no range")?;
                let start = usize::from_str_radix(start, 16)?;
                let end = usize::from_str_radix(end, 16)?;
                let mut fields = rest.split_whitespace();
                vmas.push(Vma {
                    span: Span::new(start, end - start),
                    access: fields.next().unwrap_or_default().to_owned(),
                    name: fields.nth(3).unwrap_or_default().to_owned(),
                    flags: Vec::new(),
                    sizes: Vec::new(),
                });
            }
            None => (),
        }
    }
    Ok(vmas)
}

/// The vmas that have memory in a range.
pub fn vmas_in(span: Span) -> anyhow::Result<Vec<Vma>> {
    let mut vmas = vmas()?;
    vmas.retain(|vma| vma.span.overlaps(span));
    Ok(vmas)
}

/// The one vma that has the whole range.
pub fn vma_of(span: Span) -> anyhow::Result<Vma> {
    let mut vmas = vmas_in(span)?;
    ensure!(vmas.len() == 1, "{span:x?} is in {} vmas", vmas.len());
    let vma = vmas.remove(0);
    ensure!(
        vma.span.addr <= span.addr && span.end() <= vma.span.end(),
        "{span:x?} is not all in {:x?}",
        vma.span
    );
    Ok(vma)
}

/// Whether the range is in one vma that is marked with `MADV_USERFAULT`.
pub fn is_marked(span: Span) -> anyhow::Result<bool> {
    Ok(vma_of(span)?.has("uf"))
}

/// A size in KiB of `/proc/self/status`, by its name.
pub fn status_kib(name: &str) -> anyhow::Result<u64> {
    field("/proc/self/status", name)
}

/// A counter of `/proc/vmstat`.
pub fn vmstat(name: &str) -> anyhow::Result<u64> {
    field("/proc/vmstat", name)
}

/// All pages that were ever allocated.
pub fn pages_allocated() -> anyhow::Result<u64> {
    let text = fs::read_to_string("/proc/vmstat").context("/proc/vmstat")?;
    Ok(text
        .lines()
        .filter_map(|line| {
            line.strip_prefix("pgalloc_")?
                .split_once(' ')?
                .1
                .parse::<u64>()
                .ok()
        })
        .sum())
}

/// A number in a file of lines that are a name, perhaps a colon, and a number.
pub fn field(path: &str, name: &str) -> anyhow::Result<u64> {
    let text = fs::read_to_string(path).with_context(|| path.to_owned())?;
    text.lines()
        .find_map(|line| {
            let mut words = line.split_whitespace();
            (words.next()?.trim_end_matches(':') == name).then(|| words.next()?.parse().ok())?
        })
        .with_context(|| format!("{path} has no {name}"))
}

/// Whether the kernel has a function of this name.
pub fn has_symbol(name: &str) -> anyhow::Result<bool> {
    let path = "/proc/kallsyms";
    let symbols = fs::read_to_string(path).context(path)?;
    Ok(symbols
        .lines()
        .any(|line| line.split_whitespace().nth(2) == Some(name)))
}
