// SPDX-License-Identifier: GPL-2.0
/*
 * MADV_USERFAULT, remap_anon_pages and the range protocol of a userfaultfd in
 * a program of 32 bits.
 *
 * It prints what it sees; tests/src/compat.rs knows what that has to be. It
 * stands alone, without libc, so that it can be built where only the 64-bit
 * libc is: gcc -m32 -static -nostdlib. It is for i386, and for powerpc with
 * pages of 4 KiB.
 */
#include <linux/fcntl.h>
#include <linux/mman.h>
#include <linux/sched.h>
#include <linux/signal.h>
#include <linux/unistd.h>
#include <linux/userfault.h>
#include <asm/ptrace.h>
#include <asm/sigcontext.h>
#include <asm/ucontext.h>

#define PAGE		4096
#define RW		(PROT_READ | PROT_WRITE)

/*
 * What differs: ENTRY is for functions that are called with a stack of unknown
 * alignment, ACCESS is how long the instructions of load() and store() are,
 * which access one byte and which the handler steps over, and a thread begins
 * with what lies on its stack.
 */
#ifdef PT_NIP	/* powerpc */

#define ENTRY
#define ACCESS	4
#define PC(context)	((context)->uc_regs->mc_gregs[PT_NIP])

static long call(long nr, long a, long b, long c, long d, long e, long f)
{
	register long r0 asm("r0") = nr, r3 asm("r3") = a, r4 asm("r4") = b,
		      r5 asm("r5") = c, r6 asm("r6") = d, r7 asm("r7") = e,
		      r8 asm("r8") = f;

	/* An error is positive, and said to be one by a flag. */
	asm volatile("sc\n\t"
		     "bns 1f\n\t"
		     "neg 3, 3\n"
		     "1:"
		     : "+r" (r0), "+r" (r3), "+r" (r4), "+r" (r5), "+r" (r6),
		       "+r" (r7), "+r" (r8)
		     : : "memory", "cc", "ctr", "r9", "r10", "r11", "r12");
	return r3;
}

static long clone(long flags, void **top)
{
	register long r0 asm("r0") = __NR_clone, r3 asm("r3") = flags,
		      r4 asm("r4") = (long)top, r5 asm("r5") = 0,
		      r6 asm("r6") = 0, r7 asm("r7") = 0;

	asm volatile("sc\n\t"
		     "cmpwi 3, 0\n\t"
		     "bne 1f\n\t"
		     "lwz 0, 0(1)\n\t"
		     "mtctr 0\n\t"
		     "li 0, 0\n\t"
		     "stwu 1, -16(1)\n\t"
		     "bctrl\n"
		     "1:"
		     : "+r" (r0), "+r" (r3), "+r" (r4), "+r" (r5), "+r" (r6),
		       "+r" (r7)
		     : : "memory", "cc", "ctr", "lr", "r8", "r9", "r10", "r11",
			 "r12");
	return r3;
}

static int load(const char *from)
{
	int byte;

	asm volatile("lbz %0, 0(%1)" : "=r" (byte) : "b" (from) : "memory");
	return byte;
}

static void store(char *to)
{
	asm volatile("stb %0, 0(%0)" : : "b" (to) : "memory");
}

#else		/* i386 */

#define ENTRY	__attribute__((force_align_arg_pointer))
#define ACCESS	3
#define PC(context)	((context)->uc_mcontext.eip)

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

static long clone(long flags, void **top)
{
	long ret;

	asm volatile("int $0x80\n\t"
		     "test %%eax, %%eax\n\t"
		     "jnz 1f\n\t"
		     "pop %%eax\n\t"
		     "call *%%eax\n"
		     "1:"
		     : "=a" (ret)
		     : "a" (__NR_clone), "b" (flags), "c" (top), "d" (0),
		       "S" (0), "D" (0)
		     : "memory", "cc");
	return ret;
}

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

#endif

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

static long remap(char *dst, char *src, long len, long flags)
{
	return call(__NR_remap_anon_pages, (long)dst, (long)src, len, flags,
		    0, 0);
}

/* What the handler has seen, and where it has a page for a hole, if it has. */
static int seen, code;
static char *addr, *area, *source;
static long moved;

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
		moved = remap((char *)((long)addr & -PAGE), source, PAGE, 0);
	else
		PC(context) += ACCESS;
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

/* A descriptor that serves the memory behind it, and what is put there. */
static long uffd;
static char *served, *spare;

static long write_words(unsigned long start, unsigned long end)
{
	unsigned long long words[] = { start, end };

	return call(__NR_write, uffd, (long)words, end ? 16 : 8, 0, 0, 0);
}

/* A thread that serves faults until the program ends. */
ENTRY static void serve(void)
{
	unsigned long long at;

	while (call(__NR_read, uffd, (long)&at, sizeof(at), 0, 0, 0) == 8) {
		say("fault at", (char *)(long)at - served);
		remap((char *)(long)at, spare, PAGE, RAP_WAKE);
		spare += PAGE;
	}
	call(__NR_exit_group, 1, 0, 0, 0, 0, 0);
}

static long start(void (*run)(void), char *stack)
{
	long flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND |
		     CLONE_THREAD | CLONE_SYSVSEM;
	void **top = (void **)stack - 4;

	*top = run;
	return clone(flags, top);
}

static void be_served(void)
{
	char *stack = map(4 * PAGE, -1);
	unsigned long long answer = 0;

	spare = map(4 * PAGE, -1);
	served = map(4 * PAGE, -1);
	spare[5] = 3;
	spare[PAGE] = '/';
	spare[2 * PAGE] = 1;

	uffd = call(__NR_userfaultfd, 0, 0, 0, 0, 0, 0);
	say("version", write_words(USERFAULTFD_PROTOCOL, 0));
	say("read", call(__NR_read, uffd, (long)&answer, sizeof(answer),
			 0, 0, 0));
	say("answer", answer);
	advise(served, 4 * PAGE, MADV_USERFAULT);
	say("register", write_words((long)served | USERFAULTFD_RANGE_REGISTER,
				    (long)(served + 4 * PAGE)));
	say("thread", start(serve, stack + 4 * PAGE) > 0);

	say("served", load(served + PAGE + 5));
	say("read by the kernel",
	    call(__NR_access, (long)served, 0, 0, 0, 0, 0));
	store(served + 3 * PAGE + 1);
	say("served", load(served + 3 * PAGE));
}

/* Where the kernel begins, with a stack that is aligned in another way. */
ENTRY void _start(void)
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
	say("move", remap(area, pages, PAGE, 0));
	say("content", load(area));
	say("move again", remap(area, pages + PAGE, PAGE, 0));
	say("move from a hole", remap(area + PAGE, pages, PAGE, 0));

	source = pages + PAGE;
	load(area + 2 * PAGE + 3);
	say_access("handler");
	source = 0;
	say("value", load(area + 2 * PAGE));

	say("advice 119", advise(area, 4 * PAGE, MADV_NOUSERFAULT));
	value = load(area + 3 * PAGE);
	say_access("read");
	say("value", value);
	be_served();
	call(__NR_exit_group, 0, 0, 0, 0, 0, 0);
}
