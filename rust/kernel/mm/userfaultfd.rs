// SPDX-License-Identifier: GPL-2.0

//! The context of a userfaultfd, as far as another protocol than mainline's needs it.
//!
//! C header: [`include/linux/userfaultfd_k.h`](srctree/include/linux/userfaultfd_k.h)

use crate::{
    bindings,
    fs::LocalFile,
    mm::{
        virt::VmaRef,
        Mm, //
    },
    prelude::*,
    sync::{
        aref::AlwaysRefCounted,
        atomic::{
            Acquire,
            Atomic,
            Full,
            Relaxed, //
        },
    },
    types::{
        ForeignOwnable,
        Opaque, //
    },
};
use core::{
    marker::PhantomData,
    ptr::NonNull, //
};

/// What `features` of a context holds whose descriptor speaks the range protocol.
///
/// No feature has this bit, so UFFDIO_API refuses it, and mainline takes the descriptor for one to
/// which nobody has said UFFDIO_API yet: it is not disturbed, and disturbs nothing.
const RANGE: u32 = 1 << 30;

/// What the range protocol keeps of a descriptor.
///
/// # Safety
///
/// There is one type in the kernel that implements this: `range` of every `struct userfaultfd_ctx`
/// is null or a `Pin<KBox<Self>>`.
pub unsafe trait Range: Sized + Send + Sync + 'static {
    /// That of a descriptor to which nothing was written yet.
    fn new() -> impl PinInit<Self>;
}

/// The dialect that a descriptor speaks.
pub enum Dialect<'a, T> {
    /// None yet: the first operation that succeeds decides.
    Undecided,
    /// Mainline's.
    Mainline,
    /// The range protocol, and what that keeps.
    Range(Pin<&'a T>),
}

/// The context of a descriptor.
///
/// # Invariants
///
/// `range` is what [`Range`] says, and does not change once it is not null.
#[repr(transparent)]
pub struct Context<T>(Opaque<bindings::userfaultfd_ctx>, PhantomData<T>);

// SAFETY: Every method can be called by any thread.
unsafe impl<T: Range> Send for Context<T> {}

// SAFETY: As above.
unsafe impl<T: Range> Sync for Context<T> {}

// SAFETY: The context is freed when the last reference goes.
unsafe impl<T: Range> AlwaysRefCounted for Context<T> {
    #[inline]
    fn inc_ref(&self) {
        // SAFETY: The context is valid.
        unsafe { bindings::refcount_inc(&raw mut (*self.0.get()).refcount) };
    }

    #[inline]
    unsafe fn dec_ref(obj: NonNull<Self>) {
        // SAFETY: The caller owns a reference.
        unsafe { bindings::userfaultfd_ctx_put(obj.as_ptr().cast()) };
    }
}

impl<T: Range> Context<T> {
    /// # Safety
    ///
    /// The context must be valid for `'a`.
    #[inline]
    pub unsafe fn from_raw<'a>(ctx: *mut bindings::userfaultfd_ctx) -> &'a Self {
        // SAFETY: The caller promises that it is valid. The layouts are compatible due to
        // repr(transparent).
        unsafe { &*ctx.cast() }
    }

    /// The context as C has it.
    #[inline]
    pub fn as_raw(&self) -> *mut bindings::userfaultfd_ctx {
        self.0.get()
    }

    /// The context of the descriptor that serves `vma` by ranges, if one does. It stays so while
    /// the vma is locked.
    #[inline]
    pub fn serving(vma: &VmaRef) -> Option<&Self> {
        if !vma.is_served() {
            return None;
        }
        // SAFETY: The flag is set together with the context, which stays until it is taken out of
        // every vma.
        Some(unsafe { Self::from_raw(vma.userfaultfd()) })
    }

    #[inline]
    fn features(&self) -> &Atomic<u32> {
        // SAFETY: The context is valid, and C accesses the field as a single word.
        unsafe { Atomic::from_ptr(&raw mut (*self.0.get()).features) }
    }

    #[inline]
    fn slot(&self) -> &Atomic<*mut core::ffi::c_void> {
        // SAFETY: The context is valid, and C does not access the field once there are others.
        unsafe { Atomic::from_ptr(&raw mut (*self.0.get()).range) }
    }

    /// Which dialect the descriptor speaks. Once there is one it does not change.
    #[inline]
    pub fn dialect(&self) -> Dialect<'_, T> {
        match self.features().load(Acquire) {
            0 => Dialect::Undecided,
            // SAFETY: It was put there before, see `speak_range`, and lives as long as the context.
            RANGE => Dialect::Range(unsafe { <Pin<KBox<T>>>::borrow(self.slot().load(Acquire)) }),
            _ => Dialect::Mainline,
        }
    }

    /// What the range protocol keeps, if the descriptor speaks it.
    #[inline]
    pub fn range(&self) -> Option<Pin<&T>> {
        match self.dialect() {
            Dialect::Range(range) => Some(range),
            Dialect::Undecided | Dialect::Mainline => None,
        }
    }

    /// Makes the descriptor speak the range protocol, unless it speaks it already.
    ///
    /// May sleep. Fails with `EINVAL` where it speaks mainline's dialect, and with `ENOMEM`.
    pub fn speak_range(&self) -> Result<Pin<&T>> {
        let undecided = matches!(self.dialect(), Dialect::Undecided);
        if undecided && self.slot().load(Acquire).is_null() {
            let new = KBox::pin_init(T::new(), GFP_KERNEL_ACCOUNT)?.into_foreign();
            if self
                .slot()
                .cmpxchg(core::ptr::null_mut(), new, Full)
                .is_err()
            {
                // SAFETY: Another was faster; this one was given to nobody.
                drop(unsafe { <Pin<KBox<T>>>::from_foreign(new) });
            }
        }
        // Fails where the first operation was another.
        let _ = self.features().cmpxchg(0, RANGE, Full);
        self.range().ok_or(EINVAL)
    }

    /// Frees what the range protocol keeps.
    ///
    /// # Safety
    ///
    /// Nobody must have a reference to the context any more.
    pub unsafe fn free_range(&self) {
        let old = self.slot().load(Relaxed);
        if !old.is_null() {
            self.slot().store(core::ptr::null_mut(), Relaxed);
            // SAFETY: By the type invariants, and it is used by nobody.
            drop(unsafe { <Pin<KBox<T>>>::from_foreign(old) });
        }
    }

    /// The address space of the process that made the descriptor.
    #[inline]
    pub fn mm(&self) -> &Mm {
        // SAFETY: The context holds a reference to it.
        unsafe { Mm::from_raw((*self.0.get()).mm) }
    }

    /// Whether that process, or somebody who looks into its memory, is still there. Once it is not,
    /// it does not come back.
    #[inline]
    pub fn is_alive(&self) -> bool {
        // SAFETY: The mm is valid.
        unsafe { bindings::mm_users(self.mm().as_raw()) != 0 }
    }

    /// Whether the descriptor may have accesses by the kernel wait.
    #[inline]
    pub fn serves_kernel(&self) -> bool {
        // SAFETY: The context is valid, and the field never changes.
        unsafe { (*self.0.get()).flags & bindings::UFFD_USER_MODE_ONLY == 0 }
    }

    #[inline]
    fn fd_wqh(&self) -> *mut bindings::wait_queue_head {
        // SAFETY: The context is valid.
        unsafe { &raw mut (*self.0.get()).fd_wqh }
    }

    /// Wakes those who poll the descriptor for `events` (`EPOLL*`), and one who reads.
    ///
    /// Does not sleep.
    #[inline]
    pub fn notify(&self, events: u32) {
        // SAFETY: The wait queue lives as long as the context. The first has the barrier between
        // what was done and the look for sleepers.
        unsafe {
            if bindings::wq_has_sleeper(self.fd_wqh()) {
                bindings::wake_up_poll(self.fd_wqh(), events);
            }
        }
    }

    /// Wakes all who poll the descriptor for `events` or read.
    ///
    /// Does not sleep.
    #[inline]
    pub fn notify_all(&self, events: u32) {
        // SAFETY: The wait queue lives as long as the context.
        unsafe { bindings::wake_up_all_poll(self.fd_wqh(), events) };
    }

    /// Takes the context out of the vmas of an address space that has no users any more, but may
    /// not be taken down yet. Nothing else is changed of them: who takes them down looks at them.
    ///
    /// May sleep. The caller holds no lock of the mm.
    pub fn leave_dead_mm(&self) {
        if self.is_alive() {
            return;
        }
        let mm = self.mm().as_raw();
        // SAFETY: The context holds a reference to the mm. Its lock keeps the vmas.
        unsafe {
            bindings::mmap_write_lock(mm);
            let mut vma = bindings::find_vma(mm, 0);
            while !vma.is_null() {
                let end = VmaRef::from_raw(vma).end();
                if VmaRef::from_raw(vma).userfaultfd() == self.as_raw() {
                    bindings::userfaultfd_set_ctx(vma, core::ptr::null_mut(), 0);
                }
                vma = bindings::find_vma(mm, end);
            }
            bindings::mmap_write_unlock(mm);
        }
    }

    /// Calls `ready` until it returns something, and sleeps until [`notify`](Self::notify) in
    /// between, as one of those who read.
    ///
    /// `ready` may not sleep. Fails with `ERESTARTSYS` when a signal arrives, but not before
    /// `ready` was asked once more.
    pub fn wait_to_read<R>(&self, mut ready: impl FnMut() -> Option<R>) -> Result<R> {
        let entry = Opaque::uninit();
        // SAFETY: The entry lives until `finish_wait` has taken it out.
        unsafe { bindings::init_wait_entry(entry.get(), bindings::WQ_FLAG_EXCLUSIVE as c_int) };
        let result = loop {
            // SAFETY: As above. It takes the entry out again where it fails.
            let signal = unsafe {
                bindings::prepare_to_wait_event(
                    self.fd_wqh(),
                    entry.get(),
                    bindings::TASK_INTERRUPTIBLE as c_int,
                )
            };
            if let Some(result) = ready() {
                break Ok(result);
            }
            if signal != 0 {
                break Err(ERESTARTSYS);
            }
            // SAFETY: Nothing is locked.
            unsafe { bindings::schedule() };
        };
        // SAFETY: As above.
        unsafe { bindings::finish_wait(self.fd_wqh(), entry.get()) };
        result
    }
}

impl Mm {
    /// Whether memory may have been taken from the mm (`MMF_UNSTABLE`), since its process is to
    /// make room by its end: a hole need not have been one. A caller with the lock of an entry that
    /// was made none in this way sees it.
    #[inline]
    pub fn is_reaped(&self) -> bool {
        // SAFETY: The mm is valid.
        unsafe { bindings::check_stable_address_space(self.as_raw()) != 0 }
    }
}

/// Takes from a descriptor the right to be written to.
///
/// Does not sleep.
pub fn make_read_only(file: &LocalFile) {
    let file = file.as_ptr();
    // SAFETY: The file is valid; the lock is that of its flags. Who is only read from is counted in
    // the inode, until the last reference to the file goes.
    unsafe {
        bindings::spin_lock(&raw mut (*file).f_lock);
        let writable = (*file).f_mode & bindings::FMODE_WRITE != 0;
        if writable {
            (*file).f_mode &= !(bindings::FMODE_WRITE | bindings::FMODE_CAN_WRITE);
            (*file).f_flags = (*file).f_flags & !bindings::O_ACCMODE | bindings::O_RDONLY;
            bindings::i_readcount_inc((*file).f_inode);
        }
        bindings::spin_unlock(&raw mut (*file).f_lock);
    }
}

impl VmaRef {
    /// The context of any dialect that the vma is registered with; null for none.
    #[inline]
    pub(super) fn userfaultfd(&self) -> *mut bindings::userfaultfd_ctx {
        // SAFETY: The vma is valid and locked, which protects the field.
        unsafe { (*self.as_ptr()).vm_userfaultfd_ctx.ctx }
    }

    /// Whether the vma is registered with another descriptor than that of `ctx`, of whichever
    /// dialect.
    #[inline]
    pub fn is_of_another<T: Range>(&self, ctx: &Context<T>) -> bool {
        let owner = self.userfaultfd();
        !owner.is_null() && owner != ctx.as_raw()
    }
}
