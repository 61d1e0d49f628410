// SPDX-License-Identifier: GPL-2.0
/*
 * MADV_USERFAULT and remap_anon_pages in a program of 32 bits.
 *
 * It prints what it sees; tests/src/compat.rs knows what that has to be. It
 * stands alone, without libc, so that it can be built where only the 64-bit
 * libc is: gcc -m32 -static -nostdlib.
 */
#include <linux/fcntl.h>
#include <linux/mman.h>
#include <linux/signal.h>
#include <linux/unistd.h>
#include <asm/sigcontext.h>
#include <asm/ucontext.h>

#define PAGE		4096
#define RW		(PROT_READ | PROT_WRITE)

static long call(long nr, long a, long b, long c, long d, long e, long f)
{
	long args[] = { nr, f };
	long ret;

	/* The sixth argument goes into the register that holds the frame. */
	asm volatile("push %%ebp\n\t"
		     "mov 4(%%eax), %%ebp\n\t"
		     "mov (%%eax), %%eax\n\t"
		     "int $0x80\n\t"
		     "pop %%ebp"
		     : "=a" (ret)
		     : "a" (args), "b" (a), "c" (b), "d" (c), "S" (d), "D" (e)
		     : "memory", "cc");
	return ret;
}

static void print(const char *text)
{
	unsigned int len = 0;

	while (text[len])
		len++;
	call(__NR_write, 1, (long)text, len, 0, 0, 0);
}

static void print_number(long number)
{
	unsigned long left = number < 0 ? -number : number;
	char text[16], *at = text + sizeof(text) - 1;

	*at = 0;
	do {
		*--at = '0' + left % 10;
		left /= 10;
	} while (left);
	if (number < 0)
		*--at = '-';
	print(at);
}

static void say(const char *what, long number)
{
	print(what);
	print(" ");
	print_number(number);
	print("\n");
}

static char *map(long len, long fd)
{
	long flags = MAP_PRIVATE | (fd < 0 ? MAP_ANONYMOUS : 0);

	return (char *)call(__NR_mmap2, 0, len, RW, flags, fd, 0);
}

static long advise(char *addr, long len, long advice)
{
	return call(__NR_madvise, (long)addr, len, advice, 0, 0, 0);
}

static long remap(char *dst, char *src, long len)
{
	return call(__NR_remap_anon_pages, (long)dst, (long)src, len, 0, 0, 0);
}

/* What the handler has seen, and where it has a page for a hole, if it has. */
static int seen, code;
static char *addr, *area, *source;
static long moved;

/*
 * Accesses of one byte. The instruction is three bytes long in both, so that
 * the handler can step over it.
 */
static int load(const char *from)
{
	int byte;

	asm volatile("movzbl (%1), %0" : "=a" (byte) : "a" (from) : "memory");
	return byte;
}

static void store(char *to)
{
	asm volatile("movb $1, (%0)" : : "a" (to) : "memory");
}

/* What rt_sigaction takes, which is not the header's struct sigaction. */
static struct {
	void (*handler)(int signal, siginfo_t *info, struct ucontext *context);
	unsigned long flags;
	void (*restorer)(void);
	unsigned long mask[2];
} action;

static void handler(int signal, siginfo_t *info, struct ucontext *context)
{
	seen = signal;
	code = info->si_code;
	addr = info->si_addr;
	if (source)
		moved = remap((char *)((long)addr & -PAGE), source, PAGE);
	else
		context->uc_mcontext.eip += 3;
}

static void say_access(const char *what)
{
	print(what);
	if (!seen) {
		print(": no signal\n");
		return;
	}
	print(": signal ");
	print_number(seen);
	print(", code ");
	print_number(code);
	print(", at ");
	print_number(addr - area);
	if (source) {
		print(", moved ");
		print_number(moved);
	}
	print("\n");
	seen = 0;
}

/* Where the kernel begins, with a stack that is aligned in another way. */
__attribute__((force_align_arg_pointer)) void _start(void)
{
	char *pages = map(2 * PAGE, -1);
	long fd = call(__NR_open, (long)"/proc/self/exe", O_RDONLY, 0, 0, 0, 0);
	long value;

	action.handler = handler;
	action.flags = SA_SIGINFO;
	call(__NR_rt_sigaction, SIGBUS, (long)&action, 0,
	     sizeof(action.mask), 0, 0);
	area = map(4 * PAGE, -1);

	say("size of a long", sizeof(long));
	say("advice 118", advise(area, 4 * PAGE, MADV_USERFAULT));
	say("advice 118 for a file",
	    advise(map(PAGE, fd), PAGE, MADV_USERFAULT));

	load(area + 0x1234);
	say_access("read");
	store(area + 2 * PAGE - 1);
	say_access("write");
	say("read by the kernel",
	    call(__NR_open, (long)area, O_RDONLY, 0, 0, 0, 0));
	say("written by the kernel",
	    call(__NR_read, fd, (long)area, 1, 0, 0, 0));

	pages[0] = 1;
	pages[PAGE] = 2;
	say("move", remap(area, pages, PAGE));
	say("content", load(area));
	say("move again", remap(area, pages + PAGE, PAGE));
	say("move from a hole", remap(area + PAGE, pages, PAGE));

	source = pages + PAGE;
	load(area + 2 * PAGE + 3);
	say_access("handler");
	source = 0;
	say("value", load(area + 2 * PAGE));

	say("advice 119", advise(area, 4 * PAGE, MADV_NOUSERFAULT));
	value = load(area + 3 * PAGE);
	say_access("read");
	say("value", value);
	call(__NR_exit, 0, 0, 0, 0, 0, 0);
}
