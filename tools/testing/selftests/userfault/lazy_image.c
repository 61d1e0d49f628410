// SPDX-License-Identifier: GPL-2.0
/*
 * A memory image that arrives page by page, when it is touched.
 *
 * The image is marked with MADV_USERFAULT. A thread that touches a page which is
 * not there gets SIGBUS; its handler asks the source of the image for the page,
 * receives it into a buffer and moves it into place. Meanwhile another thread
 * fetches everything in the background, as after the migration of a machine.
 *
 * The source is another process at the end of a pipe here. Put a socket, a file
 * or a decompressor in its place: only fetch() knows of it.
 *
 * Documentation/admin-guide/mm/userfault.rst explains this program.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <stdnoreturn.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <asm/mman.h>
#include <asm/unistd.h>
#include <linux/userfault.h>

#define IMAGE_PAGES	256
#define CHUNK_PAGES	8	/* that the background fetches at once */
#define NR_SLOTS	4	/* faults that are served at the same time */
#define NR_THREADS	3	/* that touch the image */
#define MAX_TRIES	10

/* What a request to the source says. */
struct request {
	uint32_t slot, page, count;
};

/* What it takes to fetch: a free one is taken for it. */
struct slot {
	atomic_flag busy;
	int answers;		/* the source sends pages here */
	unsigned char *buffer;	/* CHUNK_PAGES that they are received into */
	unsigned char *spare;	/* one page, for a copy */
};

static struct slot slots[NR_SLOTS];
static int requests;
static unsigned char *image;
static size_t image_size, page_size;

/* For the checks at the end. */
static atomic_uint faults, already_there, copies;

static long remap_anon_pages(void *dst, void *src, size_t len,
			     unsigned long flags)
{
	return syscall(__NR_remap_anon_pages, dst, src, len, flags);
}

/*
 * From here to on_sigbus() everything may run in the handler: it calls only
 * what is async-signal-safe, takes no lock that the thread which was interrupted
 * can hold, and touches no marked memory.
 */

static noreturn void die(const char *why)
{
	(void)!write(STDERR_FILENO, "lazy_image: ", 12);
	(void)!write(STDERR_FILENO, why, strlen(why));
	(void)!write(STDERR_FILENO, "\n", 1);
	_exit(1);
}

/* Moves what can be moved at once; a page that is there already counts. */
static long move(unsigned char *dst, unsigned char *src, size_t len)
{
	long done = remap_anon_pages(dst, src, len, 0);

	/* Somebody else was faster, and that page is in use: keep it. */
	if (done < 0 && errno == EEXIST) {
		atomic_fetch_add(&already_there, 1);
		return page_size;
	}
	return done;
}

/* Puts pages in place that were received at src. */
static void place(unsigned char *dst, unsigned char *src, size_t len,
		  unsigned char *spare)
{
	while (len) {
		/* A short count: the call on the rest tells the reason. */
		long done = move(dst, src, len);
		int tries = 0;

		/*
		 * The page cannot be moved: somebody has a share in it, or has
		 * it pinned. A copy of it can.
		 */
		while (done < 0 && errno == EBUSY && tries++ < MAX_TRIES) {
			memcpy(spare, src, page_size);
			atomic_fetch_add(&copies, 1);
			done = move(dst, spare, page_size);
		}
		if (done < 0)
			die("remap_anon_pages failed");
		dst += done;
		src += done;
		len -= done;
	}
}

/* Has the source send pages into the slot's buffer. */
static void fetch(struct slot *slot, size_t page, size_t count)
{
	struct request request = { slot - slots, page, count };
	size_t len = count * page_size, have = 0;

	/* One write of a pipe is not torn, whoever else writes. */
	if (write(requests, &request, sizeof(request)) != sizeof(request))
		die("cannot ask for a page");
	while (have < len) {
		ssize_t got = read(slot->answers, slot->buffer + have,
				   len - have);

		if (got == 0 || (got < 0 && errno != EINTR))
			die("the source of the image is gone");
		if (got > 0)
			have += got;
	}
}

/* Sees to it that pages of the image are there. */
static void resolve(size_t page, size_t count)
{
	struct slot *slot = slots;

	/* Whoever has a slot blocks all signals, so it comes back. */
	while (atomic_flag_test_and_set(&slot->busy)) {
		if (++slot == slots + NR_SLOTS) {
			slot = slots;
			sched_yield();
		}
	}
	fetch(slot, page, count);
	place(image + page * page_size, slot->buffer, count * page_size,
	      slot->spare);
	atomic_flag_clear(&slot->busy);
}

static void on_sigbus(int sig, siginfo_t *info, void *context)
{
	size_t offset = (uintptr_t)info->si_addr - (uintptr_t)image;
	int saved_errno = errno;

	(void)context;
	if (info->si_code != BUS_ADRERR || offset >= image_size) {
		/* Not ours: the access is made again, and is fatal then. */
		signal(sig, SIG_DFL);
		return;
	}
	atomic_fetch_add(&faults, 1);
	resolve(offset / page_size, 1);
	errno = saved_errno;
}

static void *map(size_t size)
{
	void *mem = mmap(NULL, size, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (mem == MAP_FAILED)
		die("out of memory");
	return mem;
}

/* Whether this kernel has what the program needs. */
static bool supported(void)
{
	/* No length: for the advice that is fine, for the call EINVAL. */
	return !madvise(image, 0, MADV_USERFAULT) &&
	       remap_anon_pages(image, image, 0, 0) < 0 && errno == EINVAL;
}

/* Makes the slots and the image, and has SIGBUS come here. */
static void set_up(void)
{
	struct sigaction action = {
		.sa_sigaction = on_sigbus,
		.sa_flags = SA_SIGINFO,
	};
	size_t size = (CHUNK_PAGES + 1) * page_size;

	for (int i = 0; i < NR_SLOTS; i++) {
		atomic_flag_clear(&slots[i].busy);
		slots[i].buffer = map(size);
		slots[i].spare = slots[i].buffer + CHUNK_PAGES * page_size;
		/* A child that has a share in a page would keep it from moving. */
		if (madvise(slots[i].buffer, size, MADV_DONTFORK))
			die("MADV_DONTFORK");
		/* A huge page would be split; EINVAL: there are none here. */
		madvise(slots[i].buffer, size, MADV_NOHUGEPAGE);
	}

	image_size = IMAGE_PAGES * page_size;
	image = map(image_size);
	if (!supported())
		die("this kernel has no MADV_USERFAULT or remap_anon_pages");
	if (madvise(image, image_size, MADV_USERFAULT))
		die("MADV_USERFAULT");

	/* No other handler may run, and touch the image, while one fetches. */
	sigfillset(&action.sa_mask);
	if (sigaction(SIGBUS, &action, NULL))
		die("sigaction");
}

/* A system call would fail with EFAULT at a hole: to be called before. */
static void touch(const unsigned char *mem, size_t len)
{
	/* Atomic, or the compiler would drop what nobody looks at. */
	for (size_t at = 0; at < len; at += page_size)
		atomic_load((const atomic_uchar *)&mem[at]);
	atomic_load((const atomic_uchar *)&mem[len - 1]);
}

/*
 * The source, and what uses the image.
 */

static unsigned char content(size_t at)
{
	return (at * 2654435761u) >> 24;
}

/* Sends the pages that it is asked for until nobody can ask any more. */
static noreturn void serve(int asked, const int answers[])
{
	unsigned char *page = map(page_size);
	struct request request;

	while (read(asked, &request, sizeof(request)) == sizeof(request)) {
		while (request.count--) {
			size_t start = request.page++ * page_size;

			for (size_t i = 0; i < page_size; i++)
				page[i] = content(start + i);
			if (write(answers[request.slot], page, page_size) !=
			    (ssize_t)page_size)
				die("cannot send a page");
		}
	}
	_exit(0);
}

static pid_t start_source(void)
{
	int ask[2], answer[2], answers[NR_SLOTS];
	pid_t child;

	if (pipe(ask))
		die("pipe");
	for (int i = 0; i < NR_SLOTS; i++) {
		if (pipe(answer))
			die("pipe");
		slots[i].answers = answer[0];
		answers[i] = answer[1];
	}
	child = fork();
	if (child < 0)
		die("fork");
	if (!child) {
		close(ask[1]);
		serve(ask[0], answers);
	}
	close(ask[0]);
	for (int i = 0; i < NR_SLOTS; i++)
		close(answers[i]);
	requests = ask[1];
	return child;
}

/* Reads the image in an order of its own. */
static void *use(void *argument)
{
	size_t stride = 2 * (uintptr_t)argument + 1;

	for (size_t i = 0; i < IMAGE_PAGES; i++) {
		size_t page = i * stride % IMAGE_PAGES;

		for (size_t at = page * page_size;
		     at < (page + 1) * page_size; at++)
			if (image[at] != content(at))
				die("a byte of the image is wrong");
	}
	return NULL;
}

/* Fetches everything, whether it was touched or not. */
static void *fetch_rest(void *argument)
{
	(void)argument;
	for (size_t page = 0; page < IMAGE_PAGES; page += CHUNK_PAGES)
		resolve(page, CHUNK_PAGES);
	return NULL;
}

static void start(pthread_t *thread, void *(*what)(void *), uintptr_t argument)
{
	if (pthread_create(thread, NULL, what, (void *)argument))
		die("pthread_create");
}

int main(void)
{
	pthread_t threads[NR_THREADS + 1];
	unsigned char *shared;
	sigset_t all, old;
	int sink[2], status;
	pid_t source;

	page_size = sysconf(_SC_PAGESIZE);

	/* The source is a child: it has a share in this page. */
	shared = map(page_size);
	for (size_t i = 0; i < page_size; i++)
		shared[i] = content(i);
	source = start_source();
	set_up();

	/* The kernel fetches nothing. */
	if (pipe(sink))
		die("pipe");
	if (write(sink[1], image + page_size, 1) != -1 || errno != EFAULT)
		die("a system call at a hole did not give EFAULT");
	touch(image + page_size, 1);
	if (write(sink[1], image + page_size, 1) != 1 || faults != 1)
		die("a system call at a page that was fetched failed");

	/* What cannot be moved is copied. */
	place(image, shared, page_size, slots[0].spare);
	if (!copies)
		die("a page was moved that a child has a share in");

	/* All at once; fetch_rest() has a slot, so it takes no signals. */
	for (uintptr_t i = 0; i < NR_THREADS; i++)
		start(&threads[i], use, i);
	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, &old);
	start(&threads[NR_THREADS], fetch_rest, 0);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	for (int i = 0; i <= NR_THREADS; i++)
		pthread_join(threads[i], NULL);

	/* It is all there now, and stays. */
	status = faults;
	use(NULL);
	if ((int)faults != status)
		die("a page that had arrived was missing again");
	/* Two were there before fetch_rest() came to them. */
	if (already_there < 2)
		die("a page was fetched over");

	close(requests);
	if (waitpid(source, &status, 0) != source || status)
		die("the source failed");
	printf("%d pages, %u faults, %u pages came twice, %u copied\n",
	       IMAGE_PAGES, faults, already_there, copies);
	puts("lazy_image: ok");
	return 0;
}
