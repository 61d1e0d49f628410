/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _LINUX_USERFAULT_H
#define _LINUX_USERFAULT_H

/*
 * User-space page faults: what C and Rust ask of each other.
 *
 * The functions are in mm/userfault/userfault.rs, which says what each may
 * assume. Why a hook stands where it stands: Documentation/mm/userfault.rst.
 */

#include <linux/eventpoll.h>
#include <linux/fcntl.h>
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

/*
 * Getting hold of pages. mm/gup.c checks that the flags, which are private to
 * mm/, are what they are there.
 */
#ifdef CONFIG_GUP_LOCKED_RUST
#define GUP_VISIBLE
enum {
	GUP_TRIED = 1 << 17,
	GUP_FAST_ONLY = 1 << 20,
	/* How many pages are got at most with interrupts off. */
	GUP_FAST_WINDOW = 512,
};

long __get_user_pages(struct mm_struct *mm, unsigned long start,
		      unsigned long nr_pages, unsigned int gup_flags,
		      struct page **pages, int *locked);
int gup_fast_fallback(unsigned long start, unsigned long nr_pages,
		      unsigned int gup_flags, struct page **pages);

/**
 * gup_wait_for_pages() - Get hold of pages for which a page fault has given up
 * the mmap lock.
 * @mm: the address space, in use
 * @start: the address of the first page
 * @nr_pages: how many
 * @flags: %FOLL_*
 * @pages: where to put them; NULL to fault them in only
 * @got: how many are there already
 *
 * Context: Sleeps. Takes the mmap lock, and gives it up.
 * Return: how many pages there are, from the first on; a negative errno where
 * the first cannot be got. 0 only under %FOLL_NOWAIT.
 */
long gup_wait_for_pages(struct mm_struct *mm, unsigned long start,
			unsigned long nr_pages, unsigned int flags,
			struct page **pages, long got);

/**
 * gup_fast_windows() - Get hold of many pages without a lock.
 * @start: the address of the first page, checked
 * @nr_pages: how many
 * @flags: %FOLL_*
 * @pages: where to put them
 *
 * Context: Interrupts are on between %GUP_FAST_WINDOW pages, if they are when
 * it is called. Sleeps, unless @flags has %FOLL_FAST_ONLY.
 * Return: how many pages there are, from the first on.
 */
unsigned long gup_fast_windows(unsigned long start, unsigned long nr_pages,
			       unsigned int flags, struct page **pages);

/* What gup_fast() does, but never with interrupts off for long. */
#define gup_fast_bounded(start, end, flags, pages)			\
({									\
	unsigned long __start = (start), __end = (end);			\
	unsigned int __flags = (flags);					\
	struct page **__pages = (pages);				\
	unsigned long __nr = (__end - __start) >> PAGE_SHIFT;		\
									\
	__nr > GUP_FAST_WINDOW ?					\
		gup_fast_windows(__start, __nr, __flags, __pages) :	\
		gup_fast(__start, __end, __flags, __pages);		\
})
#else
#define GUP_VISIBLE static
#define gup_fast_bounded gup_fast
#endif

/* What Rust needs of the reverse mapping. */
#ifdef CONFIG_ANON_RMAP_RUST
struct anon_vma *folio_get_anon_vma(const struct folio *folio);
void __put_anon_vma(struct anon_vma *anon_vma);
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
 * lock of the pte table or of the pmd. Does not sleep, but where a descriptor
 * serves the vma by ranges: userfaultfd_range_fault() is called then, and may
 * have given up the lock of the vma or of the mmap.
 * Return: %VM_FAULT_SIGBUS for a hole; 0 where it is none any more, so that the
 * access is made again; or what userfaultfd_range_fault() returns.
 */
vm_fault_t userfault_hole(struct vm_fault *vmf);

/*
 * The range protocol of a userfaultfd. The functions are in
 * fs/userfaultfd/userfaultfd.rs.
 */
struct iov_iter;
struct kiocb;
struct seq_file;

#ifdef CONFIG_USERFAULTFD_RANGE
#define USERFAULTFD_VISIBLE
/* What a new descriptor is opened for: its first operation is yet to come. */
#define USERFAULTFD_ACCESS O_RDWR

void userfaultfd_set_ctx(struct vm_area_struct *vma,
			 struct userfaultfd_ctx *ctx, vm_flags_t vm_flags);
void userfaultfd_ctx_put(struct userfaultfd_ctx *ctx);
struct vm_area_struct *
vma_modify_flags_uffd(struct vma_iterator *vmi, struct vm_area_struct *prev,
		      struct vm_area_struct *vma, unsigned long start,
		      unsigned long end, const vma_flags_t *vma_flags,
		      struct vm_userfaultfd_ctx new_ctx, bool give_up_on_oom);

/**
 * vma_userfaultfd_range() - Whether a descriptor serves holes by ranges.
 * @vma: the vma, locked
 *
 * Return: true if so, whether or not holes are for the program to fill
 * (vma_userfault()); never without CONFIG_USERFAULTFD_RANGE.
 */
static inline bool vma_userfaultfd_range(const struct vm_area_struct *vma)
{
	return vma->vm_flags & VM_UFFD_RANGE;
}

/**
 * userfaultfd_range_fault() - Have a descriptor serve a touch of a hole.
 * @vmf: the fault, in a vma for which vma_userfaultfd_range() is true
 *
 * Context: as userfault_hole(). Sleeps, with nothing held, until the thread is
 * woken, if the fault allows that.
 * Return: %VM_FAULT_RETRY with the vma or mmap lock given up, but for a fault
 * that may not wait (%FAULT_FLAG_RETRY_NOWAIT); %VM_FAULT_SIGBUS for a fault
 * that is refused; 0 where the entry is no hole any more.
 */
vm_fault_t userfaultfd_range_fault(struct vm_fault *vmf);

/**
 * userfaultfd_range_wake_vma() - Wake the threads that wait in a range.
 * @vma: a vma for which vma_userfaultfd_range() is true, locked
 * @start: the first address
 * @end: the address behind the last
 *
 * Context: Takes a spinlock. Does not sleep.
 */
void userfaultfd_range_wake_vma(struct vm_area_struct *vma,
				unsigned long start, unsigned long end);

/**
 * userfaultfd_range_wake() - The same for a vma that may not be registered.
 * @vma: the vma, locked for writing, so that who is woken cannot come back
 *	 before that is over
 * @start: the first address
 * @end: the address behind the last
 */
static inline void userfaultfd_range_wake(struct vm_area_struct *vma,
					  unsigned long start,
					  unsigned long end)
{
	if (vma_userfaultfd_range(vma))
		userfaultfd_range_wake_vma(vma, start, end);
}

/**
 * userfaultfd_range_exit_vma() - Tell who reads that there will be no faults.
 * @vma: a vma for which vma_userfaultfd_range() is true, of an address space
 *	 that has no users any more
 *
 * Context: The mmap lock held for writing. Does not sleep.
 */
void userfaultfd_range_exit_vma(struct vm_area_struct *vma);

/**
 * userfaultfd_range_exit() - The same for a vma that may not be registered.
 * @vma: the vma
 */
static inline void userfaultfd_range_exit(struct vm_area_struct *vma)
{
	if (vma_userfaultfd_range(vma))
		userfaultfd_range_exit_vma(vma);
}

/**
 * userfaultfd_range_dontunmap() - End the registration of what mremap() left
 * behind.
 * @mm: the address space, its mmap lock held for writing
 * @start: the first address
 * @len: how many bytes
 *
 * It went with the pages. Wakes who waits there. May sleep.
 */
void userfaultfd_range_dontunmap(struct mm_struct *mm, unsigned long start,
				 unsigned long len);

/**
 * userfaultfd_range_release() - Wake all who wait, since nobody is left to.
 * @ctx: the context of a descriptor that is closed, in no vma any more but
 *	 those of an address space that has no users
 *
 * May sleep.
 */
void userfaultfd_range_release(struct userfaultfd_ctx *ctx);

/**
 * userfaultfd_range_free() - Free what the range protocol keeps.
 * @ctx: a context to which nobody holds a reference
 */
void userfaultfd_range_free(struct userfaultfd_ctx *ctx);

/**
 * userfaultfd_range_poll() - Say what a descriptor that does not speak
 * mainline's dialect is ready for.
 * @ctx: its context, whose fd_wqh is polled already
 *
 * Return: %EPOLLIN, %EPOLLOUT, %EPOLLHUP where the address space is gone.
 */
__poll_t userfaultfd_range_poll(struct userfaultfd_ctx *ctx);

/**
 * userfaultfd_range_read() - Read from a descriptor that does not speak
 * mainline's dialect.
 * @iocb: the call
 * @to: where to
 *
 * May sleep.
 * Return: the bytes read, or a negative errno.
 */
ssize_t userfaultfd_range_read(struct kiocb *iocb, struct iov_iter *to);

/**
 * userfaultfd_range_write() - Write to a descriptor.
 * @iocb: the call
 * @from: where from
 *
 * May sleep.
 * Return: the bytes written, or a negative errno.
 */
ssize_t userfaultfd_range_write(struct kiocb *iocb, struct iov_iter *from);

/**
 * userfaultfd_range_api() - See to it that who is given a descriptor of
 * mainline's dialect may need to read only.
 * @file: the descriptor
 * @ret: what UFFDIO_API returns
 *
 * Return: @ret.
 */
int userfaultfd_range_api(struct file *file, int ret);

/**
 * userfaultfd_range_show() - Show a descriptor in fdinfo.
 * @m: where to
 * @ctx: its context
 *
 * Return: false, and nothing shown, where it does not speak the range protocol.
 */
bool userfaultfd_range_show(struct seq_file *m, struct userfaultfd_ctx *ctx);
#else
#define USERFAULTFD_VISIBLE static
#define USERFAULTFD_ACCESS O_RDONLY

static inline bool vma_userfaultfd_range(const struct vm_area_struct *vma)
{
	return false;
}

static inline void userfaultfd_range_wake(struct vm_area_struct *vma,
					  unsigned long start,
					  unsigned long end) {}
static inline void userfaultfd_range_exit(struct vm_area_struct *vma) {}
static inline void userfaultfd_range_dontunmap(struct mm_struct *mm,
					       unsigned long start,
					       unsigned long len) {}
static inline void userfaultfd_range_release(struct userfaultfd_ctx *ctx) {}
static inline void userfaultfd_range_free(struct userfaultfd_ctx *ctx) {}

static inline __poll_t userfaultfd_range_poll(struct userfaultfd_ctx *ctx)
{
	return EPOLLERR;
}

static inline ssize_t userfaultfd_range_read(struct kiocb *iocb,
					     struct iov_iter *to)
{
	return -EINVAL;
}

static inline int userfaultfd_range_api(struct file *file, int ret)
{
	return ret;
}

static inline bool userfaultfd_range_show(struct seq_file *m,
					  struct userfaultfd_ctx *ctx)
{
	return false;
}
#endif

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
