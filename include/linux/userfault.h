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
struct vm_area_struct *vma_start_read(struct mm_struct *mm,
				      struct vm_area_struct *vma);
#else
#define USERFAULT_VISIBLE static
#endif

/**
 * userfault_madvise() - Decide what an advice makes of a vma's flags.
 * @vma: the vma that the advice is for
 * @advice: %MADV_USERFAULT or %MADV_NOUSERFAULT
 * @vm_flags: the vma's flags as madvise(2) has them; changed on success only
 *
 * Context: madvise(2), with the mmap lock held for writing. Does not sleep.
 * Return: 0, or -EINVAL where @vma is not private anonymous memory, or is
 * droppable.
 */
int userfault_madvise(struct vm_area_struct *vma, int advice,
		      vm_flags_t *vm_flags);

/**
 * userfault_hole() - Handle a touch of what looked like a hole.
 * @vmf: the fault, in a vma for which userfault_missing() is true
 *
 * Reads the entry again under the lock that protects it. Allocates nothing.
 *
 * Context: A page fault, before anything is allocated for it: the vma or the
 * mmap locked, the pmd looked up, no page table mapped or locked. Takes the
 * lock of the pte table or of the pmd. Does not sleep.
 * Return: %VM_FAULT_SIGBUS for a hole; 0 where it is none any more, so that the
 * access is made again.
 */
vm_fault_t userfault_hole(struct vm_fault *vmf);

/**
 * vma_userfault() - Whether nothing but its program may fill or make a hole.
 * @vma: the vma, locked in any way, or only glanced at
 *
 * Return: true for a vma with %VM_USERFAULT; never without CONFIG_USERFAULT.
 */
static inline bool vma_userfault(const struct vm_area_struct *vma)
{
	return vma->vm_flags & VM_USERFAULT;
}

/**
 * userfault_missing() - Whether a touch of a hole is for userfault_hole().
 * @vma: the vma, locked
 *
 * A descriptor of mainline's userfaultfd that is registered for missing pages
 * comes first.
 *
 * Return: true if so; never without CONFIG_USERFAULT.
 */
static inline bool userfault_missing(struct vm_area_struct *vma)
{
	return vma_userfault(vma) && !userfaultfd_missing(vma);
}

#endif /* _LINUX_USERFAULT_H */
