// SPDX-License-Identifier: GPL-2.0

#include <linux/mm.h>
#include <linux/mmap_lock.h>

/* The anonymous half of rmap is private to mm/. */
#include "../../mm/internal.h"

__rust_helper int rust_helper_mmap_read_lock_killable(struct mm_struct *mm)
{
	return mmap_read_lock_killable(mm);
}

__rust_helper bool
rust_helper_vma_is_anonymous(const struct vm_area_struct *vma)
{
	return vma_is_anonymous(vma);
}

__rust_helper int rust_helper_anon_vma_prepare(struct vm_area_struct *vma)
{
	return anon_vma_prepare(vma);
}

__rust_helper unsigned long rust_helper_pgprot_val(pgprot_t prot)
{
	return pgprot_val(prot);
}

__rust_helper void rust_helper_flush_tlb_batched_pending(struct mm_struct *mm)
{
	flush_tlb_batched_pending(mm);
}
