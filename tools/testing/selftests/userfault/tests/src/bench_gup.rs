// SPDX-License-Identifier: GPL-2.0

//! Measures what it costs to get hold of pages, and to find who maps them: work of the kernel that
//! is done in Rust or in C, as the kernel was configured.  So there is one way for each work, and
//! "make bench" compares two kernels.

use crate::bench::{least, now, print, A_PAGE};
use crate::frame;
use crate::gup::{Benchmark, Kind};
use crate::numa;
use crate::proc::frames;
use crate::process::Holder;
use crate::sys::{Area, Map, Span};
use anyhow::{ensure, Context};
use nix::sys::uio::{process_vm_readv, RemoteIoVec};
use nix::unistd::getpid;
use std::fs::OpenOptions;
use std::io::IoSliceMut;
use std::os::unix::fs::FileExt;

/// How it is called that a kernel does; "make bench" knows which one it has booted.
const HOW: &str = "this kernel";
/// How many pages are got all in all, and at most in one call.
const ALL: usize = 65536;
const CALLS: [usize; 4] = [1, 16, 512, ALL];
/// How many processes map a page.
const MAPPINGS: [usize; 2] = [1, 64];
/// How many pages they map.
const SHARED: usize = 64;

fn row(work: &str, cost: f64) {
    print(work, HOW, A_PAGE, cost);
}

fn pages(count: usize) -> String {
    match count {
        1 => "1 page a call".into(),
        _ => format!("{count} pages a call"),
    }
}

/// What gup costs, by the kernel's own test of it.
fn gup() -> anyhow::Result<()> {
    let benchmark = Benchmark::open()?;
    let area = Map::pages(ALL).map()?;
    area.fill_pages(1);
    for kind in Kind::ALL {
        for count in CALLS {
            let work = format!("{}, {}", kind.name(), pages(count));
            let cost = least(|| Ok((benchmark.run(kind, *area, count)?, ALL)))?;
            row(&work, cost);
        }
    }
    // The fast way does not take the page of zeroes, and leaves it to get_user_pages_unlocked()'s.
    let zeroes = Map::pages(ALL).map()?;
    for part in zeroes.each_page() {
        ensure!(part.load() == Ok(0), "not zero");
    }
    // The page is on no list, so each touch looks for it in the processor's own.
    frame::compact()?;
    for count in CALLS {
        let work = format!("get_user_pages_unlocked, {}", pages(count));
        let cost = least(|| Ok((benchmark.run(Kind::GetFast, *zeroes, count)?, ALL)))?;
        row(&work, cost);
    }
    Ok(())
}

/// What it costs to read a byte of each page of a process, which waits for pages if need be.
fn remote() -> anyhow::Result<()> {
    const PAGES: usize = 512;
    let (area, me) = (Area::filled(PAGES, 1)?, getpid());
    let mut byte = [0];
    let cost = least(|| {
        let start = now();
        for part in area.each_page() {
            let remote = RemoteIoVec {
                base: part.addr,
                len: 1,
            };
            let read = process_vm_readv(me, &mut [IoSliceMut::new(&mut byte)], &[remote])?;
            ensure!(read == 1, "not read");
        }
        Ok((now() - start, PAGES))
    })?;
    row("process_vm_readv of a byte", cost);
    Ok(())
}

/// Tells the kernel that each page is idle, for which it looks at all that map it.
fn set_idle(span: Span) -> anyhow::Result<u64> {
    let path = "/sys/kernel/mm/page_idle/bitmap";
    let bitmap = OpenOptions::new().write(true).open(path).context(path)?;
    let frames = frames(span)?;
    let start = now();
    for frame in frames {
        let bit = 1u64 << (frame % 64);
        bitmap.write_all_at(&bit.to_ne_bytes(), frame / 64 * 8)?;
    }
    Ok(now() - start)
}

/// What it costs to find those who map a page.
fn rmap() -> anyhow::Result<()> {
    numa::ensure_two_nodes()?;
    for mappings in MAPPINGS {
        let area = Area::filled(SHARED, 1)?;
        let _others = (1..mappings)
            .map(|_| Holder::fork())
            .collect::<anyhow::Result<Vec<_>>>()?;
        // Compaction empties the lists of pages that are on no list of their own yet.
        frame::compact()?;
        let name = |work| format!("{work} a page with {mappings} mappings");
        let cost = least(|| Ok((set_idle(*area)?, SHARED)))?;
        row(&name("setting idle"), cost);
        let mut node = 0;
        // To begin with all are on one node.
        numa::move_shared_to(*area, node)?;
        let cost = least(|| {
            node = 1 - node;
            let start = now();
            let moved = numa::move_shared_to(*area, node)?;
            let took = now() - start;
            ensure!(moved == SHARED, "{moved} pages have migrated");
            Ok((took, SHARED))
        })?;
        row(&name("migrating"), cost);
        area.check_pages(1)?;
    }
    Ok(())
}

pub fn run() -> anyhow::Result<()> {
    gup()?;
    remote()?;
    rmap()
}
