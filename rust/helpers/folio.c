// SPDX-License-Identifier: GPL-2.0

#include <linux/huge_mm.h>
#include <linux/mm.h>
#include <linux/pagemap.h>

__rust_helper struct folio *rust_helper_page_folio(struct page *page)
{
	return page_folio(page);
}

__rust_helper struct page *rust_helper_pfn_to_page(unsigned long pfn)
{
	return pfn_to_page(pfn);
}

__rust_helper unsigned long rust_helper_folio_pfn(const struct folio *folio)
{
	return folio_pfn(folio);
}

__rust_helper unsigned long
rust_helper_folio_nr_pages(const struct folio *folio)
{
	return folio_nr_pages(folio);
}

__rust_helper int rust_helper_folio_mapcount(const struct folio *folio)
{
	return folio_mapcount(folio);
}

__rust_helper void rust_helper_folio_get(struct folio *folio)
{
	folio_get(folio);
}

__rust_helper void rust_helper_folio_put(struct folio *folio)
{
	folio_put(folio);
}

__rust_helper bool rust_helper_folio_trylock(struct folio *folio)
{
	return folio_trylock(folio);
}

__rust_helper bool rust_helper_folio_test_large(struct folio *folio)
{
	return folio_test_large(folio);
}

__rust_helper bool rust_helper_folio_test_anon(const struct folio *folio)
{
	return folio_test_anon(folio);
}

__rust_helper bool rust_helper_folio_maybe_dma_pinned(struct folio *folio)
{
	return folio_maybe_dma_pinned(folio);
}

__rust_helper int rust_helper_split_folio(struct folio *folio)
{
	return split_folio(folio);
}

__rust_helper int rust_helper_PageCompound(const struct page *page)
{
	return PageCompound(page);
}

__rust_helper int rust_helper_PageAnonExclusive(const struct page *page)
{
	return PageAnonExclusive(page);
}

__rust_helper unsigned long
rust_helper_linear_anon_page_index(const struct vm_area_struct *vma,
				   const unsigned long address)
{
	return linear_anon_page_index(vma, address);
}

__rust_helper bool rust_helper_folio_mapped(const struct folio *folio)
{
	return folio_mapped(folio);
}

__rust_helper void rust_helper_folio_assert_locked(struct folio *folio)
{
	VM_WARN_ON_FOLIO(!folio_test_locked(folio), folio);
}
