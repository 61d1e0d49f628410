// SPDX-License-Identifier: GPL-2.0

//! System calls.
//!
//! What the expansion of [`#[syscall]`](macro@syscall) is made of: the registers that hold the
//! arguments, the types that an argument and a result can have, and the metadata from which the
//! events `syscalls/sys_enter_*` and `syscalls/sys_exit_*` come.
//!
//! C headers: [`include/linux/syscalls.h`](srctree/include/linux/syscalls.h),
//! [`include/trace/syscall.h`](srctree/include/trace/syscall.h),
//! [`asm/syscall_wrapper.h` of x86](srctree/arch/x86/include/asm/syscall_wrapper.h),
//! [`asm/syscall_wrapper.h` of powerpc](srctree/arch/powerpc/include/asm/syscall_wrapper.h).

use crate::{
    error::Result,
    ffi::{
        c_long,
        c_ulong, //
    },
    str::CStr,
    uaccess::UserPtr, //
};

#[cfg(CONFIG_ARCH_HAS_SYSCALL_WRAPPER)]
use crate::bindings;

pub use macros::syscall;

/// The most arguments that a system call can have.
///
/// This is C's `SYSCALL_DEFINE_MAXARGS`.
pub const MAX_ARGS: usize = 6;

/// A type that an argument of a system call can have.
///
/// A register is cut to the type as a cast in C does it: what does not fit is dropped, and the sign
/// is the one of the type. The bits that a caller leaves in the rest of the register therefore
/// never reach the system call.
///
/// # Examples
///
/// ```
/// use kernel::{
///     prelude::*,
///     syscall::Arg, //
/// };
///
/// // The upper half of the register is dropped, and the sign comes from bit 31.
/// assert_eq!(c_int::from_reg(0x1234_5678_ffff_fffe), -2);
/// assert_eq!(c_uint::from_reg(0x1234_5678_ffff_fffe), 0xffff_fffe);
/// assert_eq!(i16::from_reg(0x1_8000), i16::MIN);
/// assert_eq!(u8::from_reg(0x1ff), 0xff);
///
/// // The whole register.
/// assert_eq!(c_long::from_reg(c_ulong::MAX), -1);
/// assert_eq!(c_ulong::from_reg(c_ulong::MAX), c_ulong::MAX);
///
/// // A 32-bit program has 32-bit registers. C's `long` alone takes its sign from them.
/// assert_eq!(c_long::from_ia32_reg(0x1234_5678_ffff_fffe), -2);
/// assert_eq!(c_ulong::from_ia32_reg(0x1234_5678_ffff_fffe), 0xffff_fffe);
/// assert_eq!(i64::from_ia32_reg(0x1234_5678_ffff_fffe), 0xffff_fffe);
/// assert_eq!(c_int::from_ia32_reg(0x1234_5678_ffff_fffe), -2);
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the type of an argument of a system call",
    note = "use one of C's integer types, or `UserPtr` for a pointer to memory of the program"
)]
pub trait Arg: Sized {
    /// The type as C writes it. Tracing shows it in the `format` of `sys_enter_*`.
    const C_TYPE: &'static CStr;

    /// Makes the argument from the register of a native system call.
    ///
    /// This is C's `__SC_CAST`.
    fn from_reg(reg: c_ulong) -> Self;

    /// Makes the argument from the register of a 32-bit system call on x86-64.
    ///
    /// This is C's `__SC_COMPAT_CAST`, then `__SC_CAST`. A 64-bit argument does not fit: as in C, a
    /// system call for 32-bit programs takes it in two parts.
    #[inline]
    fn from_ia32_reg(reg: c_ulong) -> Self {
        Self::from_reg(reg as u32 as c_ulong)
    }
}

macro_rules! impl_arg {
    ($($ty:ty => $c_type:literal,)*) => {$(
        impl Arg for $ty {
            const C_TYPE: &'static CStr = $c_type;

            #[inline]
            fn from_reg(reg: c_ulong) -> Self {
                reg as $ty
            }
        }
    )*};
}

impl_arg! {
    i8 => c"signed char",
    u8 => c"unsigned char",
    i16 => c"short",
    u16 => c"unsigned short",
    i32 => c"int",
    u32 => c"unsigned int",
    i64 => c"long long",
    u64 => c"unsigned long long",
    usize => c"unsigned long",
}

impl Arg for isize {
    const C_TYPE: &'static CStr = c"long";

    #[inline]
    fn from_reg(reg: c_ulong) -> Self {
        reg as isize
    }

    #[inline]
    fn from_ia32_reg(reg: c_ulong) -> Self {
        reg as i32 as isize
    }
}

impl Arg for UserPtr {
    const C_TYPE: &'static CStr = c"void *";

    #[inline]
    fn from_reg(reg: c_ulong) -> Self {
        Self::from_addr(reg)
    }
}

/// A type that the result of a system call can have where it is not an error.
///
/// As in C, the program takes a result that is `-MAX_ERRNO..=-1` when seen as a `long` for an
/// error: keep clear of that range.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the result of a system call",
    note = "a system call returns `Result<T>`, where `T` is `usize`, `isize`, `c_int`, `c_uint` \
            or `()`"
)]
pub trait Value {
    /// Returns the value for the register that holds the result, with the sign of its type.
    fn into_reg(self) -> c_long;
}

impl Value for () {
    #[inline]
    fn into_reg(self) -> c_long {
        0
    }
}

macro_rules! impl_value {
    ($($ty:ty)*) => {$(
        impl Value for $ty {
            #[inline]
            fn into_reg(self) -> c_long {
                self as c_long
            }
        }
    )*};
}

impl_value!(i32 u32 usize);

impl Value for isize {
    #[inline]
    fn into_reg(self) -> c_long {
        self
    }
}

/// Returns what a system call gives back to the program, as the register is to hold it: the value,
/// or the negative `errno`.
///
/// # Examples
///
/// ```
/// use kernel::{
///     prelude::*,
///     syscall::into_reg, //
/// };
///
/// assert_eq!(into_reg(Ok(4096_usize)), 4096);
/// assert_eq!(into_reg(Ok(())), 0);
/// assert_eq!(into_reg::<usize>(Err(EINVAL)), -22);
/// ```
#[inline]
pub fn into_reg<T: Value>(result: Result<T>) -> c_long {
    match result {
        Ok(value) => value.into_reg(),
        Err(error) => error.to_errno() as c_long,
    }
}

/// The type of an entry of the architecture's table of system calls.
///
/// No header has a prototype of the entry of a single system call, so this is what there is to
/// check the type of an entry against.
#[cfg(all(CONFIG_X86_64, CONFIG_ARCH_HAS_SYSCALL_WRAPPER))]
pub type Entry = bindings::sys_call_ptr_t;

/// The type of an entry of the architecture's table of system calls.
///
/// No header has a prototype of the entry of a single system call, so this is what there is to
/// check the type of an entry against.
#[cfg(all(CONFIG_PPC64, CONFIG_ARCH_HAS_SYSCALL_WRAPPER))]
pub type Entry = bindings::syscall_fn;

/// Returns the registers that hold the arguments of a 64-bit system call, x32 included.
///
/// # Safety
///
/// `regs` must be valid for reads.
#[cfg(all(CONFIG_X86_64, CONFIG_ARCH_HAS_SYSCALL_WRAPPER))]
#[inline(always)]
pub unsafe fn x64_args(regs: *const bindings::pt_regs) -> [c_ulong; MAX_ARGS] {
    // SAFETY: The caller guarantees that `regs` is valid for reads.
    unsafe {
        [
            (*regs).di,
            (*regs).si,
            (*regs).dx,
            (*regs).r10,
            (*regs).r8,
            (*regs).r9,
        ]
    }
}

/// Returns the registers that hold the arguments of a 32-bit system call on x86-64.
///
/// The registers are not cut to 32 bits yet: [`Arg::from_ia32_reg`] does it.
///
/// # Safety
///
/// `regs` must be valid for reads.
#[cfg(all(CONFIG_IA32_EMULATION, CONFIG_ARCH_HAS_SYSCALL_WRAPPER))]
#[inline(always)]
pub unsafe fn ia32_args(regs: *const bindings::pt_regs) -> [c_ulong; MAX_ARGS] {
    // SAFETY: The caller guarantees that `regs` is valid for reads.
    unsafe {
        [
            (*regs).bx,
            (*regs).cx,
            (*regs).dx,
            (*regs).si,
            (*regs).di,
            (*regs).bp,
        ]
    }
}

/// Returns the registers that hold the arguments of a system call on 64-bit powerpc.
///
/// # Safety
///
/// `regs` must be valid for reads.
#[cfg(all(CONFIG_PPC64, CONFIG_ARCH_HAS_SYSCALL_WRAPPER))]
#[inline(always)]
pub unsafe fn ppc64_args(regs: *const bindings::pt_regs) -> [c_ulong; MAX_ARGS] {
    // SAFETY: The caller guarantees that `regs` is valid for reads. Both variants of the union are
    // the same registers.
    let gpr = unsafe { &raw const (*regs).__bindgen_anon_1.user_regs.gpr };
    // SAFETY: As above.
    unsafe {
        [
            (*gpr)[3],
            (*gpr)[4],
            (*gpr)[5],
            (*gpr)[6],
            (*gpr)[7],
            (*gpr)[8],
        ]
    }
}

#[cfg(CONFIG_FTRACE_SYSCALLS)]
mod metadata {
    use super::MAX_ARGS;
    use crate::{
        bindings,
        ffi::{
            c_char,
            c_int, //
        },
        str::{
            as_char_ptr_in_const_context,
            CStr, //
        },
        types::Opaque, //
    };
    use core::{
        mem::offset_of,
        ptr::null_mut, //
    };

    /// What C's `SYSCALL_METADATA()` makes for a system call with `N` arguments.
    ///
    /// This lives in a static, which C finds by a [`MetadataPtr`] and two [`EventPtr`]s in sections
    /// of their own.
    ///
    /// # Invariants
    ///
    /// The pointers from one field to another point into the static that holds this value.
    #[repr(C)]
    pub struct Metadata<const N: usize> {
        call: Opaque<bindings::syscall_metadata>,
        enter: Opaque<bindings::trace_event_call>,
        exit: Opaque<bindings::trace_event_call>,
        types: [*const c_char; N],
        args: [*const c_char; N],
    }

    // SAFETY: Rust code takes the addresses of the first three fields and nothing else; what C does
    // with what is there goes by the locks of the tracing code. The strings are never written to.
    unsafe impl<const N: usize> Sync for Metadata<N> {}

    impl<const N: usize> Metadata<N> {
        /// Makes the metadata of the system call `name` ("sys_" and the name) and its events.
        ///
        /// # Safety
        ///
        /// `this` must be the address of the static that this value initialises.
        pub const unsafe fn new(
            this: *const Self,
            name: &'static CStr,
            enter: &'static CStr,
            exit: &'static CStr,
            types: [&'static CStr; N],
            args: [&'static CStr; N],
        ) -> Self {
            const { assert!(N <= MAX_ARGS) };

            // The static does not have its value yet, so nothing below may read it: only addresses
            // are taken.
            let this = this.cast_mut();
            let call: *mut bindings::syscall_metadata =
                this.wrapping_byte_add(offset_of!(Self, call)).cast();
            let fields: *mut bindings::list_head = call
                .wrapping_byte_add(offset_of!(bindings::syscall_metadata, enter_fields))
                .cast();

            // INVARIANT: The caller guarantees that `this` is the static.
            Self {
                call: Opaque::new(bindings::syscall_metadata {
                    name: as_char_ptr_in_const_context(name),
                    // Filled in at boot.
                    syscall_nr: -1,
                    // C has two bit-fields here: `nb_args`, 7 bits, and `user_arg_is_str`, 1 bit.
                    _bitfield_1: bindings::__BindgenBitfieldUnit::new([
                        if cfg!(target_endian = "big") {
                            (N as u8) << 1
                        } else {
                            N as u8
                        },
                    ]),
                    types: if N == 0 {
                        null_mut()
                    } else {
                        this.wrapping_byte_add(offset_of!(Self, types)).cast()
                    },
                    args: if N == 0 {
                        null_mut()
                    } else {
                        this.wrapping_byte_add(offset_of!(Self, args)).cast()
                    },
                    enter_fields: bindings::list_head {
                        next: fields,
                        prev: fields,
                    },
                    enter_event: this.wrapping_byte_add(offset_of!(Self, enter)).cast(),
                    exit_event: this.wrapping_byte_add(offset_of!(Self, exit)).cast(),
                    ..pin_init::zeroed()
                }),
                enter: Opaque::new(event(
                    enter,
                    &raw mut bindings::event_class_syscall_enter,
                    &raw mut bindings::enter_syscall_print_funcs,
                    call,
                )),
                exit: Opaque::new(event(
                    exit,
                    &raw mut bindings::event_class_syscall_exit,
                    &raw mut bindings::exit_syscall_print_funcs,
                    call,
                )),
                types: pointers(types),
                args: pointers(args),
            }
        }

        /// Returns the pointer for the section `__syscalls_metadata`.
        pub const fn call(&'static self) -> MetadataPtr {
            MetadataPtr(self.call.get())
        }

        /// Returns the pointer to the event `sys_enter_*` for the section `_ftrace_events`.
        pub const fn enter(&'static self) -> EventPtr {
            EventPtr(self.enter.get())
        }

        /// Returns the pointer to the event `sys_exit_*` for the section `_ftrace_events`.
        pub const fn exit(&'static self) -> EventPtr {
            EventPtr(self.exit.get())
        }
    }

    /// A pointer to the metadata of a system call, for the section `__syscalls_metadata`.
    #[repr(transparent)]
    pub struct MetadataPtr(*mut bindings::syscall_metadata);

    // SAFETY: Rust code does not use the pointer.
    unsafe impl Sync for MetadataPtr {}

    /// A pointer to an event, for the section `_ftrace_events`.
    #[repr(transparent)]
    pub struct EventPtr(*mut bindings::trace_event_call);

    // SAFETY: Rust code does not use the pointer.
    unsafe impl Sync for EventPtr {}

    /// Makes one of the two events of the system call `call`.
    const fn event(
        name: &'static CStr,
        class: *mut bindings::trace_event_class,
        funcs: *mut bindings::trace_event_functions,
        call: *mut bindings::syscall_metadata,
    ) -> bindings::trace_event_call {
        bindings::trace_event_call {
            class,
            __bindgen_anon_1: bindings::trace_event_call__bindgen_ty_1 {
                name: as_char_ptr_in_const_context(name),
            },
            event: bindings::trace_event {
                funcs,
                ..pin_init::zeroed()
            },
            data: call.cast(),
            flags: bindings::TRACE_EVENT_FL_CAP_ANY as c_int,
            ..pin_init::zeroed()
        }
    }

    /// Returns the array of pointers that C has where Rust has an array of strings.
    const fn pointers<const N: usize>(strings: [&'static CStr; N]) -> [*const c_char; N] {
        let mut pointers = [core::ptr::null(); N];
        let mut i = 0;
        while i < N {
            pointers[i] = as_char_ptr_in_const_context(strings[i]);
            i += 1;
        }
        pointers
    }
}

#[cfg(CONFIG_FTRACE_SYSCALLS)]
pub use metadata::{
    EventPtr,
    Metadata,
    MetadataPtr, //
};
