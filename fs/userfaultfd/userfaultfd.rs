// SPDX-License-Identifier: GPL-2.0

//! The range protocol of a userfaultfd.
//!
//! A descriptor of userfaultfd(2) belongs to no dialect until the first operation on it succeeds:
//! the ioctl UFFDIO_API makes it mainline's, in C, and a write of a version makes it ours. Then
//! ranges are written to it, in which it serves holes of memory with `VM_USERFAULT`: a thread that
//! touches one waits, its address is read from the descriptor, and a range is written in which
//! waiters are woken.
//!
//! This file is where C comes in. What is decided, the modules say.
//!
//! C header: [`include/linux/userfault.h`](srctree/include/linux/userfault.h)
//! Internals: Documentation/mm/userfault.rst

#[deny(unsafe_code)]
mod fault;
#[deny(unsafe_code)]
mod file;
#[deny(unsafe_code)]
mod protocol;
#[deny(unsafe_code)]
mod registration;

use kernel::{
    bindings,
    fs::LocalFile,
    iov::{
        IovIterDest,
        IovIterSource, //
    },
    mm::{
        fault::VmFault,
        mmap_write::MmapWriteGuard,
        userfaultfd::{
            self,
            Range, //
        },
        virt::VmaRef,
        waiters::Waiters,
        MmWithUser, //
    },
    prelude::*,
    seq_file::SeqFile,
    seq_print,
    sync::atomic::{
        Atomic,
        AtomicType, //
    }, //
};

use core::ops;
use protocol::State;

const __LOG_PREFIX: &[u8] = b"userfaultfd\0";

/// What is kept of a descriptor that speaks the range protocol.
#[pin_data]
struct Descriptor {
    state: Atomic<State>,
    #[pin]
    waiters: Waiters,
}

type Context = userfaultfd::Context<Descriptor>;

/// Wakes those who wait for a page in `range`, and says whether there was one. Does not sleep.
fn wake(ctx: &Context, range: ops::Range<usize>) -> bool {
    ctx.range()
        .is_some_and(|descriptor| descriptor.waiters.wake(range))
}

// SAFETY: It is the only one.
unsafe impl Range for Descriptor {
    fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            state: Atomic::new(State::Ask),
            waiters <- Waiters::new(),
        })
    }
}

// SAFETY: A `State` is an i32, and an i32 that was made of one is one.
unsafe impl AtomicType for State {
    type Repr = i32;
}

/// Serves a touch of a hole. Called by `userfault_hole`.
///
/// # Safety
///
/// As for `userfault_hole`, in a vma that a descriptor serves.
#[export]
unsafe extern "C" fn userfaultfd_range_fault(vmf: *mut bindings::vm_fault) -> bindings::vm_fault_t {
    // SAFETY: The caller promises what the invariants of `VmFault` ask.
    fault::fault(unsafe { VmFault::from_raw(vmf) }).into_raw()
}

/// Wakes those who wait in a range of a vma.
///
/// # Safety
///
/// The vma must be locked.
#[export]
unsafe extern "C" fn userfaultfd_range_wake_vma(
    vma: *mut bindings::vm_area_struct,
    start: usize,
    end: usize,
) {
    // SAFETY: The caller promises that the vma is locked.
    if let Some(ctx) = Context::serving(unsafe { VmaRef::from_raw(vma) }) {
        wake(ctx, start..end);
    }
}

/// Ends the registration of what mremap() has left behind.
///
/// # Safety
///
/// The mm must be valid and its mmap lock held for writing.
#[export]
unsafe extern "C" fn userfaultfd_range_dontunmap(
    mm: *mut bindings::mm_struct,
    start: usize,
    len: usize,
) {
    // SAFETY: The caller promises that the mm is valid, and it is in use.
    let mm = unsafe { MmWithUser::from_raw(mm) };
    // SAFETY: The caller promises that the lock is held.
    let mut mmap = unsafe { MmapWriteGuard::assume_held(mm) };
    registration::left_behind(&mut mmap, &(start..start.wrapping_add(len)));
}

/// Wakes who reads or polls, since the address space of a vma has no users any more.
///
/// # Safety
///
/// The vma must be locked.
#[export]
unsafe extern "C" fn userfaultfd_range_exit_vma(vma: *mut bindings::vm_area_struct) {
    // SAFETY: The caller promises that the vma is locked.
    if let Some(ctx) = Context::serving(unsafe { VmaRef::from_raw(vma) }) {
        ctx.notify_all(bindings::EPOLLIN | bindings::EPOLLHUP);
    }
}

/// Wakes all who wait, since the descriptor is closed and in no vma any more, but for those of an
/// address space that has no users.
///
/// # Safety
///
/// The context must be valid.
#[export]
unsafe extern "C" fn userfaultfd_range_release(ctx: *mut bindings::userfaultfd_ctx) {
    // SAFETY: The caller promises it.
    let ctx = unsafe { Context::from_raw(ctx) };
    if let Some(descriptor) = ctx.range() {
        ctx.leave_dead_mm();
        descriptor.waiters.wake_all();
    }
}

/// Frees what is kept of a descriptor.
///
/// # Safety
///
/// The context must be valid, and nobody have a reference to it.
#[export]
unsafe extern "C" fn userfaultfd_range_free(ctx: *mut bindings::userfaultfd_ctx) {
    // SAFETY: The caller promises it.
    unsafe { Context::from_raw(ctx).free_range() };
}

/// Says what a descriptor is ready for that does not speak mainline's dialect.
///
/// # Safety
///
/// The context must be valid.
#[export]
unsafe extern "C" fn userfaultfd_range_poll(
    ctx: *mut bindings::userfaultfd_ctx,
) -> bindings::__poll_t {
    // SAFETY: The caller promises it.
    file::poll(unsafe { Context::from_raw(ctx) })
}

/// Reads from a descriptor that does not speak mainline's dialect.
///
/// # Safety
///
/// The call must be one on a userfaultfd, and `to` be valid.
#[export]
unsafe extern "C" fn userfaultfd_range_read(
    iocb: *mut bindings::kiocb,
    to: *mut bindings::iov_iter,
) -> isize {
    // SAFETY: The caller promises it.
    let (ctx, may_wait, to) = unsafe { (context(iocb), may_wait(iocb), IovIterDest::from_raw(to)) };
    into_size(file::read(ctx, to, may_wait))
}

/// Writes to a descriptor.
///
/// # Safety
///
/// The call must be one on a userfaultfd, and `from` be valid.
#[export]
unsafe extern "C" fn userfaultfd_range_write(
    iocb: *mut bindings::kiocb,
    from: *mut bindings::iov_iter,
) -> isize {
    // SAFETY: The caller promises it.
    let (ctx, from) = unsafe { (context(iocb), IovIterSource::from_raw(from)) };
    into_size(file::write(ctx, from))
}

/// Comes after UFFDIO_API, whose result `ret` is: mainline's descriptors are for reading.
///
/// # Safety
///
/// The file must be valid.
#[export]
unsafe extern "C" fn userfaultfd_range_api(file: *mut bindings::file, ret: c_int) -> c_int {
    if ret == 0 {
        // SAFETY: The caller promises that the file is valid.
        userfaultfd::make_read_only(unsafe { LocalFile::from_raw_file(file) });
    }
    ret
}

/// Shows a descriptor in fdinfo, if it speaks the range protocol.
///
/// # Safety
///
/// The pointers must be valid.
#[export]
unsafe extern "C" fn userfaultfd_range_show(
    m: *mut bindings::seq_file,
    ctx: *mut bindings::userfaultfd_ctx,
) -> bool {
    // SAFETY: The caller promises it.
    let (m, ctx) = unsafe { (SeqFile::from_raw(m), Context::from_raw(ctx)) };
    let Some(descriptor) = ctx.range() else {
        return false;
    };
    let counts = descriptor.waiters.counts();
    let version = bindings::USERFAULTFD_PROTOCOL;
    seq_print!(
        m,
        "pending:\t{}\ntotal:\t{}\n",
        counts.pending,
        counts.total
    );
    seq_print!(m, "protocols:\t{version:x}\n");
    true
}

/// # Safety
///
/// The call must be one on a userfaultfd.
unsafe fn context<'a>(iocb: *mut bindings::kiocb) -> &'a Context {
    // SAFETY: The file is valid during the call, and has a reference to its context.
    unsafe { Context::from_raw((*(*iocb).ki_filp).private_data.cast()) }
}

/// # Safety
///
/// The call must be one on a file.
unsafe fn may_wait(iocb: *mut bindings::kiocb) -> bool {
    // SAFETY: The file is valid during the call.
    let (call, file) = unsafe { ((*iocb).ki_flags, (*(*iocb).ki_filp).f_flags) };
    call & bindings::IOCB_NOWAIT == 0 && file & bindings::O_NONBLOCK == 0
}

fn into_size(result: Result<usize>) -> isize {
    result.map_or_else(|e| e.to_errno() as isize, |size| size as isize)
}
