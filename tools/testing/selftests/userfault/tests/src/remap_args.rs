// SPDX-License-Identifier: GPL-2.0

//! The arguments of remap_anon_pages: which are refused, and that the refusal comes first.

use crate::arch::{SYS_pkey_alloc, SYS_pkey_mprotect};
use crate::harness::{Outcome, Skip};
use crate::proc::{ensure_holes, entries};
use crate::special;
use crate::sys::{page, remap, remap_raw, Area, Span, RAP_ALLOW_SRC_HOLES, RAP_WAKE, RW};
use crate::{ensure_eq, register};
use anyhow::{ensure, Context};
use nix::errno::Errno;

/// Two pages at the source, two holes at the destination: the call would succeed.
fn pair() -> anyhow::Result<(Area, Area)> {
    Ok((Area::pages(2)?, Area::filled(2, 1)?))
}

/// The call is refused with EINVAL, and changes nothing.
fn refused(dst: Span, src: Span) -> Outcome {
    let before = (entries(dst)?, entries(src)?);
    for flags in [0, RAP_ALLOW_SRC_HOLES] {
        ensure_eq!(remap(dst, src, flags), Err(Errno::EINVAL), "flags {flags}");
    }
    ensure_eq!(
        (entries(dst)?, entries(src)?),
        before,
        "something has changed"
    );
    Ok(())
}

/// As `refused()`, but for the right reason: the same call works with plain memory.
fn refused_kind(special: Span) -> Outcome {
    let count = special.nr_pages();
    let (holes, pages) = (Area::pages(count)?, Area::filled(count, 1)?);
    refused(special, *pages).context("as the destination")?;
    refused(*holes, special).context("as the source")?;
    refused(special, special).context("as both")?;
    ensure_eq!(remap(*holes, *pages, 0), Ok(pages.len), "both plain");
    Ok(())
}

/// A18: the destination comes first, the source second.
fn a18_destination_comes_first() -> Outcome {
    let (dst, src) = pair()?;
    ensure_eq!(remap_raw(dst.addr, src.addr, src.len, 0), Ok(src.len));
    dst.check_pages(1)?;
    ensure_holes(*src)
}

/// A18: RAP_ALLOW_SRC_HOLES and RAP_WAKE are the only flags.
fn a18_flags() -> Outcome {
    let (dst, src) = pair()?;
    for bit in 0..u64::BITS {
        let flags = 1 << bit;
        if [RAP_ALLOW_SRC_HOLES, RAP_WAKE].contains(&flags) {
            continue;
        }
        for flags in [flags, flags | RAP_ALLOW_SRC_HOLES] {
            ensure_eq!(
                remap(*dst, *src, flags),
                Err(Errno::EINVAL),
                "flags {flags:#x}"
            );
        }
    }
    src.check_pages(1)?;
    ensure_eq!(remap(*dst, *src, RAP_ALLOW_SRC_HOLES), Ok(src.len));
    dst.check_pages(1)
}

/// A19: a source, a destination, a length that is no multiple of the page size.
fn a19_misaligned() -> Outcome {
    let (dst, src) = pair()?;
    for odd in [1, 8, page() / 2, page() - 1] {
        let page = page();
        for (dst, src, len) in [
            (dst.addr, src.addr + odd, page),
            (dst.addr + odd, src.addr, page),
            (dst.addr, src.addr, odd),
            (dst.addr, src.addr, page + odd),
            (dst.addr + odd, src.addr + odd, page - odd),
        ] {
            ensure_eq!(remap_raw(dst, src, len, 0), Err(Errno::EINVAL), "{odd} off");
        }
    }
    ensure_holes(*dst)?;
    src.check_pages(1)
}

/// A19: no length, and a length that wraps around.
fn a19_length() -> Outcome {
    let (dst, src) = pair()?;
    let aligned_max = usize::MAX - page() + 1;
    for len in [0, aligned_max, aligned_max - page(), 1 << 63, 1 << 47] {
        ensure_eq!(
            remap_raw(dst.addr, src.addr, len, 0),
            Err(Errno::EINVAL),
            "{len:#x}"
        );
    }
    let top = aligned_max;
    for len in [page(), 2 * page()] {
        ensure_eq!(
            remap_raw(top, src.addr, len, 0),
            Err(Errno::EINVAL),
            "dst at the top"
        );
        ensure_eq!(
            remap_raw(dst.addr, top, len, 0),
            Err(Errno::EINVAL),
            "src at the top"
        );
    }
    ensure_holes(*dst)?;
    src.check_pages(1)
}

/// A19: the arguments are looked at before the memory: EINVAL beats all that pages can say.
fn a19_arguments_beat_pages() -> Outcome {
    let full = Area::filled(2, 1)?;
    let holes = Area::pages(2)?;
    let guard = Area::pages(2)?;
    guard
        .advise(crate::sys::MADV_GUARD_INSTALL)
        .context("MADV_GUARD_INSTALL")?;
    for (dst, src, own) in [
        (&full, &full, Errno::EEXIST),
        (&full, &holes, Errno::EEXIST),
        (&holes, &holes, Errno::ENOENT),
        (&holes, &guard, Errno::EFAULT),
    ] {
        ensure_eq!(remap(**dst, **src, 0), Err(own), "the error of the pages");
        for (dst, src, len, flags) in [
            (dst.addr, src.addr, src.len, 1 << 2),
            (dst.addr, src.addr, src.len + 1, 0),
            (dst.addr, src.addr + 1, page(), 0),
            (dst.addr + 1, src.addr, page(), 0),
            (dst.addr, src.addr, 0, 0),
            // Not within one vma.
            (dst.addr, src.addr, src.len + page(), 0),
        ] {
            ensure_eq!(remap_raw(dst, src, len, flags), Err(Errno::EINVAL), "{own}");
        }
    }
    Ok(())
}

/// A20: no memory at all at one of the two, or above all memory.
fn a20_unmapped() -> Outcome {
    let (dst, src) = pair()?;
    for nowhere in [0, page(), 1 << 47, 1 << 63] {
        let nowhere = Span::new(nowhere, src.len);
        ensure_eq!(
            remap(nowhere, *src, 0),
            Err(Errno::EINVAL),
            "dst {nowhere:x?}"
        );
        ensure_eq!(
            remap(*dst, nowhere, 0),
            Err(Errno::EINVAL),
            "src {nowhere:x?}"
        );
        ensure_eq!(
            remap(nowhere, nowhere, 0),
            Err(Errno::EINVAL),
            "both {nowhere:x?}"
        );
    }
    src.check_pages(1)
}

/// A20: a range that begins or ends outside of its vma, or lies over two of them.
fn a20_not_inside_one_vma() -> Outcome {
    let (dst, src) = (Area::pages(4)?, Area::filled(4, 1)?);
    let other_dst = Area::pages(4)?;
    let other_src = Area::filled(4, 1)?;
    // A vma ends in the middle, and another one goes on, which differs in nothing that counts.
    other_dst
        .pages(2..4)
        .advise(libc::MADV_DONTDUMP)
        .context("MADV_DONTDUMP")?;
    other_src
        .pages(2..4)
        .advise(libc::MADV_DONTDUMP)
        .context("MADV_DONTDUMP")?;
    refused(*other_dst, *src)?;
    refused(*dst, *other_src)?;
    refused(other_dst.pages(1..3), src.pages(1..3))?;
    refused(dst.pages(1..3), other_src.pages(1..3))?;

    // The first two pages are memory, the next is none.
    other_dst.pages(2..4).unmap()?;
    other_src.pages(2..4).unmap()?;
    let len = 3 * page();
    for (dst, src) in [
        (other_dst.addr, src.addr),
        (dst.addr, other_src.addr),
        (other_dst.addr - page(), src.addr),
        (dst.addr, other_src.addr - page()),
    ] {
        ensure_eq!(remap_raw(dst, src, len, 0), Err(Errno::EINVAL));
    }
    ensure_eq!(
        remap(other_dst.pages(0..2), other_src.pages(0..2), 0),
        Ok(2 * page())
    );
    ensure_eq!(remap(*dst, *src, 0), Ok(src.len));
    Ok(())
}

/// A20: shared memory, anonymous or not.
fn a20_shared() -> Outcome {
    refused_kind(*special::shared_anonymous(2)?)
}

/// A20: a file, mapped privately, with its own pages in it.
fn a20_file() -> Outcome {
    let area = Area::pages(2)?;
    special::map_over(*area, &special::memfd(2)?)?;
    refused_kind(*area)?;
    area.fill_pages(3);
    refused_kind(*area)
}

/// A20: hugetlb, private as shared.
fn a20_hugetlb() -> Outcome {
    for flags in [libc::MAP_PRIVATE, libc::MAP_SHARED] {
        let area = special::hugetlb(1, flags)?;
        refused_kind(*area).with_context(|| format!("flags {flags}"))?;
        area.fill(1);
        refused_kind(*area).with_context(|| format!("with content, flags {flags}"))?;
    }
    Ok(())
}

/// A20: memory that the kernel itself cannot read.
fn a20_secretmem() -> Outcome {
    refused_kind(*special::secretmem(2)?)
}

/// A20: memory that the kernel may drop.
fn a20_droppable() -> Outcome {
    let area = special::droppable(2)?;
    refused_kind(*area)?;
    area.fill_pages(1);
    refused_kind(*area)
}

/// A20: a shadow stack.
fn a20_shadow_stack() -> Outcome {
    refused_kind(*special::shadow_stack(2)?)
}

/// A20: the kernel's own mappings.
fn a20_vdso_and_vvar() -> Outcome {
    let own = crate::proc::vmas()?;
    let own = own
        .iter()
        .filter(|vma| ["[vdso]", "[vvar]"].contains(&vma.name.as_str()));
    let mut seen = 0;
    for vma in own {
        refused_kind(vma.span.page(0)).with_context(|| vma.name.clone())?;
        seen += 1;
    }
    ensure!(seen > 0, "no vdso");
    Ok(())
}

/// A20: /dev/zero, mapped privately, is anonymous memory.
fn a20_private_dev_zero() -> Outcome {
    let (zero, plain) = (special::dev_zero(2)?, Area::filled(2, 1)?);
    ensure_eq!(remap(*zero, *plain, 0), Ok(plain.len));
    zero.check_pages(1)?;
    ensure_eq!(remap(*plain, *zero, 0), Ok(plain.len));
    plain.check_pages(1)
}

/// A20: sealed memory is refused unless it is writable: nothing there may be discarded.
fn a20_sealed() -> Outcome {
    let read_only = || -> anyhow::Result<(Area, Area)> {
        let (dst, src) = pair()?;
        dst.protect(libc::PROT_READ)?;
        src.protect(libc::PROT_READ)?;
        Ok((dst, src))
    };
    let (dst, src) = read_only()?;
    dst.seal().context("mseal")?;
    refused(*dst, *src).context("the destination")?;
    let (dst, src) = read_only()?;
    src.seal().context("mseal")?;
    refused(*dst, *src).context("the source")?;

    let (dst, src) = read_only()?;
    ensure_eq!(
        remap(*dst, *src, 0),
        Ok(src.len),
        "read-only, but not sealed"
    );
    let (dst, src) = pair()?;
    dst.seal().context("mseal")?;
    src.seal().context("mseal")?;
    ensure_eq!(remap(*dst, *src, 0), Ok(src.len), "sealed, but writable");
    dst.check_pages(1)
}

/// A21, C12: access bits that differ, in each way.
fn a21_access_differs() -> Outcome {
    use libc::{PROT_EXEC, PROT_NONE, PROT_READ};
    let all = [
        PROT_NONE,
        PROT_READ,
        RW,
        PROT_READ | PROT_EXEC,
        RW | PROT_EXEC,
    ];
    for dst_prot in all {
        for src_prot in all {
            let (dst, src) = pair()?;
            dst.protect(dst_prot)?;
            src.protect(src_prot)?;
            if dst_prot != src_prot || dst_prot == PROT_NONE {
                refused(*dst, *src).with_context(|| format!("{dst_prot}, {src_prot}"))?;
                continue;
            }
            ensure_eq!(remap(*dst, *src, 0), Ok(src.len), "{dst_prot} both");
            dst.check_pages(1)?;
        }
    }
    Ok(())
}

/// Rights that a protection key can take.
pub const PKEY_DISABLE_ACCESS: libc::c_long = 1;
const PKEY_DISABLE_WRITE: libc::c_long = 2;

/// A protection key.
pub struct Key(libc::c_long);

impl Key {
    /// That of memory which has no other.
    pub const NONE: Self = Self(0);

    /// A new one that takes these rights from this thread, or skips the test.
    pub fn without(rights: libc::c_long) -> anyhow::Result<Self> {
        // SAFETY: It makes a key only.
        match Errno::result(unsafe { libc::syscall(SYS_pkey_alloc, 0, rights) }) {
            Ok(key) => Ok(Self(key)),
            Err(_) => Err(Skip("no protection keys here".into()).into()),
        }
    }

    /// Gives it to memory.
    pub fn protect(&self, span: Span) -> Outcome {
        // SAFETY: The memory of an area is never borrowed.
        let ret = unsafe { libc::syscall(SYS_pkey_mprotect, span.addr, span.len, RW, self.0) };
        Errno::result(ret).map(drop).context("pkey_mprotect")
    }
}

/// A21: protection keys that differ: the bits of the page protection do.
fn a21_protection_key_differs() -> Outcome {
    let key = Key::without(0)?;
    let (dst, src) = pair()?;
    key.protect(*dst)?;
    refused(*dst, *src)?;
    key.protect(*src)?;
    ensure_eq!(remap(*dst, *src, 0), Ok(src.len), "both have it");
    dst.check_pages(1)
}

/// A20: sealed memory is not writable where the protection key says so to this thread.
fn a20_sealed_with_a_protection_key() -> Outcome {
    let key = Key::without(PKEY_DISABLE_WRITE)?;
    for sealed in [None, Some(true), Some(false)] {
        let (dst, src) = pair()?;
        key.protect(*dst)?;
        key.protect(*src)?;
        let Some(is_dst) = sealed else {
            ensure_eq!(remap(*dst, *src, 0), Ok(src.len), "not sealed");
            dst.check_pages(1)?;
            continue;
        };
        let part = if is_dst { &dst } else { &src };
        part.seal().context("mseal")?;
        refused(*dst, *src).with_context(|| format!("the destination is sealed: {is_dst}"))?;
    }
    Ok(())
}

/// A21: exactly one side locked is refused; both, or none, is not.
fn a21_locked() -> Outcome {
    const MLOCK_ONFAULT: u32 = 1;
    let (dst, src) = pair()?;
    dst.lock(MLOCK_ONFAULT).context("mlock2")?;
    refused(*dst, *src).context("the destination")?;
    let (dst, src) = pair()?;
    src.lock(0).context("mlock")?;
    refused(*dst, *src).context("the source")?;

    // How they came to be locked makes no difference.
    for flags in [0, MLOCK_ONFAULT] {
        let (dst, src) = pair()?;
        dst.lock(MLOCK_ONFAULT).context("mlock2")?;
        src.lock(flags).context("mlock2")?;
        ensure_eq!(remap(*dst, *src, 0), Ok(src.len), "both locked, {flags}");
        dst.check_pages(1)?;
        ensure_eq!(
            crate::proc::vma_of(*dst)?.kib("Locked")?,
            2 * page() as u64 / 1024
        );
    }
    Ok(())
}

register!(
    a18_destination_comes_first,
    a18_flags,
    a19_misaligned,
    a19_length,
    a19_arguments_beat_pages,
    a20_unmapped,
    a20_not_inside_one_vma,
    a20_shared,
    a20_file,
    a20_hugetlb,
    a20_secretmem,
    a20_droppable,
    a20_shadow_stack,
    a20_vdso_and_vvar,
    a20_private_dev_zero,
    a20_sealed,
    a21_access_differs,
    a21_protection_key_differs,
    a20_sealed_with_a_protection_key,
    a21_locked,
);
