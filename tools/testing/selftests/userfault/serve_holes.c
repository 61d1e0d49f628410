// SPDX-License-Identifier: GPL-2.0
/*
 * Memory that one thread fills when others touch it.
 *
 * The memory is marked with MADV_USERFAULT and registered with a userfaultfd
 * that speaks the range protocol. A thread that touches a page which is not
 * there sleeps, in a system call too. A thread that polls the descriptor reads
 * the address, makes the page in a buffer, moves it into place, and by that
 * wakes the one that sleeps.
 *
 * Put a network, a disk or a decompressor in the place of make_page().
 *
 * Documentation/admin-guide/mm/userfault.rst explains this program.
 */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <asm/mman.h>
#include <asm/unistd.h>
#include <linux/userfault.h>
#include <linux/userfaultfd.h>

#define NR_PAGES	256
#define NR_THREADS	3	/* that touch the memory */
#define MAX_TRIES	10

static unsigned char *memory;
static size_t memory_size, page_size;
static int descriptor;
static int quit[2];		/* closed when there is nothing left to serve */

/* For the checks at the end. */
static unsigned int served;

static unsigned char content(size_t at)
{
	return (at * 2654435761u) >> 24;
}

static void make_page(unsigned char *page, size_t start)
{
	for (size_t i = 0; i < page_size; i++)
		page[i] = content(start + i);
}

static void *map(size_t size)
{
	void *mem = mmap(NULL, size, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (mem == MAP_FAILED)
		err(1, "mmap");
	return mem;
}

/* Opens the descriptor; says whether it may have the kernel wait. */
static bool open_descriptor(void)
{
	const int flags = O_CLOEXEC | O_NONBLOCK;
	uint64_t version = USERFAULTFD_PROTOCOL;
	bool kernel_waits = true;

	descriptor = syscall(__NR_userfaultfd, flags);
	if (descriptor < 0 && errno == EPERM) {
		kernel_waits = false;
		descriptor = syscall(__NR_userfaultfd,
				     flags | UFFD_USER_MODE_ONLY);
	}
	if (descriptor < 0)
		err(1, "userfaultfd");

	/* EBADF: this kernel has no dialect but that of the ioctls. */
	if (write(descriptor, &version, sizeof(version)) < 0 ||
	    read(descriptor, &version, sizeof(version)) < 0)
		err(1, "no handshake with the kernel");
	if (version != USERFAULTFD_PROTOCOL)
		errx(1, "the kernel speaks another version");
	return kernel_waits;
}

/* What is done with a range: USERFAULTFD_RANGE_*, or 0 to wake who waits. */
static int command(unsigned int what, const unsigned char *start, size_t len)
{
	uint64_t at = (uintptr_t)start;
	uint64_t range[2] = { at | what, at + len };

	return write(descriptor, range, sizeof(range)) < 0 ? -1 : 0;
}

/* Puts a page in place, and sees to it that nobody waits for it any more. */
static void resolve(unsigned char *page, unsigned char *buffers)
{
	for (int i = 0; i < MAX_TRIES; i++) {
		/* Each move leaves a hole here, which is filled again. */
		unsigned char *buffer = buffers + (i & 1) * page_size;

		make_page(buffer, page - memory);
		if (syscall(__NR_remap_anon_pages, page, buffer, page_size,
			    RAP_WAKE) > 0) {
			served++;
			return;
		}
		if (errno == EEXIST) {
			/*
			 * It is there, but whoever put it there may have woken
			 * nobody. ENOENT: nobody waits.
			 */
			if (command(0, page, page_size) && errno != ENOENT)
				err(1, "cannot wake");
			return;
		}
		/* Somebody has hold of the buffer's page: take another. */
		if (errno != EBUSY)
			break;
	}
	err(1, "remap_anon_pages");
}

/* The thread that serves. It must not touch a hole itself. */
static void *serve(void *argument)
{
	struct pollfd fds[2] = {
		{ .fd = descriptor, .events = POLLIN },
		{ .fd = quit[0], .events = POLLIN },
	};
	unsigned char *buffers = map(2 * page_size);
	uint64_t address;

	(void)argument;
	/* A child that has a share in a page would keep it from moving. */
	if (madvise(buffers, 2 * page_size, MADV_DONTFORK))
		err(1, "MADV_DONTFORK");
	for (;;) {
		if (poll(fds, 2, -1) < 0 && errno != EINTR)
			err(1, "poll");
		if (fds[1].revents)
			return NULL;
		if (read(descriptor, &address, sizeof(address)) < 0) {
			/* Another has read it, or its thread waits no more. */
			if (errno == EAGAIN || errno == EINTR)
				continue;
			err(1, "cannot read a fault");
		}
		resolve((unsigned char *)(uintptr_t)address, buffers);
	}
}

/* A thread that knows nothing of all this: reads in an order of its own. */
static void *use(void *argument)
{
	size_t stride = 2 * (uintptr_t)argument + 1;

	for (size_t i = 0; i < NR_PAGES; i++) {
		size_t start = i * stride % NR_PAGES * page_size;

		for (size_t at = start; at < start + page_size; at++)
			if (memory[at] != content(at))
				errx(1, "a byte is wrong");
	}
	return NULL;
}

static void start(pthread_t *thread, void *(*what)(void *), uintptr_t argument)
{
	errno = pthread_create(thread, NULL, what, (void *)argument);
	if (errno)
		err(1, "pthread_create");
}

int main(void)
{
	pthread_t server, threads[NR_THREADS];
	bool kernel_waits;
	int sink[2];

	page_size = sysconf(_SC_PAGESIZE);
	memory_size = NR_PAGES * page_size;
	memory = map(memory_size);

	/* Registered first: no touch is ever SIGBUS. */
	kernel_waits = open_descriptor();
	if (command(USERFAULTFD_RANGE_REGISTER, memory, memory_size))
		err(1, "cannot register the memory");
	if (madvise(memory, memory_size, MADV_USERFAULT))
		err(1, "MADV_USERFAULT");

	if (pipe(quit) || pipe(sink))
		err(1, "pipe");
	start(&server, serve, 0);

	/* A touch by the kernel waits too, if we may have it wait. */
	if ((write(sink[1], memory, 1) == 1) != kernel_waits)
		errx(1, "a system call at a hole: unexpected result");

	for (uintptr_t i = 0; i < NR_THREADS; i++)
		start(&threads[i], use, i);
	for (int i = 0; i < NR_THREADS; i++)
		pthread_join(threads[i], NULL);
	close(quit[1]);
	pthread_join(server, NULL);

	/* It is all there now, and stays. */
	if (command(USERFAULTFD_RANGE_UNREGISTER, memory, memory_size))
		err(1, "cannot unregister the memory");
	close(descriptor);
	use(NULL);
	if (served != NR_PAGES)
		errx(1, "%u pages were served", served);
	puts("serve_holes: ok");
	return 0;
}
