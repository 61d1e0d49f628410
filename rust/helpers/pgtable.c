// SPDX-License-Identifier: GPL-2.0

#include <linux/hugetlb.h>
#include <linux/leafops.h>
#include <linux/mm.h>
#include <linux/pgalloc.h>
#include <linux/pgtable.h>
#include <linux/userfaultfd_k.h>
#include <asm/tlbflush.h>

__rust_helper pgd_t *rust_helper_pgd_offset(struct mm_struct *mm,
					    unsigned long address)
{
	return pgd_offset(mm, address);
}

__rust_helper int rust_helper_pgd_none(pgd_t pgd)
{
	return pgd_none(pgd);
}

__rust_helper pgd_t rust_helper_pgdp_get(pgd_t *pgdp)
{
	return pgdp_get(pgdp);
}

__rust_helper p4d_t *rust_helper_p4d_offset(pgd_t *pgd, unsigned long address)
{
	return p4d_offset(pgd, address);
}

__rust_helper p4d_t *rust_helper_p4d_alloc(struct mm_struct *mm, pgd_t *pgd,
					   unsigned long address)
{
	return p4d_alloc(mm, pgd, address);
}

__rust_helper int rust_helper_p4d_none(p4d_t p4d)
{
	return p4d_none(p4d);
}

__rust_helper p4d_t rust_helper_p4dp_get(p4d_t *p4dp)
{
	return p4dp_get(p4dp);
}

__rust_helper pud_t *rust_helper_pud_offset(p4d_t *p4d, unsigned long address)
{
	return pud_offset(p4d, address);
}

__rust_helper pud_t *rust_helper_pud_alloc(struct mm_struct *mm, p4d_t *p4d,
					   unsigned long address)
{
	return pud_alloc(mm, p4d, address);
}

__rust_helper int rust_helper_pud_none(pud_t pud)
{
	return pud_none(pud);
}

__rust_helper pud_t rust_helper_pudp_get(pud_t *pudp)
{
	return pudp_get(pudp);
}

__rust_helper pmd_t *rust_helper_pmd_offset(pud_t *pud, unsigned long address)
{
	return pmd_offset(pud, address);
}

__rust_helper pmd_t *rust_helper_pmd_alloc(struct mm_struct *mm, pud_t *pud,
					   unsigned long address)
{
	return pmd_alloc(mm, pud, address);
}

__rust_helper pmd_t rust_helper_pmdp_get_lockless(pmd_t *pmdp)
{
	return pmdp_get_lockless(pmdp);
}

__rust_helper int rust_helper_pmd_none(pmd_t pmd)
{
	return pmd_none(pmd);
}

__rust_helper int rust_helper_pmd_present(pmd_t pmd)
{
	return pmd_present(pmd);
}

__rust_helper bool rust_helper_pmd_leaf(pmd_t pmd)
{
	return pmd_leaf(pmd);
}

__rust_helper int rust_helper_pmd_same(pmd_t a, pmd_t b)
{
	return pmd_same(a, b);
}

__rust_helper bool rust_helper_is_huge_zero_pmd(pmd_t pmd)
{
	return is_huge_zero_pmd(pmd);
}

__rust_helper spinlock_t *rust_helper_pmd_lock(struct mm_struct *mm, pmd_t *pmd)
{
	return pmd_lock(mm, pmd);
}

__rust_helper struct page *rust_helper_pmd_page(pmd_t pmd)
{
	return pmd_page(pmd);
}

__rust_helper int rust_helper_pmd_bad(pmd_t pmd)
{
	return pmd_bad(pmd);
}

__rust_helper unsigned long rust_helper_PMD_SIZE(void)
{
	return PMD_SIZE;
}

__rust_helper spinlock_t *rust_helper_pmd_lockptr(struct mm_struct *mm,
						  pmd_t *pmd)
{
	return pmd_lockptr(mm, pmd);
}

__rust_helper void rust_helper_pmd_clear(pmd_t *pmd)
{
	pmd_clear(pmd);
}

__rust_helper pgtable_t rust_helper_pmd_pgtable(pmd_t pmd)
{
	return pmd_pgtable(pmd);
}

__rust_helper void rust_helper_mm_dec_nr_ptes(struct mm_struct *mm)
{
	mm_dec_nr_ptes(mm);
}

__rust_helper pte_t *rust_helper___pte_map(pmd_t *pmd, unsigned long address)
{
	return __pte_map(pmd, address);
}

__rust_helper spinlock_t *rust_helper_pte_lockptr(struct mm_struct *mm,
						  pmd_t *pmd)
{
	return pte_lockptr(mm, pmd);
}

#ifdef CONFIG_TRANSPARENT_HUGEPAGE
__rust_helper pmd_t rust_helper_pmdp_huge_get_and_clear(struct mm_struct *mm,
							unsigned long address,
							pmd_t *pmd)
{
	return pmdp_huge_get_and_clear(mm, address, pmd);
}

__rust_helper void rust_helper_set_pmd_at(struct mm_struct *mm,
					  unsigned long address, pmd_t *pmdp,
					  pmd_t pmd)
{
	set_pmd_at(mm, address, pmdp, pmd);
}

__rust_helper pmd_t rust_helper_folio_mk_pmd(const struct folio *folio,
					     pgprot_t prot)
{
	return folio_mk_pmd(folio, prot);
}

__rust_helper pmd_t rust_helper_pmd_mkdirty(pmd_t pmd)
{
	return pmd_mkdirty(pmd);
}

__rust_helper pmd_t rust_helper_pmd_mkyoung(pmd_t pmd)
{
	return pmd_mkyoung(pmd);
}

__rust_helper pmd_t rust_helper_pmd_mksoft_dirty(pmd_t pmd)
{
	return pmd_mksoft_dirty(pmd);
}

__rust_helper pmd_t rust_helper_pmd_mkuffd(pmd_t pmd)
{
	return pmd_mkuffd(pmd);
}

__rust_helper pmd_t rust_helper_pmd_clear_uffd(pmd_t pmd)
{
	return pmd_clear_uffd(pmd);
}

__rust_helper pmd_t rust_helper_pmd_modify(pmd_t pmd, pgprot_t prot)
{
	return pmd_modify(pmd, prot);
}

__rust_helper pmd_t rust_helper_pmd_mkwrite_novma(pmd_t pmd)
{
	return pmd_mkwrite_novma(pmd);
}

/* Inline functions where the architecture has its own. */
#ifdef pmdp_collapse_flush
__rust_helper pmd_t rust_helper_pmdp_collapse_flush(struct vm_area_struct *vma,
						    unsigned long address,
						    pmd_t *pmdp)
{
	return pmdp_collapse_flush(vma, address, pmdp);
}
#endif

#ifdef __HAVE_ARCH_PGTABLE_DEPOSIT
__rust_helper void rust_helper_pgtable_trans_huge_deposit(struct mm_struct *mm,
							  pmd_t *pmdp,
							  pgtable_t pgtable)
{
	pgtable_trans_huge_deposit(mm, pmdp, pgtable);
}
#endif

#ifdef __HAVE_ARCH_PGTABLE_WITHDRAW
__rust_helper pgtable_t
rust_helper_pgtable_trans_huge_withdraw(struct mm_struct *mm, pmd_t *pmdp)
{
	return pgtable_trans_huge_withdraw(mm, pmdp);
}
#endif

#if defined(__BINDGEN__)
void rust_helper_flush_pmd_tlb_range(struct vm_area_struct *vma,
				     unsigned long start, unsigned long end);
#elif !defined(MODULE)
__rust_helper void rust_helper_flush_pmd_tlb_range(struct vm_area_struct *vma,
						   unsigned long start,
						   unsigned long end)
{
	flush_pmd_tlb_range(vma, start, end);
}
#endif
#endif

__rust_helper bool rust_helper_pmd_is_migration_entry(pmd_t pmd)
{
	return pmd_is_migration_entry(pmd);
}

/* Real functions where they have something to do. */
#ifndef CONFIG_TRANSPARENT_HUGEPAGE
__rust_helper void rust_helper___split_huge_pmd(struct vm_area_struct *vma,
						pmd_t *pmd,
						unsigned long address,
						bool freeze)
{
	__split_huge_pmd(vma, pmd, address, freeze);
}
#endif

#ifndef CONFIG_ARCH_HAS_PMD_SOFTLEAVES
__rust_helper void rust_helper_pmd_migration_entry_wait(struct mm_struct *mm,
							pmd_t *pmd)
{
	pmd_migration_entry_wait(mm, pmd);
}
#endif

#ifndef CONFIG_MIGRATION
__rust_helper void rust_helper_migration_entry_wait(struct mm_struct *mm,
						    pmd_t *pmd,
						    unsigned long address)
{
	migration_entry_wait(mm, pmd, address);
}
#endif

__rust_helper pte_t rust_helper_ptep_get(pte_t *ptep)
{
	return ptep_get(ptep);
}

__rust_helper pte_t rust_helper_ptep_get_and_clear(struct mm_struct *mm,
						   unsigned long address,
						   pte_t *ptep)
{
	return ptep_get_and_clear(mm, address, ptep);
}

__rust_helper void rust_helper_set_pte_at(struct mm_struct *mm,
					  unsigned long address, pte_t *ptep,
					  pte_t pte)
{
	set_pte_at(mm, address, ptep, pte);
}

__rust_helper pte_t rust_helper_ptep_get_lockless(pte_t *ptep)
{
	return ptep_get_lockless(ptep);
}

__rust_helper void rust_helper_pte_unmap(pte_t *pte)
{
	pte_unmap(pte);
}

__rust_helper int rust_helper_pte_none(pte_t pte)
{
	return pte_none(pte);
}

__rust_helper int rust_helper_pte_present(pte_t pte)
{
	return pte_present(pte);
}

__rust_helper int rust_helper_pte_same(pte_t a, pte_t b)
{
	return pte_same(a, b);
}

__rust_helper unsigned long rust_helper_pte_pfn(pte_t pte)
{
	return pte_pfn(pte);
}

__rust_helper pte_t rust_helper_pfn_pte(unsigned long pfn, pgprot_t prot)
{
	return pfn_pte(pfn, prot);
}

__rust_helper int rust_helper_is_zero_pfn(unsigned long pfn)
{
	return is_zero_pfn(pfn);
}

__rust_helper unsigned long rust_helper_zero_pfn(unsigned long address)
{
	return zero_pfn(address);
}

__rust_helper int rust_helper_pte_special(pte_t pte)
{
	return pte_special(pte);
}

__rust_helper pte_t rust_helper_pte_advance_pfn(pte_t pte, unsigned long nr)
{
	return pte_advance_pfn(pte, nr);
}

__rust_helper void rust_helper_set_ptes(struct mm_struct *mm,
					unsigned long address, pte_t *ptep,
					pte_t pte, unsigned int nr)
{
	set_ptes(mm, address, ptep, pte, nr);
}

__rust_helper pte_t rust_helper_pte_mkspecial(pte_t pte)
{
	return pte_mkspecial(pte);
}

__rust_helper int rust_helper_pte_dirty(pte_t pte)
{
	return pte_dirty(pte);
}

__rust_helper pte_t rust_helper_pte_mkdirty(pte_t pte)
{
	return pte_mkdirty(pte);
}

__rust_helper pte_t rust_helper_pte_mkyoung(pte_t pte)
{
	return pte_mkyoung(pte);
}

__rust_helper pte_t rust_helper_pte_mkuffd(pte_t pte)
{
	return pte_mkuffd(pte);
}

__rust_helper pte_t rust_helper_pte_mksoft_dirty(pte_t pte)
{
	return pte_mksoft_dirty(pte);
}

__rust_helper bool rust_helper_pgtable_supports_soft_dirty(void)
{
	return pgtable_supports_soft_dirty();
}

__rust_helper pte_t rust_helper_pte_modify(pte_t pte, pgprot_t prot)
{
	return pte_modify(pte, prot);
}

__rust_helper pgprot_t rust_helper_PAGE_NONE(void)
{
	return PAGE_NONE;
}

__rust_helper pte_t rust_helper_pte_mkwrite_novma(pte_t pte)
{
	return pte_mkwrite_novma(pte);
}

__rust_helper softleaf_t rust_helper_softleaf_from_pte(pte_t pte)
{
	return softleaf_from_pte(pte);
}

__rust_helper bool rust_helper_pte_swp_exclusive(pte_t pte)
{
	return pte_swp_exclusive(pte);
}

__rust_helper pte_t rust_helper_pte_swp_mksoft_dirty(pte_t pte)
{
	return pte_swp_mksoft_dirty(pte);
}

__rust_helper pte_t rust_helper_pte_swp_mkuffd(pte_t pte)
{
	return pte_swp_mkuffd(pte);
}

__rust_helper pte_t rust_helper_pte_swp_clear_uffd(pte_t pte)
{
	return pte_swp_clear_uffd(pte);
}

__rust_helper bool rust_helper_softleaf_is_swap_pte(pte_t pte)
{
	return softleaf_is_swap(softleaf_from_pte(pte));
}

__rust_helper bool rust_helper_softleaf_is_migration_pte(pte_t pte)
{
	return softleaf_is_migration(softleaf_from_pte(pte));
}

__rust_helper bool rust_helper_userfaultfd_rwp(struct vm_area_struct *vma)
{
	return userfaultfd_rwp(vma);
}

__rust_helper void rust_helper_lazy_mmu_mode_enable(void)
{
	lazy_mmu_mode_enable();
}

__rust_helper void rust_helper_lazy_mmu_mode_disable(void)
{
	lazy_mmu_mode_disable();
}

__rust_helper void rust_helper_update_mmu_tlb(struct vm_area_struct *vma,
					      unsigned long address,
					      pte_t *ptep)
{
	update_mmu_tlb(vma, address, ptep);
}

__rust_helper void rust_helper_flush_cache_range(struct vm_area_struct *vma,
						 unsigned long start,
						 unsigned long end)
{
	flush_cache_range(vma, start, end);
}

/* x86 hides flush_tlb_range() from modules, and bindgen looks as if for one. */
#if defined(__BINDGEN__)
void rust_helper_flush_tlb_range(struct vm_area_struct *vma,
				 unsigned long start, unsigned long end);
#elif !defined(MODULE)
__rust_helper void rust_helper_flush_tlb_range(struct vm_area_struct *vma,
					       unsigned long start,
					       unsigned long end)
{
	flush_tlb_range(vma, start, end);
}
#endif

__rust_helper unsigned long rust_helper_pgd_addr_end(unsigned long address,
						     unsigned long end)
{
	return pgd_addr_end(address, end);
}

__rust_helper unsigned long rust_helper_p4d_addr_end(unsigned long address,
						     unsigned long end)
{
	return p4d_addr_end(address, end);
}

__rust_helper unsigned long rust_helper_pud_addr_end(unsigned long address,
						     unsigned long end)
{
	return pud_addr_end(address, end);
}

__rust_helper unsigned long rust_helper_pmd_addr_end(unsigned long address,
						     unsigned long end)
{
	return pmd_addr_end(address, end);
}
