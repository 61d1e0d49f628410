// SPDX-License-Identifier: GPL-2.0

//! Getting hold of the anon_vma of a folio, and being sure that it is still the folio's.
//!
//! Nobody who unmaps a folio waits for those who look for its vmas. With the last page-table entry
//! the anon_vma may go, and its memory become the anon_vma of somebody else, but nothing else for
//! as long as the RCU read lock is held. So the folio is looked at twice: it leads to an anon_vma,
//! of which a count or the lock is taken, and if the folio is mapped still then, it was its own
//! all the time, and stays. Whoever calls has locked the folio, so that it is given to no other.

use kernel::{
    mm::{
        anon_rmap::{
            AnonVma,
            AnonVmaReadGuard,
            Candidate, //
        },
        folio::FolioGuard, //
    },
    sync::{
        aref::ARef,
        rcu, //
    },
};

/// Somebody else has the lock, and nobody is to be waited for.
pub(crate) struct Contended;

/// Takes a count of the anon_vma of a locked folio: `None` where that is not mapped, or not
/// anonymous. May sleep.
pub(crate) fn get(folio: &FolioGuard<'_>) -> Option<ARef<AnonVma>> {
    let rcu = rcu::read_lock();
    let anon_vma = Candidate::of(folio, &rcu)?.try_get()?;
    let is_its_own = folio.folio().is_mapped();
    // The count that is given up may be the last one, which sleeps.
    drop(rcu);
    is_its_own.then_some(anon_vma)
}

/// Locks the anon_vma of a locked folio for reading: `None` where that is not mapped, or not
/// anonymous.
///
/// May sleep, if `may_wait`.
#[inline(always)]
pub(crate) fn lock_read(
    folio: &FolioGuard<'_>,
    may_wait: bool,
) -> Result<Option<AnonVmaReadGuard>, Contended> {
    let rcu = rcu::read_lock();
    let Some(candidate) = Candidate::of(folio, &rcu) else {
        return Ok(None);
    };
    if let Some(lock) = candidate.try_lock_read() {
        return Ok(lock.confirm());
    }
    if !may_wait {
        return Err(Contended);
    }
    drop(rcu);
    // While it is waited for a count keeps it.
    Ok(get(folio).and_then(AnonVma::lock_read))
}
