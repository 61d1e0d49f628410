// SPDX-License-Identifier: GPL-2.0

//! Private anonymous memory: which vmas hold it, and what a page of theirs needs.
//!
//! Methods of [`VmaRef`] that need the vma read lock or the mmap read lock, which its type
//! invariants say is held, and of the guard of the mmap lock. Addresses and lengths are in bytes.
//! Nothing here sleeps but what says so, and what does not sleep can be called under a spinlock.
//!
//! C headers: [`include/linux/mm.h`](srctree/include/linux/mm.h),
//! [`include/linux/rmap.h`](srctree/include/linux/rmap.h)

use crate::{
    bindings,
    error::{
        code::EINVAL,
        to_result,
        Result, //
    },
    ffi,
    mm::{
        folio::Folio,
        virt::{
            flags,
            vm_flags_t,
            VmaRef, //
        },
        MmWithUser,
        MmapReadGuard,
        VmaReadGuard, //
    },
    types::NotThreadSafe,
};
use core::{
    ops::Range,
    ptr, //
};

/// Mappings that hold something else than ordinary pages, or hold them in another way: the kernel
/// drops those of `VM_DROPPABLE` under memory pressure.
const NOT_ORDINARY: vm_flags_t = flags::IO
    | flags::PFNMAP
    | flags::MIXEDMAP
    | flags::DONTEXPAND
    | flags::HUGETLB
    | bindings::VM_DROPPABLE
    | bindings::VM_SHADOW_STACK;

/// How a program may access a vma.
const ACCESS: vm_flags_t = flags::READ | flags::WRITE | flags::EXEC;

impl VmaRef {
    /// Whether the vma is one of `mm`.
    #[inline]
    pub fn is_in(&self, mm: &MmWithUser) -> bool {
        self.mm().as_raw() == mm.as_raw()
    }

    /// Whether the vma maps private anonymous memory that is ordinary.
    ///
    /// A private mapping of `/dev/zero` is. Mappings of files, shared ones, special ones (device
    /// memory, the vdso), hugetlb, shadow stacks and `MAP_DROPPABLE` are not.
    #[inline]
    pub fn is_private_anonymous(&self) -> bool {
        // SAFETY: The vma is valid and locked by the type invariants.
        let anonymous = unsafe { bindings::vma_is_anonymous(self.as_ptr()) };

        anonymous && self.flags() & (flags::SHARED | NOT_ORDINARY) == 0
    }

    /// Whether the vma is sealed by mseal(2) (`VM_SEALED`).
    #[inline]
    pub fn is_sealed(&self) -> bool {
        self.flags() & bindings::VM_SEALED != 0
    }

    /// Whether the program may write to the vma now (`VM_WRITE`), as far as mprotect(2) goes: a
    /// page may still be write-protected in its page-table entry.
    #[inline]
    pub fn is_writable(&self) -> bool {
        self.flags() & flags::WRITE != 0
    }

    /// Whether the running thread, whose mm it is, may write to the vma now: as far as mprotect(2)
    /// goes, and its rights for the protection key (`arch_vma_access_permitted()`).
    #[inline]
    pub fn lets_thread_write(&self) -> bool {
        // SAFETY: The vma is valid and locked by the type invariants.
        self.is_writable()
            && unsafe { bindings::arch_vma_access_permitted(self.as_ptr(), true, false, false) }
    }

    /// Whether the program may access the vma in any way now.
    #[inline]
    pub fn is_accessible(&self) -> bool {
        self.flags() & ACCESS != 0
    }

    /// Whether a page is kept and accessible in the same way in `other`: both are mlocked
    /// (`VM_LOCKED`, with `MLOCK_ONFAULT` too) or none is, and both give their page-table entries
    /// the same access, caching and protection key.
    #[inline]
    pub fn keeps_pages_like(&self, other: &VmaRef) -> bool {
        if (self.flags() ^ other.flags()) & (ACCESS | bindings::VM_LOCKED) != 0 {
            return false;
        }
        // SAFETY: `pgprot_val` is always safe to call.
        unsafe { bindings::pgprot_val(self.page_prot()) == bindings::pgprot_val(other.page_prot()) }
    }

    /// The bits that the vma gives to every page-table entry: protection, caching, protection key.
    #[inline]
    pub(super) fn page_prot(&self) -> bindings::pgprot_t {
        // SAFETY: The vma is valid by the type invariants. mprotect changes the field with the vma
        // locked for writing.
        unsafe { (*self.as_ptr()).vm_page_prot }
    }

    /// Whether the whole of `range`, which are addresses, lies in the vma.
    #[inline]
    pub fn contains(&self, range: &Range<usize>) -> bool {
        self.start() <= range.start && range.end <= self.end()
    }

    /// Whether the vma has what the reverse mapping of a page of its own needs (`anon_vma`).
    ///
    /// Once true it stays so until the vma goes away. [`MmapReadGuard::prepare_anon_vma`] makes it
    /// true.
    #[inline]
    pub fn has_anon_vma(&self) -> bool {
        !self.anon_vma().is_null()
    }

    #[inline]
    fn anon_vma(&self) -> *mut bindings::anon_vma {
        // SAFETY: The vma is valid by the type invariants. The field is set once, by whoever
        // prepares it under the mmap lock, and read as a single word.
        unsafe { ptr::read_volatile(&raw const (*self.as_ptr()).anon_vma) }
    }

    /// What a folio holds that is mapped in the vma alone: its anon_vma, with the bit that says so.
    /// `None` where it has none.
    #[inline(always)]
    pub(super) fn anon_mapping(&self) -> Option<*mut bindings::address_space> {
        let anon_vma = self.anon_vma();
        if anon_vma.is_null() {
            return None;
        }
        let mapping = anon_vma.cast::<u8>();
        Some(
            mapping
                .wrapping_add(bindings::FOLIO_MAPPING_ANON as usize)
                .cast(),
        )
    }

    /// The vma as one that holds ordinary private anonymous memory, if it does.
    #[inline]
    pub fn as_private_anonymous(&self) -> Option<PrivateAnonVma<'_>> {
        // INVARIANT: Just looked, and the vma is locked.
        self.is_private_anonymous().then_some(PrivateAnonVma(self))
    }
}

/// A vma that holds ordinary private anonymous memory.
///
/// # Invariants
///
/// [`VmaRef::is_private_anonymous`] is true, and stays so while the vma is locked.
#[derive(Clone, Copy)]
pub struct PrivateAnonVma<'a>(&'a VmaRef);

impl<'a> PrivateAnonVma<'a> {
    /// A range of addresses of the vma, if all of it is in there, and it is not empty.
    #[inline]
    pub fn range(self, range: Range<usize>) -> Option<AnonRange<'a>> {
        // INVARIANT: Just looked, and the vma is locked.
        (!range.is_empty() && self.0.contains(&range)).then_some(AnonRange {
            vma: self.0,
            start: range.start,
            end: range.end,
        })
    }
}

/// Addresses of ordinary private anonymous memory, in one vma.
///
/// # Invariants
///
/// The range is not empty and lies in `vma`, of which [`VmaRef::is_private_anonymous`] is true.
/// Both stay so while the vma is locked.
#[derive(Clone, Copy)]
pub struct AnonRange<'a> {
    vma: &'a VmaRef,
    start: usize,
    end: usize,
}

impl<'a> AnonRange<'a> {
    /// The vma that the addresses are in.
    #[inline]
    pub fn vma(self) -> &'a VmaRef {
        self.vma
    }

    /// The first address.
    #[inline]
    pub fn start(self) -> usize {
        self.start
    }

    /// The address behind the last.
    #[inline]
    pub fn end(self) -> usize {
        self.end
    }

    /// How many bytes there are.
    #[inline]
    pub fn size(self) -> usize {
        self.end.wrapping_sub(self.start)
    }

    /// What leads from a folio to the first address; `None` where the vma has no anon_vma.
    #[inline]
    pub(super) fn rmap(self) -> Option<AnonRmap> {
        let mapping = self.vma.anon_mapping()?;
        // INVARIANT: The mapping is the vma's own, tagged as C does, and the index that of the
        // address.
        Some(AnonRmap {
            mapping,
            // SAFETY: The vma is valid and locked, and the address is in it.
            index: unsafe { bindings::linear_anon_page_index(self.vma.as_ptr(), self.start) },
        })
    }
}

/// What leads from an anonymous folio to where it is mapped.
///
/// # Invariants
///
/// `mapping` is the anon_vma of a vma that is locked, with the bit that says so, and `index` is
/// that of an address in it.
#[derive(Clone, Copy)]
pub struct AnonRmap {
    mapping: *mut bindings::address_space,
    index: ffi::c_ulong,
}

impl AnonRmap {
    /// The same for the place that is `pages` further on.
    #[inline]
    pub(super) fn advance(self, pages: usize) -> Self {
        // INVARIANT: The caller stays in the vma, in which the index grows with the address.
        Self {
            index: self.index.wrapping_add(pages as ffi::c_ulong),
            ..self
        }
    }

    /// Makes this what leads from `folio` to where it is mapped, as `folio_move_anon_rmap()` and
    /// the assignment of the index do.
    ///
    /// # Safety
    ///
    /// The folio must be anonymous, belong to one mm alone, be locked by the caller, and be mapped
    /// nowhere, or nowhere else than at this place, until it is unlocked.
    #[inline]
    pub(super) unsafe fn set(self, folio: &Folio) {
        // SAFETY: The caller promises it, and holds the folio's lock, which nobody goes without who
        // looks at the index.
        unsafe {
            folio.set_anon_mapping(self.mapping);
            let fields = &raw mut (*folio.as_ptr()).__bindgen_anon_1.__bindgen_anon_1;
            (*fields).__bindgen_anon_2.index = self.index;
        }
    }
}

impl Folio {
    /// Has the folio lead to the vmas of another anon_vma.
    ///
    /// # Safety
    ///
    /// `mapping` must be what [`VmaRef::anon_mapping`] is of a vma that is the only one to map the
    /// folio, or that is about to, and the caller have locked the folio, which is anonymous.
    #[inline]
    pub(super) unsafe fn set_anon_mapping(&self, mapping: *mut bindings::address_space) {
        // SAFETY: The caller holds the folio's lock, which nobody goes without who follows the
        // field. It is written as a whole, for those who glance at it only.
        unsafe {
            let fields = &raw mut (*self.as_ptr()).__bindgen_anon_1.__bindgen_anon_1;
            ptr::write_volatile(&raw mut (*fields).mapping, mapping);
        }
    }
}

impl MmWithUser {
    /// Locks the mmap lock for reading, until the guard that is returned is dropped.
    ///
    /// May sleep. The caller holds neither the mmap lock nor the lock of a vma of this mm. Fails
    /// with `EINTR` when a fatal signal arrives.
    #[inline]
    pub fn mmap_read_lock_killable(&self) -> Result<MmapReadGuard<'_>> {
        // SAFETY: The pointer is valid since self is a reference.
        to_result(unsafe { bindings::mmap_read_lock_killable(self.as_raw()) })?;

        // INVARIANT: We just acquired the read lock.
        Ok(MmapReadGuard {
            mm: self,
            _nts: NotThreadSafe,
        })
    }

    /// Locks the vmas at two addresses for reading, if they can be had at once; the second is none
    /// where it is the first.
    ///
    /// Does not sleep, and waits for nobody: whoever wants to write-lock both may already have one.
    /// Costs less than [`lock_vma_under_rcu`](Self::lock_vma_under_rcu), since the search is for
    /// one entry of the tree of vmas, not for what lies around it.
    #[cfg(CONFIG_PER_VMA_LOCK)]
    #[inline(always)]
    pub fn lock_two_vmas(
        &self,
        first: usize,
        second: usize,
    ) -> Option<(VmaReadGuard<'_>, Option<VmaReadGuard<'_>>)> {
        // SAFETY: `lock_vma_at` has it given up where it fails.
        unsafe { bindings::rcu_read_lock() };
        // SAFETY: The RCU read lock is held.
        let one = unsafe { self.lock_vma_at(first) }?;
        let other = match (one.start()..one.end()).contains(&second) {
            true => None,
            // SAFETY: As above.
            false => Some(unsafe { self.lock_vma_at(second) }?),
        };
        // SAFETY: It was taken above, and is held where nothing failed.
        unsafe { bindings::rcu_read_unlock() };
        Some((one, other))
    }

    /// Without locks of vmas: never.
    #[cfg(not(CONFIG_PER_VMA_LOCK))]
    pub fn lock_two_vmas(
        &self,
        _first: usize,
        _second: usize,
    ) -> Option<(VmaReadGuard<'_>, Option<VmaReadGuard<'_>>)> {
        None
    }

    /// # Safety
    ///
    /// The RCU read lock must be held. It is given up where this fails.
    #[cfg(CONFIG_PER_VMA_LOCK)]
    #[inline(always)]
    unsafe fn lock_vma_at(&self, address: usize) -> Option<VmaReadGuard<'_>> {
        // SAFETY: The mm is valid. What the tree holds stays under the RCU read lock, and
        // `vma_start_read` sees whether it is still in use; where it fails, it gives that lock up.
        let vma = unsafe {
            let tree = &raw mut (*self.as_raw()).__bindgen_anon_1.mm_mt;
            let vma = bindings::mtree_load(tree, address);
            if vma.is_null() {
                bindings::rcu_read_unlock();
                return None;
            }
            bindings::vma_start_read(self.as_raw(), vma.cast())
        };
        // Neither an error nor null.
        if vma.addr().wrapping_sub(1) >= (-(bindings::MAX_ERRNO as isize) - 1) as usize {
            return None;
        }
        // INVARIANT: The lock is held by now, which keeps the vma.
        let guard = VmaReadGuard {
            // SAFETY: As above.
            vma: unsafe { VmaRef::from_raw(vma) },
            _nts: NotThreadSafe,
        };
        if address < guard.start() || address >= guard.end() {
            // SAFETY: It is held.
            unsafe { bindings::rcu_read_unlock() };
            return None;
        }
        Some(guard)
    }
}

impl MmWithUser {
    /// The first vma that ends behind `address`.
    ///
    /// # Safety
    ///
    /// The mmap lock must be held for as long as what is returned is used.
    #[inline]
    pub(super) unsafe fn find_vma(&self, address: usize) -> Option<&VmaRef> {
        // SAFETY: The caller promises that the mmap lock is held.
        let vma = unsafe { bindings::find_vma(self.as_raw(), address) };
        // SAFETY: Where it is not null it is valid, and the lock is that of every vma.
        (!vma.is_null()).then(|| unsafe { VmaRef::from_raw(vma) })
    }

    /// The vmas that have an address in `range`, in their order.
    ///
    /// # Safety
    ///
    /// As for [`find_vma`](Self::find_vma).
    pub(super) unsafe fn vmas(&self, range: Range<usize>) -> impl Iterator<Item = &VmaRef> {
        let within = move |vma: &&VmaRef| vma.start() < range.end;
        // SAFETY: The caller promises what it asks.
        let from = |address| unsafe { self.find_vma(address) };
        core::iter::successors(from(range.start), move |vma| from(vma.end())).take_while(within)
    }
}

impl MmapReadGuard<'_> {
    /// The vmas that have an address in `range`, in their order.
    pub fn vmas(&self, range: Range<usize>) -> impl Iterator<Item = &VmaRef> {
        // SAFETY: The lock is held for as long as `self` is borrowed.
        unsafe { self.mm.vmas(range) }
    }

    /// Gives `vma` what the reverse mapping of a page of its own needs (`anon_vma`), if it does not
    /// have it yet.
    ///
    /// May sleep. The mmap lock is held, by `self`. Fails with `ENOMEM`, and with `EINVAL` for a
    /// vma of another mm.
    #[inline]
    pub fn prepare_anon_vma(&self, vma: &VmaRef) -> Result {
        if !vma.is_in(self.mm) {
            return Err(EINVAL);
        }
        // SAFETY: The vma is valid and we hold its mmap lock for reading.
        to_result(unsafe { bindings::anon_vma_prepare(vma.as_ptr()) })
    }
}
