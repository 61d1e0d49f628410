// SPDX-License-Identifier: GPL-2.0

#include <linux/compat.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>

__rust_helper int rust_helper_cond_resched(void)
{
	return cond_resched();
}

__rust_helper int rust_helper_fatal_signal_pending(struct task_struct *task)
{
	return fatal_signal_pending(task);
}

__rust_helper bool rust_helper_in_compat_syscall(void)
{
	return in_compat_syscall();
}

__rust_helper int rust_helper_signal_pending_state(unsigned int state,
						   struct task_struct *task)
{
	return signal_pending_state(state, task);
}

__rust_helper void rust_helper_set_current_state(unsigned int state)
{
	set_current_state(state);
}

__rust_helper void rust_helper___set_current_state(unsigned int state)
{
	__set_current_state(state);
}
