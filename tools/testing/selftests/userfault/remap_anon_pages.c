// SPDX-License-Identifier: GPL-2.0
/*
 * Fill memory that is marked with MADV_USERFAULT by remap_anon_pages().
 *
 * A source area is written with a pattern that is different in every word of
 * every page, and its pages are moved to a destination area:
 *
 *  - step by step, from a SIGBUS handler, as the destination is touched for the
 *    first time, by reads and by writes; or
 *  - all in one call, before the destination is touched.
 *
 * Afterwards each page must be whole at the destination and gone from the
 * source. This is done with small pages and with whatever huge pages the
 * system has.
 */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdatomic.h>
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

#ifndef MADV_USERFAULT
#error "MADV_USERFAULT is missing: build against the installed headers"
#endif
#ifndef __NR_remap_anon_pages
#error "__NR_remap_anon_pages is missing: build against the installed headers"
#endif
#ifndef RAP_ALLOW_SRC_HOLES
#error "RAP_ALLOW_SRC_HOLES is missing: build against the installed headers"
#endif

#define ARRAY_SIZE(a)		(sizeof(a) / sizeof((a)[0]))
#define fail(...)		errx(1, __VA_ARGS__)

#define DEFAULT_MIB		1024UL
#define PMD_SIZE_FILE		"/sys/kernel/mm/transparent_hugepage/hpage_pmd_size"

/* A variant that takes longer than this hangs, even on a slow emulator. */
#define VARIANT_SECONDS		900

/* Whoever watches is to see that a slow machine goes on. */
#define PROGRESS_MIB		128UL

/* /proc/self/pagemap */
#define PM_PRESENT		(UINT64_C(1) << 63)
#define PM_SWAP			(UINT64_C(1) << 62)

struct area {
	unsigned char *mem;
	size_t size;
	/* What mmap() returned, before it was aligned. */
	void *map;
	size_t map_size;
};

struct variant {
	const char *name;
	/* 0: move everything at once. */
	size_t step;
	int thp_advice;
};

/* What the SIGBUS handler needs to know. */
static struct {
	struct area src, dst;
	size_t step;
	atomic_uintptr_t touched;
	atomic_ulong faults;
} now;

static size_t page_size;

static long remap_anon_pages(void *dst, void *src, size_t len,
			     unsigned long flags)
{
	return syscall(__NR_remap_anon_pages, dst, src, len, flags);
}

/*
 * Only our own accesses to the areas raise SIGBUS, never one of libc's: so this
 * may print.
 */
static void on_sigbus(int sig, siginfo_t *info, void *context)
{
	int saved_errno = errno;
	uintptr_t addr = (uintptr_t)info->si_addr;
	uintptr_t start = (uintptr_t)now.dst.mem;
	size_t offset;
	long ret;

	(void)sig;
	(void)context;

	if (info->si_code != BUS_ADRERR)
		fail("SIGBUS with si_code %d, not BUS_ADRERR", info->si_code);
	if (addr != now.touched)
		fail("SIGBUS with si_addr %#lx, but %#lx was touched",
		     (unsigned long)addr, (unsigned long)now.touched);
	if (addr < start || addr - start >= now.dst.size)
		fail("SIGBUS at %#lx, outside of the destination",
		     (unsigned long)addr);
	if (!now.step)
		fail("SIGBUS at %#lx, but everything was moved before",
		     (unsigned long)addr);

	offset = (addr - start) & ~(now.step - 1);
	ret = remap_anon_pages(now.dst.mem + offset, now.src.mem + offset,
			       now.step, 0);
	if (ret < 0)
		fail("remap_anon_pages at offset %#zx: %m", offset);
	if ((size_t)ret != now.step)
		fail("remap_anon_pages at offset %#zx: %ld bytes of %zu",
		     offset, ret, now.step);

	now.faults++;
	errno = saved_errno;
}

static void on_sigalrm(int sig)
{
	static const char msg[] = "\nremap_anon_pages: out of time\n";

	(void)sig;
	(void)!write(STDERR_FILENO, msg, sizeof(msg) - 1);
	_exit(1);
}

static void set_handlers(void)
{
	struct sigaction bus = { .sa_sigaction = on_sigbus,
				 .sa_flags = SA_SIGINFO };
	struct sigaction alrm = { .sa_handler = on_sigalrm };

	sigemptyset(&bus.sa_mask);
	sigemptyset(&alrm.sa_mask);
	if (sigaction(SIGBUS, &bus, NULL) || sigaction(SIGALRM, &alrm, NULL))
		fail("sigaction: %m");
}

static size_t read_pmd_size(void)
{
	FILE *file = fopen(PMD_SIZE_FILE, "r");
	size_t size;

	/* No huge pages here: then what x86-64 has is as good as any size. */
	if (!file)
		return 512 * page_size;
	if (fscanf(file, "%zu", &size) != 1 || size < page_size ||
	    (size & (size - 1)))
		fail("%s: no power of two above the page size", PMD_SIZE_FILE);
	fclose(file);
	return size;
}

static struct area map_area(size_t size, size_t align, int thp_advice)
{
	struct area area = { .size = size, .map_size = size + align };

	area.map = mmap(NULL, area.map_size, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (area.map == MAP_FAILED)
		fail("mmap of %zu bytes: %m", area.map_size);
	area.mem = (void *)(((uintptr_t)area.map + align - 1) & ~(align - 1));

	/* EINVAL: a kernel without huge pages, which has small ones for both. */
	if (madvise(area.mem, size, thp_advice) && errno != EINVAL)
		fail("madvise(%d): %m", thp_advice);
	return area;
}

static void unmap_area(struct area *area)
{
	if (munmap(area->map, area->map_size))
		fail("munmap: %m");
}

/* Never 0, and no two words of one area have the same. */
static uint64_t pattern(size_t page, size_t word)
{
	return ~(((uint64_t)page << 16) | word);
}

/* Atomic, so that each access is made once, and where it stands. */
static atomic_ullong *words_of(const struct area *area, size_t page)
{
	return (atomic_ullong *)(area->mem + page * page_size);
}

static void fill(const struct area *area)
{
	size_t page, word;

	for (page = 0; page < area->size / page_size; page++) {
		atomic_ullong *words = words_of(area, page);

		for (word = 0; word < page_size / sizeof(*words); word++)
			atomic_init(&words[word], pattern(page, word));
	}
}

/*
 * The first access to a page is to a word that differs from page to page, a
 * read for the even steps and a write for the odd ones.
 */
static void touch_and_check(const struct area *area, size_t page, bool write)
{
	atomic_ullong *words = words_of(area, page);
	const size_t nr_words = page_size / sizeof(*words);
	const size_t first = (page * 37 + 5) % nr_words;
	const uint64_t written = 0x5a5a000000000000ULL | page;
	size_t word;

	now.touched = (uintptr_t)&words[first];
	if (write)
		words[first] = written;

	for (word = 0; word < nr_words; word++) {
		size_t at = (first + word) % nr_words;
		uint64_t want = write && at == first ? written :
						       pattern(page, at);
		uint64_t seen = words[at];

		if (seen != want)
			fail("page %zu, word %zu: %#llx instead of %#llx",
			     page, at, (unsigned long long)seen,
			     (unsigned long long)want);
	}
}

/* Nothing may be left of the source, and its pages must be usable anew. */
static void check_holes(const struct area *area)
{
	uint64_t entries[512];
	size_t nr_pages = area->size / page_size;
	size_t page, i, chunk;
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		fail("/proc/self/pagemap: %m");
	for (page = 0; page < nr_pages; page += chunk) {
		off_t at = ((uintptr_t)area->mem / page_size + page) *
			   sizeof(entries[0]);

		chunk = nr_pages - page;
		if (chunk > ARRAY_SIZE(entries))
			chunk = ARRAY_SIZE(entries);
		if (pread(fd, entries, chunk * sizeof(entries[0]), at) !=
		    (ssize_t)(chunk * sizeof(entries[0])))
			fail("/proc/self/pagemap: cannot read: %m");
		for (i = 0; i < chunk; i++)
			if (entries[i] & (PM_PRESENT | PM_SWAP))
				fail("page %zu is still at the source",
				     page + i);
	}
	close(fd);

	for (page = 0; page < nr_pages; page += 61)
		if (words_of(area, page)[page % 512])
			fail("page %zu of the source is not fresh", page);
}

static void move_all(void)
{
	size_t done = 0;

	/* A short count is no error: the call on the rest tells the reason. */
	while (done < now.dst.size) {
		long ret = remap_anon_pages(now.dst.mem + done,
					    now.src.mem + done,
					    now.dst.size - done, 0);

		if (ret < 0)
			fail("remap_anon_pages after %zu bytes: %m", done);
		if (ret == 0 || (size_t)ret > now.dst.size - done ||
		    ret % page_size)
			fail("remap_anon_pages after %zu bytes: returned %ld",
			     done, ret);
		done += ret;
	}
}

static void run(const struct variant *variant, size_t size, size_t align)
{
	const size_t pages_per_step = variant->step / page_size;
	const size_t nr_pages = size / page_size;
	const size_t pages_per_line = (PROGRESS_MIB << 20) / page_size;
	unsigned long want_faults = variant->step ? size / variant->step : 0;
	size_t page;

	printf("%s: fill\n", variant->name);
	fflush(stdout);
	alarm(VARIANT_SECONDS);

	now.step = variant->step;
	now.faults = 0;
	now.src = map_area(size, align, variant->thp_advice);
	now.dst = map_area(size, align, variant->thp_advice);
	if (madvise(now.dst.mem, size, MADV_USERFAULT))
		fail("madvise(MADV_USERFAULT): %m");
	fill(&now.src);
	/* khugepaged would fill the holes that the moves leave at the source. */
	if (madvise(now.src.mem, size, MADV_NOHUGEPAGE) && errno != EINVAL)
		fail("madvise(MADV_NOHUGEPAGE): %m");

	printf("%s: move\n", variant->name);
	fflush(stdout);
	if (!variant->step)
		move_all();

	for (page = 0; page < nr_pages; page++) {
		size_t step = pages_per_step ? page / pages_per_step : page;

		if (page && page % pages_per_line == 0) {
			printf("%s: %zu MiB\n", variant->name,
			       page * page_size >> 20);
			fflush(stdout);
		}
		touch_and_check(&now.dst, page, step % 2);
	}
	if (now.faults != want_faults)
		fail("%lu faults instead of %lu", now.faults, want_faults);

	printf("%s: check the source\n", variant->name);
	fflush(stdout);
	check_holes(&now.src);

	unmap_area(&now.src);
	unmap_area(&now.dst);
	alarm(0);
	printf("%s: %lu faults, ok\n", variant->name, now.faults);
	fflush(stdout);
}

static size_t parse_mib(const char *arg)
{
	unsigned long mib;
	char *end;

	errno = 0;
	mib = strtoul(arg, &end, 10);
	if (errno || end == arg || *end || *arg == '-' || !mib ||
	    mib > (SIZE_MAX >> 21))
		fail("not a size in MiB: %s", arg);
	return mib;
}

int main(int argc, char **argv)
{
	size_t size, pmd_size;

	if (argc > 2) {
		fprintf(stderr, "Usage: %s [size in MiB, default %lu]\n",
			argv[0], DEFAULT_MIB);
		return 1;
	}
	page_size = sysconf(_SC_PAGESIZE);
	pmd_size = read_pmd_size();
	size = (argc == 2 ? parse_mib(argv[1]) : DEFAULT_MIB) << 20;
	/* Whole huge pages only. */
	size = (size + pmd_size - 1) & ~(pmd_size - 1);

	const struct variant variants[] = {
		{ "page by page", page_size, MADV_NOHUGEPAGE },
		{ "huge page by huge page", pmd_size, MADV_HUGEPAGE },
		{ "page by page out of huge pages", page_size, MADV_HUGEPAGE },
		{ "small pages in one call", 0, MADV_NOHUGEPAGE },
		{ "huge pages in one call", 0, MADV_HUGEPAGE },
	};

	printf("%zu MiB, pages of %zu bytes, huge pages of %zu bytes\n",
	       size >> 20, page_size, pmd_size);
	set_handlers();
	for (size_t i = 0; i < ARRAY_SIZE(variants); i++)
		run(&variants[i], size, pmd_size);

	puts("remap_anon_pages functions correctly");
	return 0;
}
