// SPDX-License-Identifier: GPL-2.0

//! What Documentation/admin-guide/mm/userfault-security.rst says of who may do what, and of what
//! that tells: for those who have no privileges.

use crate::harness::Outcome;
use crate::knobs::set;
use crate::proc::{entry, vma_of};
use crate::process::must_pass_in_child;
use crate::range::{Range, USER_MODE_ONLY};
use crate::range_access::{give_up_privileges, SETTING};
use crate::sys::{
    page, remap, remap_all, Area, MADV_NOUSERFAULT, MADV_USERFAULT, NR_REMAP_ANON_PAGES,
};
use crate::touch::Fault;
use crate::{ensure_eq, ksm, register, skip};
use anyhow::{ensure, Context};
use nix::errno::Errno;
use nix::sched::{unshare, CloneFlags};
use nix::sys::prctl;
use nix::unistd::{getpid, getuid};
use std::fs::{self, File};

/// Becomes an ordinary user whose files in /proc are its own.
fn become_a_user() -> Outcome {
    give_up_privileges()?;
    prctl::set_dumpable(true).context("PR_SET_DUMPABLE")
}

/// C100: a user who is root in a user namespace of its own has there what a descriptor that serves
/// the kernel takes, and gets none.
fn c100_root_of_a_user_namespace() -> Outcome {
    const CAP_SYS_PTRACE: u32 = 19;
    set(SETTING, 0)?;
    must_pass_in_child(|| {
        become_a_user()?;
        let user = getuid();
        match unshare(CloneFlags::CLONE_NEWUSER) {
            // Not every kernel has them, nor gives them to everybody.
            Err(error @ (Errno::EINVAL | Errno::EPERM | Errno::ENOSPC)) => {
                skip!("no user namespace: {error}")
            }
            done => done.context("unshare")?,
        }
        fs::write("/proc/self/uid_map", format!("0 {user} 1")).context("uid_map")?;
        let status = fs::read_to_string("/proc/self/status")?;
        let mut sets = status.lines().filter_map(|l| l.strip_prefix("CapEff:"));
        let capabilities = u64::from_str_radix(sets.next().context("CapEff")?.trim(), 16)?;
        ensure!(getuid().is_root() && capabilities & 1 << CAP_SYS_PTRACE != 0);
        ensure_eq!(Range::open(0).err(), Some(Errno::EPERM));
        Range::with(USER_MODE_ONLY).map(drop)
    })
}

/// C101: whoever writes to a descriptor, and with whatever rights, has it serve the memory of the
/// process that made it, never memory of its own.
fn c101_descriptor_serves_its_maker() -> Outcome {
    let area = Area::marked(1)?;
    let fd = Range::without_waiting()?;
    let served = || -> anyhow::Result<bool> { Ok(vma_of(*area)?.has("ug")) };
    for ordinary in [false, true] {
        must_pass_in_child(|| {
            if ordinary {
                become_a_user()?;
            }
            ensure_eq!(fd.register(*area), Ok(16));
            ensure!(!served()?, "the child's memory is served");
            ensure_eq!(area.load(), Err(Fault::sigbus(area.addr)));
            ensure_eq!(fd.read(), Err(Errno::EAGAIN));
            Ok(())
        })?;
        ensure!(served()?, "the parent's memory is not served");
        ensure_eq!(fd.unregister(*area), Ok(16));
    }
    Ok(())
}

/// C102: what is marked, what is registered and who waits is not for other users to see; and a
/// descriptor has the name that policies know.
fn c102_others_see_nothing() -> Outcome {
    let area = Area::pages(1)?;
    let fd = Range::serving(*area)?;
    let name = fs::read_link(format!("/proc/self/fd/{}", fd.raw()))?;
    ensure_eq!(name.to_string_lossy(), "anon_inode:[userfaultfd]");
    let process = getpid();
    let files = [
        format!("fdinfo/{}", fd.raw()),
        "smaps".into(),
        "pagemap".into(),
    ];
    let open = |file: &String| {
        let opened = File::open(format!("/proc/{process}/{file}"));
        opened.map(drop).map_err(|error| error.raw_os_error())
    };
    for file in &files {
        ensure_eq!(open(file), Ok(()), "{file}");
    }
    must_pass_in_child(|| {
        become_a_user()?;
        for file in &files {
            ensure_eq!(open(file), Err(Some(libc::EACCES)), "{file}");
        }
        Ok(())
    })
}

/// A filter that refuses a system call by its number, and another one by its third argument.
fn refuse(call: i64, advising: i64, advice: i32) -> Outcome {
    /// Where a filter finds the number, and the lower half of the third argument.
    const NUMBER: u32 = 0;
    const THIRD: u32 = 32;
    const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    const EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    const RETURN: u32 = libc::BPF_RET | libc::BPF_K;
    let step = |code: u32, k: u32, jt: u8, jf: u8| libc::sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    };
    let mut steps = [
        step(LOAD, NUMBER, 0, 0),
        step(EQUAL, call as u32, 4, 0),
        step(EQUAL, advising as u32, 0, 2),
        step(LOAD, THIRD, 0, 0),
        step(EQUAL, advice as u32, 1, 0),
        step(RETURN, libc::SECCOMP_RET_ALLOW, 0, 0),
        step(RETURN, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32, 0, 0),
    ];
    let filter = libc::sock_fprog {
        len: steps.len() as u16,
        filter: steps.as_mut_ptr(),
    };
    prctl::set_no_new_privs().context("PR_SET_NO_NEW_PRIVS")?;
    let mode = libc::SECCOMP_MODE_FILTER;
    // SAFETY: The filter is valid, with all its steps.
    let done = unsafe { libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const filter, 0, 0) };
    match Errno::result(done).map(drop) {
        Err(Errno::EINVAL) => skip!("this kernel has no filters of system calls"),
        done => done.context("PR_SET_SECCOMP"),
    }
}

/// C103: a filter of system calls can refuse remap_anon_pages by its number, and the advice by the
/// argument of madvise.
fn c103_seccomp() -> Outcome {
    must_pass_in_child(|| {
        become_a_user()?;
        let (src, dst) = (Area::filled(2, 1)?, Area::pages(2)?);
        remap_all(dst.page(0), src.page(0))?;
        dst.mark()?;
        refuse(NR_REMAP_ANON_PAGES, libc::SYS_madvise, MADV_USERFAULT)?;
        ensure_eq!(remap(dst.page(1), src.page(1), 0), Err(Errno::EPERM));
        ensure_eq!(src.advise(MADV_USERFAULT), Err(Errno::EPERM));
        ensure_eq!(dst.advise(MADV_NOUSERFAULT), Ok(()));
        ensure_eq!(src.advise(libc::MADV_DONTDUMP), Ok(()));
        src.page(1).check(2)
    })
}

/// C104: that a move of a page which KSM has merged is EBUSY tells a user nothing that pagemap does
/// not.
fn c104_merged_page() -> Outcome {
    ksm::hurry()?;
    let (merged, own, dst) = (Area::pages(2)?, Area::filled(1, 1)?, Area::pages(1)?);
    merged.each_page().for_each(|part| part.fill(4104));
    merged
        .advise(libc::MADV_MERGEABLE)
        .context("MADV_MERGEABLE")?;
    ksm::wait_merged(&[*merged])?;
    become_a_user()?;
    for (part, exclusive) in [(merged.page(0), false), (*own, true)] {
        ensure_eq!(entry(part)?.exclusive(), exclusive);
        let moved = remap(*dst, part, 0);
        ensure_eq!(moved == Ok(page()), exclusive, "{moved:?}");
        ensure!(exclusive || moved == Err(Errno::EBUSY), "{moved:?}");
    }
    Ok(())
}

register!(
    c100_root_of_a_user_namespace,
    c101_descriptor_serves_its_maker,
    c102_others_see_nothing,
    c103_seccomp,
    c104_merged_page,
);
