// SPDX-License-Identifier: GPL-2.0
/* The events of include/trace/events/userfaultfd.h, which Rust code makes. */

#define CREATE_TRACE_POINTS
#define CREATE_RUST_TRACE_POINTS
#include <trace/events/userfaultfd.h>
