/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _LINUX_USERFAULT_H
#define _LINUX_USERFAULT_H

/*
 * User-space page faults: what C and Rust ask of each other.
 *
 * The functions are in mm/userfault/userfault.rs, which says what each may
 * assume. Why a hook stands where it stands: Documentation/mm/userfault.rst.
 */

#include <linux/mm.h>
#include <linux/userfaultfd_k.h>
#include <uapi/linux/userfault.h>

/*
 * A function of C that Rust calls when it is built in, and that is as private
 * as upstream has it when not.
 */
#ifdef CONFIG_USERFAULT_CORE
#define USERFAULT_VISIBLE
int folio_put_wait_locked(struct folio *folio, int state);
#else
#define USERFAULT_VISIBLE static
#endif

/* Decide what MADV_USERFAULT or MADV_NOUSERFAULT makes of @vma's flags. */
int userfault_madvise(struct vm_area_struct *vma, int advice,
		      vm_flags_t *vm_flags);

/* Handle a touch of what looked like a hole in memory that is ours. */
vm_fault_t userfault_hole(struct vm_fault *vmf);

/* Nothing but its program may fill or make a hole in @vma. */
static inline bool vma_userfault(const struct vm_area_struct *vma)
{
	return vma->vm_flags & VM_USERFAULT;
}

/* A touch of a hole in @vma is ours, not a mainline descriptor's. */
static inline bool userfault_missing(struct vm_area_struct *vma)
{
	return vma_userfault(vma) && !userfaultfd_missing(vma);
}

#endif /* _LINUX_USERFAULT_H */
