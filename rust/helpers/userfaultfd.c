// SPDX-License-Identifier: GPL-2.0

#include <linux/fs.h>
#include <linux/mmap_lock.h>
#include <linux/oom.h>
#include <linux/poll.h>
#include <linux/userfault.h>

#ifdef CONFIG_USERFAULTFD_RANGE
__rust_helper int rust_helper_mmap_write_lock_killable(struct mm_struct *mm)
{
	return mmap_write_lock_killable(mm);
}

__rust_helper void rust_helper_mmap_write_unlock(struct mm_struct *mm)
{
	mmap_write_unlock(mm);
}

__rust_helper int rust_helper_mm_users(const struct mm_struct *mm)
{
	return atomic_read(&mm->mm_users);
}

__rust_helper vm_fault_t
rust_helper_check_stable_address_space(struct mm_struct *mm)
{
	return check_stable_address_space(mm);
}

__rust_helper void rust_helper_vma_start_write(struct vm_area_struct *vma)
{
	vma_start_write(vma);
}

__rust_helper void rust_helper_vma_iter_init(struct vma_iterator *vmi,
					     struct mm_struct *mm,
					     unsigned long addr)
{
	vma_iter_init(vmi, mm, addr);
}

__rust_helper struct vm_area_struct *
rust_helper_vma_prev(struct vma_iterator *vmi)
{
	return vma_prev(vmi);
}

__rust_helper struct vm_area_struct *
rust_helper_vma_find(struct vma_iterator *vmi, unsigned long max)
{
	return vma_find(vmi, max);
}

/* vma_modify_flags_uffd() with flags as a number. */
__rust_helper struct vm_area_struct *
rust_helper_vma_modify_uffd(struct vma_iterator *vmi,
			    struct vm_area_struct *prev,
			    struct vm_area_struct *vma, unsigned long start,
			    unsigned long end, vm_flags_t flags,
			    struct userfaultfd_ctx *ctx, bool give_up_on_oom)
{
	vma_flags_t vma_flags = legacy_to_vma_flags(flags);

	return vma_modify_flags_uffd(vmi, prev, vma, start, end, &vma_flags,
				     (struct vm_userfaultfd_ctx){ ctx },
				     give_up_on_oom);
}

__rust_helper void rust_helper_wake_up_poll(struct wait_queue_head *wqh,
					    __poll_t events)
{
	wake_up_poll(wqh, events);
}

__rust_helper void rust_helper_wake_up_all_poll(struct wait_queue_head *wqh,
						__poll_t events)
{
	__wake_up(wqh, TASK_NORMAL, 0, poll_to_key(events));
}

__rust_helper void rust_helper_mmap_write_lock(struct mm_struct *mm)
{
	mmap_write_lock(mm);
}

__rust_helper void rust_helper_i_readcount_inc(struct inode *inode)
{
	i_readcount_inc(inode);
}

__rust_helper bool rust_helper_wq_has_sleeper(struct wait_queue_head *wqh)
{
	return wq_has_sleeper(wqh);
}
#endif
