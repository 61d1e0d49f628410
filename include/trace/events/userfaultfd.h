/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The range protocol of a userfaultfd. The events are made in
 * rust/kernel/mm/userfaultfd_trace.rs.
 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM userfaultfd

#if !defined(_TRACE_USERFAULTFD_H) || defined(TRACE_HEADER_MULTI_READ)
#define _TRACE_USERFAULTFD_H

#include <linux/tracepoint.h>

/* A thread has touched a hole, and is going to wait for the page. */
TRACE_EVENT(userfaultfd_range_fault,
	TP_PROTO(unsigned long address, bool by_program),
	TP_ARGS(address, by_program),
	TP_STRUCT__entry(
		__field(unsigned long, address)
		__field(bool, by_program)
	),
	TP_fast_assign(
		__entry->address = address;
		__entry->by_program = by_program;
	),
	TP_printk("address=0x%lx by=%s", __entry->address,
		  __entry->by_program ? "program" : "kernel")
);

/* A fault was read from the descriptor. */
TRACE_EVENT(userfaultfd_range_read,
	TP_PROTO(unsigned long address),
	TP_ARGS(address),
	TP_STRUCT__entry(
		__field(unsigned long, address)
	),
	TP_fast_assign(
		__entry->address = address;
	),
	TP_printk("address=0x%lx", __entry->address)
);

/* Those who waited for a page in a range were woken, for whatever reason. */
TRACE_EVENT(userfaultfd_range_wake,
	TP_PROTO(unsigned long start, unsigned long end, unsigned int threads),
	TP_ARGS(start, end, threads),
	TP_STRUCT__entry(
		__field(unsigned long, start)
		__field(unsigned long, end)
		__field(unsigned int, threads)
	),
	TP_fast_assign(
		__entry->start = start;
		__entry->end = end;
		__entry->threads = threads;
	),
	TP_printk("start=0x%lx end=0x%lx threads=%u", __entry->start,
		  __entry->end, __entry->threads)
);

/* A thread waits no more: it was woken, or a signal has ended its wait. */
TRACE_EVENT(userfaultfd_range_resolve,
	TP_PROTO(unsigned long address, u64 waited, bool woken),
	TP_ARGS(address, waited, woken),
	TP_STRUCT__entry(
		__field(unsigned long, address)
		__field(u64, waited)
		__field(bool, woken)
	),
	TP_fast_assign(
		__entry->address = address;
		__entry->waited = waited;
		__entry->woken = woken;
	),
	TP_printk("address=0x%lx waited_ns=%llu by=%s", __entry->address,
		  __entry->waited, __entry->woken ? "wake" : "signal")
);

#endif /* _TRACE_USERFAULTFD_H */

/* This part must be outside protection. */
#include <trace/define_trace.h>
