// SPDX-License-Identifier: GPL-2.0

//! Threads that wait for somebody to fill the holes that they touched.
//!
//! They are kept in two orders: by address, so that those who wait in a range are found without a
//! look at the others, and, until they are reported, by age. What keeps a thread there lies on its
//! own stack, so that a fault allocates nothing.
//!
//! # Why no wake is lost
//!
//! A thread is added with the lock of its hole's entry held. Whoever fills the hole takes that
//! lock, so it comes after, and when it goes on to wake who waits there it finds the thread.
//!
//! C headers: [`include/linux/rbtree.h`](srctree/include/linux/rbtree.h),
//! [`include/linux/sched.h`](srctree/include/linux/sched.h)

use crate::{
    bindings, container_of, current,
    mm::fault::{
        FaultResult,
        Hole,
        WaitMode, //
    },
    mm::userfaultfd_trace as trace,
    new_spinlock,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        SpinLock, //
    },
};
use core::{
    cell::UnsafeCell,
    marker::PhantomPinned,
    ops::Range,
    ptr, //
};

/// A thread that waits. What is not `woken` is read and written with the queue locked, or before
/// the waiter is added.
struct Waiter {
    /// In [`Queue::tree`], until it is woken.
    node: bindings::rb_node,
    /// The next younger one that is not reported yet.
    younger: *mut Waiter,
    /// The next older one.
    older: *mut Waiter,
    /// The address of the page that it waits for.
    address: usize,
    /// Its age: less is older. No two have the same.
    ticket: u64,
    task: *mut bindings::task_struct,
    /// Set when it is woken.
    woken: Atomic<bool>,
    /// Whether it is reported.
    reported: bool,
}

// The cost of a waiter, which is on a kernel stack.
const _: () = assert!(size_of::<Waiter>() <= 128);

/// A touch of a hole for which a thread waits, as it is told to the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    address: usize,
    ticket: u64,
}

impl Report {
    /// The address of the page.
    #[inline]
    pub fn address(&self) -> usize {
        self.address
    }

    /// It has reached the program.
    #[inline]
    pub fn delivered(self) {
        trace::read(self.address);
    }
}

/// How many threads wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Those that are not reported yet.
    pub pending: usize,
    /// All.
    pub total: usize,
}

/// The waiters in their orders.
///
/// # Invariants
///
/// What is in the tree, and in the list from `oldest` to `youngest`, are waiters on the stacks of
/// threads that do not leave [`Waiters::wait`] without taking the lock of the queue and finding
/// themselves woken, or taking themselves out. In the list are those of the tree that are not
/// reported, the oldest first.
struct Queue {
    tree: bindings::rb_root,
    oldest: *mut Waiter,
    youngest: *mut Waiter,
    counts: Counts,
    next_ticket: u64,
}

// SAFETY: The pointers are those of waiters, which may be used by whoever has the queue.
unsafe impl Send for Queue {}

impl Queue {
    /// Adds a waiter, as the youngest.
    ///
    /// # Safety
    ///
    /// It must be valid, in no queue, and stay where it is until it is taken out.
    unsafe fn add(&mut self, waiter: *mut Waiter) {
        // SAFETY: The caller promises that the waiter is valid; those in the tree are by the type
        // invariants. Keys are compared as the order of the tree is defined.
        unsafe {
            (*waiter).ticket = self.next_ticket;
            let key = ((*waiter).address, self.next_ticket);
            let mut parent: *mut bindings::rb_node = ptr::null_mut();
            let mut link: *mut *mut bindings::rb_node = &raw mut self.tree.rb_node;
            while !(*link).is_null() {
                parent = *link;
                link = match key < Self::key(parent) {
                    true => &raw mut (*parent).rb_left,
                    false => &raw mut (*parent).rb_right,
                };
            }
            bindings::rb_link_node(&raw mut (*waiter).node, parent, link);
            bindings::rb_insert_color(&raw mut (*waiter).node, &raw mut self.tree);
        }
        self.next_ticket += 1;
        self.counts.total += 1;
        // SAFETY: The waiter is in the tree by now. None is younger.
        unsafe { self.link(waiter, self.youngest) };
    }

    /// Puts a waiter of the tree into the list, behind `older`, or first where that is null.
    ///
    /// # Safety
    ///
    /// It must not be in the list yet, and `older` must be in there and the next older one.
    unsafe fn link(&mut self, waiter: *mut Waiter, older: *mut Waiter) {
        // SAFETY: The waiters are valid by the type invariants.
        unsafe {
            let younger = match older.is_null() {
                true => self.oldest,
                false => (*older).younger,
            };
            (*waiter).older = older;
            (*waiter).younger = younger;
            (*waiter).reported = false;
            *self.next_of(older) = waiter;
            *self.previous_of(younger) = waiter;
        }
        self.counts.pending += 1;
    }

    /// Takes a waiter out of the list.
    ///
    /// # Safety
    ///
    /// It must be in there.
    unsafe fn unlink(&mut self, waiter: *mut Waiter) {
        // SAFETY: The waiters are valid by the type invariants.
        unsafe {
            let (older, younger) = ((*waiter).older, (*waiter).younger);
            *self.next_of(older) = younger;
            *self.previous_of(younger) = older;
            (*waiter).reported = true;
        }
        self.counts.pending -= 1;
    }

    /// What points at the one behind `waiter`.
    ///
    /// # Safety
    ///
    /// It must be valid, or null for the beginning.
    unsafe fn next_of(&mut self, waiter: *mut Waiter) -> *mut *mut Waiter {
        match waiter.is_null() {
            true => &raw mut self.oldest,
            // SAFETY: The caller promises that it is valid.
            false => unsafe { &raw mut (*waiter).younger },
        }
    }

    /// What points at the one before `waiter`.
    ///
    /// # Safety
    ///
    /// It must be valid, or null for the end.
    unsafe fn previous_of(&mut self, waiter: *mut Waiter) -> *mut *mut Waiter {
        match waiter.is_null() {
            true => &raw mut self.youngest,
            // SAFETY: The caller promises that it is valid.
            false => unsafe { &raw mut (*waiter).older },
        }
    }

    /// Takes a waiter out.
    ///
    /// # Safety
    ///
    /// It must be in the tree.
    unsafe fn remove(&mut self, waiter: *mut Waiter) {
        // SAFETY: The caller promises that it is in the tree, and it is in the list if it is not
        // reported.
        unsafe {
            if !(*waiter).reported {
                self.unlink(waiter);
            }
            bindings::rb_erase(&raw mut (*waiter).node, &raw mut self.tree);
        }
        self.counts.total -= 1;
    }

    /// The waiter of a node.
    ///
    /// # Safety
    ///
    /// The node must be in the tree.
    unsafe fn waiter(node: *mut bindings::rb_node) -> *mut Waiter {
        // SAFETY: What is in the tree is in waiters.
        unsafe { container_of!(node, Waiter, node) }
    }

    /// The key of a node.
    ///
    /// # Safety
    ///
    /// The node must be in the tree.
    unsafe fn key(node: *mut bindings::rb_node) -> (usize, u64) {
        // SAFETY: The caller promises that it is in the tree.
        unsafe {
            let waiter = Self::waiter(node);
            ((*waiter).address, (*waiter).ticket)
        }
    }

    /// The first waiter that has this key or one behind; null where there is none.
    fn first_from(&self, key: (usize, u64)) -> *mut Waiter {
        let mut node = self.tree.rb_node;
        let mut first = ptr::null_mut();
        while !node.is_null() {
            // SAFETY: The node is in the tree.
            unsafe {
                if Self::key(node) >= key {
                    first = Self::waiter(node);
                    node = (*node).rb_left;
                } else {
                    node = (*node).rb_right;
                }
            }
        }
        first
    }
}

/// The threads that wait for pages in the ranges of one descriptor.
#[pin_data]
pub struct Waiters {
    /// Taken with the lock of a page-table entry held, and with none of its own kind. Interrupts
    /// are on.
    #[pin]
    queue: SpinLock<Queue>,
}

impl Waiters {
    /// Nobody waits.
    pub fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            // INVARIANT: There are no waiters.
            queue <- new_spinlock!(
                Queue {
                    tree: bindings::rb_root::default(),
                    oldest: ptr::null_mut(),
                    youngest: ptr::null_mut(),
                    counts: Counts { pending: 0, total: 0 },
                    next_ticket: 0,
                },
                "Waiters::queue"
            ),
        })
    }

    /// Waits until somebody calls [`wake`](Self::wake) for the page of `hole`, or what
    /// [`VmFault::wait_mode`](crate::mm::fault::VmFault::wait_mode) says ends the wait.
    ///
    /// The locks of the entry and of the vma are given up as soon as a wake would be noticed;
    /// `announce` is called then, with nothing locked, and may not sleep. Returns what the fault is
    /// to answer: the hole may be filled or not, so the access is made again.
    ///
    /// Sleeps. The caller holds no other lock, and is neither dying nor dumping core.
    pub fn wait(&self, hole: Hole<'_>, announce: impl FnOnce()) -> FaultResult {
        let mode = hole.fault().wait_mode();
        let wait = trace::Wait::begin(hole.fault());
        let place = UnsafeCell::new((
            Waiter {
                node: bindings::rb_node::default(),
                younger: ptr::null_mut(),
                older: ptr::null_mut(),
                address: hole.fault().address(),
                ticket: 0,
                task: current!().as_ptr(),
                woken: Atomic::new(false),
                reported: false,
            },
            PhantomPinned,
        ));
        // It is used by this pointer only, also by others, and not moved.
        let waiter = place.get().cast::<Waiter>();

        // SAFETY: It is valid and stays where it is until this function returns, which it does not
        // before it is taken out.
        unsafe { self.queue.lock().add(waiter) };
        let answer = hole.unlock();
        announce();
        // SAFETY: `waiter` is valid; others change this field atomically only.
        sleep(mode, unsafe { &(*waiter).woken });

        // Who wakes it holds the lock and may not have let go of it yet.
        let mut queue = self.queue.lock();
        // SAFETY: It is valid; it is in the tree unless it was woken.
        let woken = unsafe {
            let woken = (*waiter).woken.load(Relaxed);
            if !woken {
                queue.remove(waiter);
            }
            woken
        };
        drop(queue);
        wait.end(woken);
        answer
    }

    /// Reports the oldest fault that is not reported, and does not report it again.
    ///
    /// Does not sleep.
    pub fn report(&self) -> Option<Report> {
        let mut queue = self.queue.lock();
        let waiter = queue.oldest;
        if waiter.is_null() {
            return None;
        }
        // SAFETY: It is in the list.
        unsafe {
            queue.unlink(waiter);
            Some(Report {
                address: (*waiter).address,
                ticket: (*waiter).ticket,
            })
        }
    }

    /// Takes a report back, since it did not reach the program: if its thread still waits, it is to
    /// be made again, in its turn.
    ///
    /// Does not sleep.
    pub fn take_back(&self, report: Report) {
        let mut queue = self.queue.lock();
        let waiter = queue.first_from((report.address, report.ticket));
        // SAFETY: The waiter is in the tree if it is not null, and the others are in the list.
        unsafe {
            if waiter.is_null() || (*waiter).ticket != report.ticket {
                return;
            }
            let mut older = ptr::null_mut();
            let mut younger = queue.oldest;
            while !younger.is_null() && (*younger).ticket < report.ticket {
                older = younger;
                younger = (*younger).younger;
            }
            queue.link(waiter, older);
        }
    }

    /// Wakes every thread that waits for a page in `range`, reported or not. Says whether there was
    /// one.
    ///
    /// Does not sleep.
    pub fn wake(&self, range: Range<usize>) -> bool {
        let mut queue = self.queue.lock();
        let mut woken = 0;
        let mut waiter = queue.first_from((range.start, 0));
        // SAFETY: The waiter is in the tree if it is not null. Its thread does not leave before we
        // let go of the lock, so it is valid until then, and so is the thread.
        unsafe {
            while !waiter.is_null() && (*waiter).address < range.end {
                let next = bindings::rb_next(&raw const (*waiter).node);
                queue.remove(waiter);
                (*waiter).woken.store(true, Relaxed);
                // A barrier comes before the look at the task's state.
                bindings::wake_up_process((*waiter).task);
                woken += 1;
                waiter = match next.is_null() {
                    true => ptr::null_mut(),
                    false => Queue::waiter(next),
                };
            }
        }
        // No thread goes on before the lock is free: what it does then comes after this.
        trace::wake(&range, woken);
        woken > 0
    }

    /// Wakes all.
    ///
    /// Does not sleep.
    pub fn wake_all(&self) {
        self.wake(0..usize::MAX);
    }

    /// How many wait.
    ///
    /// Does not sleep. It may be different by now.
    pub fn counts(&self) -> Counts {
        self.queue.lock().counts
    }
}

/// Sleeps until `woken` is set, a signal comes that ends the wait, or its time is over.
fn sleep(mode: WaitMode, woken: &Atomic<bool>) {
    let state = mode.task_state();
    let task = current!().as_ptr();
    let mut left = mode.limit();
    loop {
        // SAFETY: The task's own state; what follows looks at the reason to sleep once more.
        unsafe { bindings::set_current_state(state) };
        // SAFETY: The running task is valid.
        let signal = unsafe { bindings::signal_pending_state(state, task) != 0 };
        if woken.load(Relaxed) || signal || left == 0 {
            break;
        }
        // SAFETY: Nothing is locked, as the caller promises.
        left = unsafe { bindings::schedule_timeout(left) };
    }
    // SAFETY: The task's own state.
    unsafe { bindings::__set_current_state(bindings::TASK_RUNNING) };
}
