/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
#ifndef _UAPI_LINUX_USERFAULT_H
#define _UAPI_LINUX_USERFAULT_H

#include <linux/types.h>

/*
 * User-space page faults: the constants of remap_anon_pages(2) and of the
 * range protocol on a userfaultfd(2).
 *
 * The advice MADV_USERFAULT and MADV_NOUSERFAULT comes from <asm/mman.h>, the
 * number of remap_anon_pages from <asm/unistd.h>.
 */

/*
 * Flags of remap_anon_pages(dst, src, len, flags). A flag that the kernel does
 * not know is EINVAL, so a program can probe for one.
 */

/* A hole in the source counts as moved: the destination stays a hole there. */
#define RAP_ALLOW_SRC_HOLES	(1UL << 0)

/*
 * Wake the threads that wait on what was moved, so that a handler needs no
 * second call for it. EINVAL on a kernel without the range protocol.
 */
#define RAP_WAKE		(1UL << 1)

/*
 * Handshake of the range protocol: write the version that is wanted, 8 bytes,
 * then read the answer, 8 bytes: the same version, or
 * USERFAULTFD_UNKNOWN_PROTOCOL, after which another one may be written.
 */
#define USERFAULTFD_PROTOCOL		0xaa
#define USERFAULTFD_UNKNOWN_PROTOCOL	((__u64)-1)

/*
 * A write of 16 bytes, [start, end), wakes the threads that wait in the range.
 * With one of these in the low bits of start it changes what the descriptor
 * serves: [start | USERFAULTFD_RANGE_REGISTER, end) registers the range,
 * [start | USERFAULTFD_RANGE_UNREGISTER, end) ends that.
 */
#define USERFAULTFD_RANGE_REGISTER	0x1
#define USERFAULTFD_RANGE_UNREGISTER	0x2

#endif /* _UAPI_LINUX_USERFAULT_H */
