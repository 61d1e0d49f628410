// SPDX-License-Identifier: GPL-2.0

//! Calls of the fuzzer that map memory, change it, touch it, and move it.

use crate::fuzz_calls::Call;
use crate::fuzz_thread::{pool, store, Thread, MEMFD, SELF};
use crate::sys::{page, pmd, pmd_pages, Span, NR_REMAP_ANON_PAGES, RAP_ALLOW_SRC_HOLES, RAP_WAKE};
use crate::sys::{MADV_COLD, MADV_COLLAPSE, MADV_GUARD_INSTALL, MADV_GUARD_REMOVE};
use crate::sys::{MADV_NOUSERFAULT, MADV_POPULATE_READ, MADV_POPULATE_WRITE, MADV_USERFAULT};
use crate::sys::{MAP_DROPPABLE, RW};
use crate::touch::{self, Fault};
use nix::errno::Errno;
use nix::sys::signal::Signal;

const PRIVATE: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
const MADV_DONTNEED_LOCKED: i32 = 24;
const MADV_SOFT_OFFLINE: i32 = 101;

/// All that `madvise()` may be told.
const ADVICE: [(Call, i32); 28] = [
    (Call::madv_normal, libc::MADV_NORMAL),
    (Call::madv_random, libc::MADV_RANDOM),
    (Call::madv_sequential, libc::MADV_SEQUENTIAL),
    (Call::madv_willneed, libc::MADV_WILLNEED),
    (Call::madv_dontneed, libc::MADV_DONTNEED),
    (Call::madv_free, libc::MADV_FREE),
    (Call::madv_remove, libc::MADV_REMOVE),
    (Call::madv_dontfork, libc::MADV_DONTFORK),
    (Call::madv_dofork, libc::MADV_DOFORK),
    (Call::madv_mergeable, libc::MADV_MERGEABLE),
    (Call::madv_unmergeable, libc::MADV_UNMERGEABLE),
    (Call::madv_hugepage, libc::MADV_HUGEPAGE),
    (Call::madv_nohugepage, libc::MADV_NOHUGEPAGE),
    (Call::madv_dontdump, libc::MADV_DONTDUMP),
    (Call::madv_dodump, libc::MADV_DODUMP),
    (Call::madv_wipeonfork, libc::MADV_WIPEONFORK),
    (Call::madv_keeponfork, libc::MADV_KEEPONFORK),
    (Call::madv_cold, MADV_COLD),
    (Call::madv_pageout, libc::MADV_PAGEOUT),
    (Call::madv_populate_read, MADV_POPULATE_READ),
    (Call::madv_populate_write, MADV_POPULATE_WRITE),
    (Call::madv_dontneed_locked, MADV_DONTNEED_LOCKED),
    (Call::madv_collapse, MADV_COLLAPSE),
    (Call::madv_guard_install, MADV_GUARD_INSTALL),
    (Call::madv_guard_remove, MADV_GUARD_REMOVE),
    (Call::madv_userfault, MADV_USERFAULT),
    (Call::madv_nouserfault, MADV_NOUSERFAULT),
    (Call::madv_soft_offline, MADV_SOFT_OFFLINE),
];

/// Reads or writes pages of a range.
pub fn touch(t: &mut Thread) {
    let span = t.short_span();
    let write = t.one_in(2);
    for part in span.each_page() {
        if touch_one(t, part.addr, write).is_err() {
            break;
        }
    }
}

/// Reads or writes one byte.
pub fn touch_one(t: &mut Thread, addr: usize, write: bool) -> nix::Result<()> {
    let refused = |fault: Fault| match fault.signal {
        Signal::SIGBUS => Errno::EFAULT,
        Signal::SIGUSR1 => Errno::EINTR,
        _ => Errno::EACCES,
    };
    match write {
        true => {
            let store = || touch::store(addr, 1).map_err(refused);
            t.record(Call::touch_write, &[addr], store, |()| 0)
        }
        false => {
            let load = || touch::load(addr).map(drop).map_err(refused);
            t.record(Call::touch_read, &[addr], load, |()| 0)
        }
    }
}

pub fn remap_anon_pages(t: &mut Thread) {
    let to = t.span();
    let from = match t.below(4) {
        0 | 1 => t.source(to.len).addr,
        2 => t.address(),
        // It overlaps.
        _ => match t.one_in(2) {
            true => to.addr + t.below(8) * page(),
            false => to.addr - t.below(8) * page(),
        },
    };
    let len = if t.one_in(4) { page() } else { to.len };
    remap(t, to.addr, from, len);
}

/// Moves huge pages, or all that lies where they could lie.
pub fn remap_huge(t: &mut Thread) {
    let (to, from) = (t.huge_span(), t.huge_span());
    let shift = t.pick(&[0, 0, 0, 16, 1]) * page();
    let len = t.pick(&[pmd(), pmd(), to.len, 16 * page(), pmd() - page()]);
    remap(t, to.addr + shift, from.addr, len);
}

fn remap(t: &mut Thread, to: usize, from: usize, len: usize) {
    let flags = t.pick(&[
        0,
        RAP_ALLOW_SRC_HOLES,
        RAP_WAKE,
        RAP_ALLOW_SRC_HOLES | RAP_WAKE,
    ]);
    let args = [to, from, len, flags as usize];
    let args = args.map(|arg| t.spoil(arg));
    let _ = t.call(Call::remap_anon_pages, NR_REMAP_ANON_PAGES, &args);
}

/// Moves a page to where a fault was.
pub fn resolve(t: &mut Thread, addr: usize) -> nix::Result<()> {
    let from = if t.one_in(4) {
        t.address()
    } else {
        t.source(page()).addr
    };
    let flags = t.pick(&[RAP_WAKE, RAP_WAKE, RAP_WAKE | RAP_ALLOW_SRC_HOLES, 0]);
    let args = [addr, from, page(), flags as usize];
    t.call(Call::remap_anon_pages, NR_REMAP_ANON_PAGES, &args)
        .map(drop)
}

fn map(t: &mut Thread, span: Span, prot: i32, flags: i32, fd: usize) -> nix::Result<usize> {
    let flags = (flags | libc::MAP_FIXED) as usize;
    let args = [span.addr, span.len, prot as usize, flags, fd, 0];
    t.call(Call::mmap, libc::SYS_mmap, &args)
}

/// New private memory without pages.
pub fn map_new(t: &mut Thread, span: Span) {
    let _ = map(t, span, RW, PRIVATE, usize::MAX);
}

/// A file in memory that has its first page.
pub fn map_file(t: &mut Thread, span: Span) {
    let _ = map(t, span, RW, libc::MAP_SHARED, MEMFD);
    let byte = [1u8];
    let args = [MEMFD, byte.as_ptr() as usize, byte.len(), 0];
    let _ = t.call(Call::write, libc::SYS_pwrite64, &args);
}

/// Begins anew: private anonymous memory, with pages or without, marked or not.
pub fn fresh(t: &mut Thread) {
    let span = match t.below(4) {
        0 => pool(),
        1 => t.span(),
        _ => t.huge_span(),
    };
    let _ = map(t, span, RW, PRIVATE, usize::MAX);
    match t.below(4) {
        0 => drop(advise(t, Call::madv_hugepage, libc::MADV_HUGEPAGE, span)),
        1 => drop(advise(
            t,
            Call::madv_nohugepage,
            libc::MADV_NOHUGEPAGE,
            span,
        )),
        _ => (),
    }
    if t.one_in(2) {
        let part = t
            .pick(&[span.len, pmd(), 16 * page(), page()])
            .min(span.len)
            .min(pmd());
        populate(t, Span::new(span.addr, part));
    }
    if !t.one_in(4) {
        let _ = advise(t, Call::madv_userfault, MADV_USERFAULT, span);
    }
}

/// Fills the store anew, with huge pages, folios of several pages, pages or the zero page.
pub fn refill(t: &mut Thread) {
    let index = t.below(store().nr_pages() / pmd_pages());
    let span = Span::new(store().addr + index * pmd(), pmd());
    if t.one_in(2) {
        let _ = map(t, span, RW, PRIVATE, usize::MAX);
    }
    let _ = match t.one_in(2) {
        true => advise(t, Call::madv_hugepage, libc::MADV_HUGEPAGE, span),
        false => advise(t, Call::madv_nohugepage, libc::MADV_NOHUGEPAGE, span),
    };
    if t.one_in(4) {
        let _ = advise(t, Call::madv_populate_read, MADV_POPULATE_READ, span);
    } else {
        populate(t, span);
    }
    if t.one_in(2) {
        let _ = advise(t, Call::madv_userfault, MADV_USERFAULT, span);
    }
}

fn populate(t: &mut Thread, span: Span) {
    let _ = advise(t, Call::madv_nouserfault, MADV_NOUSERFAULT, span);
    let _ = advise(t, Call::madv_populate_write, MADV_POPULATE_WRITE, span);
}

pub fn mmap(t: &mut Thread) {
    const FLAGS: [usize; 5] = [
        libc::MAP_POPULATE as usize,
        libc::MAP_NORESERVE as usize,
        libc::MAP_GROWSDOWN as usize,
        libc::MAP_STACK as usize,
        libc::MAP_LOCKED as usize,
    ];
    let span = t.span();
    let prot = t.pick(&[RW, RW, libc::PROT_READ, libc::PROT_NONE]);
    let more = t.bits(&FLAGS) as i32;
    let anonymous = libc::MAP_ANONYMOUS;
    let (flags, fd) = match t.below(8) {
        0 => (libc::MAP_SHARED | anonymous, usize::MAX),
        1 => (libc::MAP_SHARED, MEMFD),
        2 => (libc::MAP_PRIVATE, MEMFD),
        3 => (MAP_DROPPABLE | anonymous, usize::MAX),
        _ => (libc::MAP_PRIVATE | anonymous, usize::MAX),
    };
    let _ = map(t, span, prot, flags | more, fd);
}

pub fn munmap(t: &mut Thread) {
    let span = t.short_span();
    unmap(t, span);
}

fn unmap(t: &mut Thread, span: Span) {
    let addr = t.misalign(span.addr);
    let _ = t.call(Call::munmap, libc::SYS_munmap, &[addr, span.len]);
}

pub fn mremap(t: &mut Thread) {
    let (old, new) = (t.span(), t.span());
    let flags = match t.below(6) {
        0 => 0,
        1 => libc::MREMAP_MAYMOVE,
        2 => libc::MREMAP_MAYMOVE | libc::MREMAP_DONTUNMAP,
        3 | 4 => libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED,
        _ => libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED | libc::MREMAP_DONTUNMAP,
    };
    let same = flags & libc::MREMAP_DONTUNMAP != 0 || t.one_in(2);
    let new_len = if same { old.len } else { new.len };
    let room = pool().end() - new.addr;
    let (old_len, new_len) = (old.len.min(room), new_len.min(room));
    let addr = t.misalign(old.addr);
    let args = [addr, old_len, new_len, flags as usize, new.addr];
    let moved = t.call(Call::mremap, libc::SYS_mremap, &args);
    if let Ok(addr) = moved {
        let moved = Span::new(addr, new_len);
        if !moved.overlaps(pool()) {
            if t.one_in(2) {
                let _ = touch_one(t, moved.addr, true);
            }
            unmap(t, moved);
        }
    }
}

pub fn mprotect(t: &mut Thread) {
    let span = t.short_span();
    let prot = t.pick(&[RW, RW, RW, RW, libc::PROT_READ, libc::PROT_NONE]);
    let addr = t.misalign(span.addr);
    let _ = t.call(
        Call::mprotect,
        libc::SYS_mprotect,
        &[addr, span.len, prot as usize],
    );
}

pub fn advise(t: &mut Thread, call: Call, advice: i32, span: Span) -> nix::Result<usize> {
    let addr = t.misalign(span.addr);
    t.call(call, libc::SYS_madvise, &[addr, span.len, advice as usize])
}

pub fn madvise(t: &mut Thread) {
    let (call, advice) = t.pick(&ADVICE);
    if advice == libc::MADV_REMOVE {
        // Of shared memory only.
        let span = t.short_span();
        map_file(t, span);
        let _ = advise(t, call, advice, span);
        return;
    }
    let span = match advice {
        MADV_SOFT_OFFLINE if !t.one_in(6) => return,
        // It is slow, and each costs a frame.
        MADV_SOFT_OFFLINE => t.source(page()),
        MADV_COLLAPSE => t.huge_span(),
        MADV_POPULATE_READ | MADV_POPULATE_WRITE => t.short_span(),
        _ => t.span(),
    };
    let _ = advise(t, call, advice, span);
}

/// Marks memory, or takes the mark away.
pub fn mark(t: &mut Thread) {
    let span = t.span();
    let _ = match t.one_in(4) {
        true => advise(t, Call::madv_nouserfault, MADV_NOUSERFAULT, span),
        false => advise(t, Call::madv_userfault, MADV_USERFAULT, span),
    };
    if t.one_in(2) {
        let _ = advise(t, Call::madv_dontneed, libc::MADV_DONTNEED, span);
    }
}

pub fn process_madvise(t: &mut Thread) {
    const ALL: [i32; 5] = [
        MADV_COLD,
        libc::MADV_PAGEOUT,
        libc::MADV_WILLNEED,
        MADV_COLLAPSE,
        libc::MADV_DONTNEED,
    ];
    let (first, second) = (t.short_span(), t.short_span());
    let ranges = [first.addr, first.len, second.addr, second.len];
    let advice = t.pick(&ALL) as usize;
    let args = [SELF, ranges.as_ptr() as usize, 2, advice, 0];
    let _ = t.call(Call::process_madvise, libc::SYS_process_madvise, &args);
}

pub fn mlock(t: &mut Thread) {
    let span = t.short_span();
    if t.one_in(2) {
        let _ = t.call(Call::munlock, libc::SYS_munlock, &[span.addr, span.len]);
        return;
    }
    let flags = t.below(2);
    let _ = t.call(Call::mlock, libc::SYS_mlock2, &[span.addr, span.len, flags]);
}

/// Locks all memory on fault, and unlocks it soon.
pub fn mlock_all(t: &mut Thread) {
    let flags = libc::MCL_CURRENT | libc::MCL_ONFAULT;
    let _ = t.call(Call::mlockall, libc::SYS_mlockall, &[flags as usize]);
    remap_anon_pages(t);
    let _ = t.call(Call::munlockall, libc::SYS_munlockall, &[]);
}

pub fn mseal(t: &mut Thread) {
    const NR_MSEAL: i64 = 462;
    // It stays sealed: not much at once, and not often.
    if t.one_in(8) {
        let span = t.short_span();
        let _ = t.call(Call::mseal, NR_MSEAL, &[span.addr, span.len, 0]);
    }
}

/// Makes the heap larger, touches and marks what is new, and makes it as small as it was.
pub fn brk(t: &mut Thread) {
    let Ok(end) = t.call(Call::brk, libc::SYS_brk, &[0]) else {
        return;
    };
    let new = Span::new(end.next_multiple_of(page()), 16 * page());
    if t.call(Call::brk, libc::SYS_brk, &[new.end()]) != Ok(new.end()) {
        return;
    }
    let _ = touch_one(t, new.addr, true);
    let _ = advise(t, Call::madv_userfault, MADV_USERFAULT, new);
    let _ = touch_one(t, new.addr + page(), true);
    let to = t.address();
    remap(t, to, new.addr, page());
    let _ = t.call(Call::brk, libc::SYS_brk, &[end]);
}

/// What writes memory back, and what asks for what is there.
pub fn sync(t: &mut Thread) {
    let span = t.span();
    if t.one_in(2) {
        let flags = t.pick(&[libc::MS_ASYNC, libc::MS_SYNC, libc::MS_INVALIDATE]) as usize;
        let _ = t.call(Call::msync, libc::SYS_msync, &[span.addr, span.len, flags]);
    } else {
        let mut seen = [0u8; 64];
        let len = span.len.min(seen.len() * page());
        let args = [span.addr, len, seen.as_mut_ptr() as usize];
        let _ = t.call(Call::mincore, libc::SYS_mincore, &args);
    }
}

/// For which some shared memory is needed.
pub fn remap_file_pages(t: &mut Thread) {
    let span = t.short_span();
    if t.one_in(2) {
        let _ = map(t, span, RW, libc::MAP_SHARED, MEMFD);
    }
    let offset = t.below(16);
    let args = [span.addr, page(), 0, offset, 0];
    let _ = t.call(Call::remap_file_pages, libc::SYS_remap_file_pages, &args);
    if t.one_in(2) {
        let _ = map(t, span, RW, PRIVATE, usize::MAX);
    }
}

/// Of mbind(2) and move_pages(2): pages that are there migrate.
const MPOL_MF_MOVE: usize = 1 << 1;

/// Has pages migrate from one node to another.
pub fn move_pages(t: &mut Thread) {
    const MOST: usize = 64;
    if t.one_in(4) {
        let (from, to) = t.pick(&[(1usize, 2usize), (2, 1), (3, 1), (3, 2)]);
        let masks = [&raw const from as usize, &raw const to as usize];
        let args = [0, 64, masks[0], masks[1]];
        let _ = t.call(Call::migrate_pages, libc::SYS_migrate_pages, &args);
        return;
    }
    let span = t.short_span();
    // Of a huge page, every one would be asked for in vain.
    let step = t.pick(&[1, 1, pmd_pages()]);
    let count = span.nr_pages().min(MOST);
    let node = t.below(2) as i32;
    let (mut pages, nodes, mut status) = ([0usize; MOST], [node; MOST], [0i32; MOST]);
    for (index, place) in pages.iter_mut().enumerate() {
        *place = span.addr + index * step * page();
    }
    let buffers = [pages.as_ptr() as usize, nodes.as_ptr() as usize];
    let args = [
        0,
        count,
        buffers[0],
        buffers[1],
        status.as_mut_ptr() as usize,
        MPOL_MF_MOVE,
    ];
    let _ = t.call(Call::move_pages, libc::SYS_move_pages, &args);
}

/// Where memory is to be from.
pub fn policy(t: &mut Thread) {
    let mode = t.pick(&[libc::MPOL_DEFAULT, libc::MPOL_PREFERRED, libc::MPOL_BIND]) as usize;
    let mask = match mode as i32 {
        libc::MPOL_DEFAULT => 0,
        _ => 1 + t.below(2),
    };
    let (pointer, bits) = match mask {
        0 => (0, 0),
        _ => (&raw const mask as usize, 64),
    };
    if t.one_in(2) {
        let span = t.span();
        let flags = t.pick(&[0, MPOL_MF_MOVE]);
        let args = [span.addr, span.len, mode, pointer, bits, flags];
        let _ = t.call(Call::mbind, libc::SYS_mbind, &args);
    } else {
        let args = [mode, pointer, bits];
        let _ = t.call(Call::set_mempolicy, libc::SYS_set_mempolicy, &args);
    }
}
