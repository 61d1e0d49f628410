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

/**
 * define RAP_ALLOW_SRC_HOLES - a hole in the source counts as moved
 *
 * The destination stays a hole there. It must be one all the same.
 */
#define RAP_ALLOW_SRC_HOLES	(1UL << 0)

/**
 * define RAP_WAKE - wake the threads that wait on what was moved
 *
 * So that a handler needs no second call for it. Wakes where a descriptor serves
 * the destination by the range protocol, and does nothing elsewhere. EINVAL on a
 * kernel without that protocol.
 */
#define RAP_WAKE		(1UL << 1)

/*
 * The range protocol, a second dialect of userfaultfd(2): a descriptor to which
 * a version is written before UFFDIO_API is said speaks it for good. On a kernel
 * without it that write is EBADF.
 *
 * All numbers are __u64. After the handshake, a read gives the address of a page
 * that a thread has touched and waits for, 8 bytes, and a write of 16 bytes,
 * start and end, says what to do with a range.
 */

/**
 * define USERFAULTFD_PROTOCOL - the version of the range protocol
 *
 * A handshake comes first: write the version that is wanted, 8 bytes, then read
 * the answer, 8 bytes: the same version, or %USERFAULTFD_UNKNOWN_PROTOCOL.
 */
#define USERFAULTFD_PROTOCOL		0xaa

/**
 * define USERFAULTFD_UNKNOWN_PROTOCOL - the answer to a version not known
 *
 * Another one may be written after it.
 */
#define USERFAULTFD_UNKNOWN_PROTOCOL	((__u64)-1)

/**
 * define USERFAULTFD_RANGE_REGISTER - in the low bits of start: register
 *
 * A write of 16 bytes, [start, end), wakes the threads that wait in the range.
 * [start | USERFAULTFD_RANGE_REGISTER, end) has the descriptor serve the range,
 * where it is marked with MADV_USERFAULT.
 */
#define USERFAULTFD_RANGE_REGISTER	0x1

/**
 * define USERFAULTFD_RANGE_UNREGISTER - in the low bits of start: unregister
 *
 * [start | USERFAULTFD_RANGE_UNREGISTER, end) ends what
 * %USERFAULTFD_RANGE_REGISTER began, and wakes the threads that wait in the
 * range.
 */
#define USERFAULTFD_RANGE_UNREGISTER	0x2

#endif /* _UAPI_LINUX_USERFAULT_H */
