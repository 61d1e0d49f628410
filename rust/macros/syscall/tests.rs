// SPDX-License-Identifier: GPL-2.0

//! What `#[syscall]` makes of a function, and what it refuses.

use super::*;

/// Expands the macro, and returns what comes after the function as normalised text.
fn expand(item: TokenStream) -> String {
    syscall(TokenStream::new(), item)
        .expect("the system call should be accepted")
        .to_string()
}

/// Returns the message with which the macro rejects the item.
fn error(item: &str) -> String {
    error_with(TokenStream::new(), item)
}

/// Returns the message with which the macro rejects its arguments or the item.
fn error_with(attr: TokenStream, item: &str) -> String {
    syscall(attr, item.parse().expect("the item should have tokens"))
        .expect_err("the system call should be rejected")
        .to_string()
}

/// The error for architectures that the macro does not know.
fn unknown_arch() -> TokenStream {
    quote! {
        #[cfg(not(any(
            all(CONFIG_X86_64, CONFIG_ARCH_HAS_SYSCALL_WRAPPER),
            CONFIG_PPC64,
        )))]
        ::core::compile_error!("`#[syscall]` does not know how this architecture calls");
    }
}

#[test]
fn whole_expansion() {
    let unknown_arch = unknown_arch();
    let expected = quote! {
        /// Documented.
        fn example(addr: usize, mut flags: c_int) -> Result<usize> {
            flags += 1;
            work(addr, flags)
        }

        #[allow(unsafe_code)]
        const _: () = {
            fn __do_sys_example(arg0: usize, arg1: c_int) -> ::kernel::ffi::c_long {
                ::kernel::syscall::into_reg(example(arg0, arg1))
            }

            #[cfg(all(CONFIG_X86_64, CONFIG_ARCH_HAS_SYSCALL_WRAPPER))]
            const _: () = {
                const _: ::kernel::syscall::Entry =
                    ::core::option::Option::Some(__x64_sys_example);

                #[no_mangle]
                unsafe extern "C" fn __x64_sys_example(
                    regs: *const ::kernel::bindings::pt_regs,
                ) -> ::kernel::ffi::c_long {
                    let [arg0, arg1, ..] = unsafe { ::kernel::syscall::x64_args(regs) };
                    __do_sys_example(
                        <usize as ::kernel::syscall::Arg>::from_reg(arg0),
                        <c_int as ::kernel::syscall::Arg>::from_reg(arg1)
                    )
                }
            };

            #[cfg(all(CONFIG_IA32_EMULATION, CONFIG_ARCH_HAS_SYSCALL_WRAPPER))]
            const _: () = {
                const _: ::kernel::syscall::Entry =
                    ::core::option::Option::Some(__ia32_sys_example);

                #[no_mangle]
                unsafe extern "C" fn __ia32_sys_example(
                    regs: *const ::kernel::bindings::pt_regs,
                ) -> ::kernel::ffi::c_long {
                    let [arg0, arg1, ..] = unsafe { ::kernel::syscall::ia32_args(regs) };
                    __do_sys_example(
                        <usize as ::kernel::syscall::Arg>::from_ia32_reg(arg0),
                        <c_int as ::kernel::syscall::Arg>::from_ia32_reg(arg1)
                    )
                }
            };

            #[cfg(all(CONFIG_PPC64, CONFIG_ARCH_HAS_SYSCALL_WRAPPER))]
            const _: () = {
                const _: ::kernel::syscall::Entry =
                    ::core::option::Option::Some(sys_example);

                #[no_mangle]
                unsafe extern "C" fn sys_example(
                    regs: *const ::kernel::bindings::pt_regs,
                ) -> ::kernel::ffi::c_long {
                    let [arg0, arg1, ..] = unsafe { ::kernel::syscall::ppc64_args(regs) };
                    __do_sys_example(
                        <usize as ::kernel::syscall::Arg>::from_reg(arg0),
                        <c_int as ::kernel::syscall::Arg>::from_reg(arg1)
                    )
                }
            };

            #[cfg(all(CONFIG_PPC64, not(CONFIG_ARCH_HAS_SYSCALL_WRAPPER)))]
            #[no_mangle]
            extern "C" fn sys_example(
                arg0: ::kernel::ffi::c_ulong,
                arg1: ::kernel::ffi::c_ulong
            ) -> ::kernel::ffi::c_long {
                __do_sys_example(
                    <usize as ::kernel::syscall::Arg>::from_reg(arg0),
                    <c_int as ::kernel::syscall::Arg>::from_reg(arg1)
                )
            }

            #unknown_arch

            #[cfg(CONFIG_FTRACE_SYSCALLS)]
            const _: () = {
                static METADATA: ::kernel::syscall::Metadata<2usize> = unsafe {
                    ::kernel::syscall::Metadata::new(
                        &raw const METADATA,
                        c"sys_example",
                        c"sys_enter_example",
                        c"sys_exit_example",
                        [
                            <usize as ::kernel::syscall::Arg>::C_TYPE,
                            <c_int as ::kernel::syscall::Arg>::C_TYPE
                        ],
                        [c"addr", c"flags"],
                    )
                };

                #[link_section = "__syscalls_metadata"]
                #[used(compiler)]
                static CALL: ::kernel::syscall::MetadataPtr = METADATA.call();

                #[link_section = "_ftrace_events"]
                #[used(compiler)]
                static ENTER: ::kernel::syscall::EventPtr = METADATA.enter();

                #[link_section = "_ftrace_events"]
                #[used(compiler)]
                static EXIT: ::kernel::syscall::EventPtr = METADATA.exit();
            };
        };
    };

    assert_eq!(
        expand(quote! {
            /// Documented.
            fn example(addr: usize, mut flags: c_int) -> Result<usize> {
                flags += 1;
                work(addr, flags)
            }
        }),
        expected.to_string()
    );
}

#[test]
fn no_arguments() {
    let expansion = expand(quote!(
        fn nothing() -> Result {
            Ok(())
        }
    ));

    // The registers are not read.
    let entry = quote! {
        unsafe extern "C" fn __x64_sys_nothing(
            _: *const ::kernel::bindings::pt_regs,
        ) -> ::kernel::ffi::c_long {
            __do_sys_nothing()
        }
    };
    assert!(expansion.contains(&entry.to_string()));

    let metadata = quote! {
        static METADATA: ::kernel::syscall::Metadata<0usize> = unsafe {
            ::kernel::syscall::Metadata::new(
                &raw const METADATA,
                c"sys_nothing",
                c"sys_enter_nothing",
                c"sys_exit_nothing",
                [],
                [],
            )
        };
    };
    assert!(expansion.contains(&metadata.to_string()));
}

#[test]
fn six_arguments() {
    let expansion = expand(quote!(
        fn most(a: u8, b: u16, c: u32, d: u64, e: i64, f: kernel::uaccess::UserPtr) -> Result {
            Ok(())
        }
    ));

    let body = quote! {
        let [arg0, arg1, arg2, arg3, arg4, arg5, ..] =
            unsafe { ::kernel::syscall::ia32_args(regs) };
        __do_sys_most(
            <u8 as ::kernel::syscall::Arg>::from_ia32_reg(arg0),
            <u16 as ::kernel::syscall::Arg>::from_ia32_reg(arg1),
            <u32 as ::kernel::syscall::Arg>::from_ia32_reg(arg2),
            <u64 as ::kernel::syscall::Arg>::from_ia32_reg(arg3),
            <i64 as ::kernel::syscall::Arg>::from_ia32_reg(arg4),
            <kernel::uaccess::UserPtr as ::kernel::syscall::Arg>::from_ia32_reg(arg5)
        )
    };
    assert!(expansion.contains(&body.to_string()));
    assert!(expansion.contains(&quote!([c"a", c"b", c"c", c"d", c"e", c"f"]).to_string()));
}

#[test]
fn raw_identifiers() {
    let expansion = expand(quote!(
        fn r#break(r#type: usize) -> Result {
            Ok(())
        }
    ));

    assert!(expansion.contains("fn __x64_sys_break"));
    assert!(expansion.contains("fn __do_sys_break"));
    assert!(expansion.contains("(r#break (arg0))"));
    assert!(expansion.contains(r#"c"sys_enter_break""#));
    assert!(expansion.contains(r#"c"type""#));
}

#[test]
fn conditional() {
    let expansion = expand(quote!(
        #[inline]
        #[cfg(CONFIG_EXAMPLE)]
        fn example() -> Result {
            Ok(())
        }
    ));

    let gated = quote! {
        #[cfg(CONFIG_EXAMPLE)]
        #[allow(unsafe_code)]
        const _: () =
    };
    assert!(expansion.contains(&gated.to_string()));
    // The other attributes belong to the function alone.
    assert_eq!(expansion.matches("# [inline]").count(), 1);
}

#[test]
fn rejects_attribute_arguments() {
    assert_eq!(
        error_with(quote!(name = "x"), "fn f() -> Result {}"),
        "`#[syscall]` attribute does not take arguments"
    );
}

#[test]
fn rejects_other_items() {
    for item in ["struct S;", "fn f() -> Result;", "impl S {}", ""] {
        assert!(
            error(item).starts_with("`#[syscall]` attribute should only be applied to functions: ")
        );
    }
}

#[test]
fn rejects_qualifiers() {
    assert_eq!(
        error("async fn f() -> Result {}"),
        "a system call cannot be `async`"
    );
    assert_eq!(
        error("unsafe fn f() -> Result {}"),
        "a system call cannot be `unsafe`: programs do not keep to a safety contract"
    );
    assert_eq!(
        error(r#"extern "C" fn f() -> Result {}"#),
        "a system call is an ordinary Rust function: `#[syscall]` generates the `extern` one"
    );
}

#[test]
fn rejects_generics() {
    for item in [
        "fn f<T: Arg>(t: T) -> Result {}",
        "fn f<'a>() -> Result {}",
        "fn f<const N: usize>() -> Result {}",
        "fn f() -> Result where usize: Sized {}",
    ] {
        assert_eq!(error(item), "a system call cannot be generic");
    }
}

#[test]
fn rejects_signatures() {
    assert_eq!(
        error("fn f() {}"),
        "a system call should return `Result<T>`, where `T` is an integer or `()`"
    );
    assert_eq!(
        error("fn f(a: u8, b: u8, c: u8, d: u8, e: u8, f: u8, g: u8) -> Result {}"),
        "a system call cannot have more than 6 arguments"
    );
    assert_eq!(
        error("fn f(a: usize, ...) -> Result {}"),
        "a system call cannot be variadic"
    );
}

#[test]
fn rejects_methods() {
    for item in [
        "fn f(self) -> Result {}",
        "fn f(&self, a: usize) -> Result {}",
        "fn f(&mut self) -> Result {}",
        "fn f(self: Arc<Self>) -> Result {}",
    ] {
        assert_eq!(error(item), "a system call cannot be a method");
    }
}

#[test]
fn rejects_arguments() {
    for item in [
        "fn f(_: usize) -> Result {}",
        "fn f(a: usize, ref b: usize) -> Result {}",
        "fn f((a, b): (usize, usize)) -> Result {}",
        "fn f(a @ 1..: usize) -> Result {}",
    ] {
        assert_eq!(
            error(item),
            "an argument of a system call should have a name, which tracing shows"
        );
    }
    for item in [
        "fn f(#[cfg(CONFIG_X)] a: usize) -> Result {}",
        "fn f(#[cfg_attr(CONFIG_X, allow(unused))] a: usize) -> Result {}",
    ] {
        assert_eq!(
            error(item),
            "an argument of a system call cannot be conditional"
        );
    }
}
