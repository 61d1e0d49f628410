// SPDX-License-Identifier: GPL-2.0

#include <linux/mm.h>
#include <linux/mmap_lock.h>
#include <asm/mmu_context.h>

/* The anonymous half of rmap is private to mm/, and so is the swap cache. */
#include "../../mm/internal.h"
#include "../../mm/swap.h"

__rust_helper int rust_helper_mmap_read_lock_killable(struct mm_struct *mm)
{
	return mmap_read_lock_killable(mm);
}

__rust_helper bool
rust_helper_vma_is_anonymous(const struct vm_area_struct *vma)
{
	return vma_is_anonymous(vma);
}

__rust_helper bool
rust_helper_arch_vma_access_permitted(struct vm_area_struct *vma, bool write,
				      bool execute, bool foreign)
{
	return arch_vma_access_permitted(vma, write, execute, foreign);
}

__rust_helper int rust_helper_anon_vma_prepare(struct vm_area_struct *vma)
{
	return anon_vma_prepare(vma);
}

__rust_helper unsigned long rust_helper_pgprot_val(pgprot_t prot)
{
	return pgprot_val(prot);
}

/* Whether flush_tlb_batched_pending() may have something to do. */
__rust_helper bool rust_helper_mm_tlb_flush_batched(struct mm_struct *mm)
{
#ifdef CONFIG_ARCH_WANT_BATCHED_UNMAP_TLB_FLUSH
	return atomic_read(&mm->tlb_flush_batched);
#else
	return false;
#endif
}

__rust_helper void rust_helper_flush_tlb_batched_pending(struct mm_struct *mm)
{
	flush_tlb_batched_pending(mm);
}

__rust_helper pmd_t *rust_helper_mm_find_pmd(struct mm_struct *mm,
					     unsigned long address)
{
	return mm_find_pmd(mm, address);
}

__rust_helper struct folio *rust_helper_swap_cache_get_folio(swp_entry_t entry)
{
	return swap_cache_get_folio(entry);
}

__rust_helper bool
rust_helper_folio_matches_swap_entry(const struct folio *folio,
				     swp_entry_t entry)
{
	return folio_matches_swap_entry(folio, entry);
}

__rust_helper vm_fault_t rust_helper_do_swap_page(struct vm_fault *vmf)
{
	return do_swap_page(vmf);
}

__rust_helper void rust_helper_release_fault_lock(struct vm_fault *vmf)
{
	release_fault_lock(vmf);
}

__rust_helper void rust_helper_vma_assert_anon_vma(struct vm_area_struct *vma)
{
	VM_WARN_ON_ONCE(!vma->anon_vma);
}
