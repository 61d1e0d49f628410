// SPDX-License-Identifier: GPL-2.0

use std::ffi::CString;

use proc_macro2::{
    Span,
    TokenStream, //
};
use quote::{
    format_ident,
    quote,
    quote_spanned,
    ToTokens, //
};
use syn::{
    ext::IdentExt,
    parse2,
    spanned::Spanned,
    Attribute,
    Error,
    FnArg,
    Ident,
    ItemFn,
    LitCStr,
    Pat,
    Result,
    ReturnType,
    Signature,
    Type, //
};

/// C's `SYSCALL_DEFINE_MAXARGS`.
const MAX_ARGS: usize = 6;

/// An argument of the system call.
struct Arg {
    name: Ident,
    ty: Type,
}

/// An entry that takes the registers of the caller in a `struct pt_regs`.
struct RegsEntry {
    /// When the entry exists.
    cfg: TokenStream,
    /// What comes before the name of the system call in the symbol.
    prefix: &'static str,
    /// The function in `kernel::syscall` that reads the registers.
    args: &'static str,
    /// The method of `kernel::syscall::Arg` that makes an argument from a register.
    from_reg: &'static str,
}

/// Please see [`crate::syscall`] for documentation.
pub(crate) fn syscall(attr: TokenStream, item: TokenStream) -> Result<TokenStream> {
    if !attr.is_empty() {
        return Err(Error::new_spanned(
            attr,
            "`#[syscall]` attribute does not take arguments",
        ));
    }

    let f: ItemFn = parse2(item).map_err(|e| {
        Error::new(
            e.span(),
            format!("`#[syscall]` attribute should only be applied to functions: {e}"),
        )
    })?;
    let args = check(&f)?;

    let body = body(&f.sig, &args);
    let entries = entries(&f.sig, &args);
    let metadata = metadata(&f.sig.ident, &args)?;
    let cfg_attrs: Vec<&Attribute> = crate::helpers::gather_cfg_attrs(&f.attrs).collect();

    // The code generated for the following system call:
    //
    // ```
    // #[syscall]
    // fn example(addr: usize, flags: c_int) -> Result<usize> {
    //     ...
    // }
    // ```
    //
    // Looks like:
    //
    // ```
    // fn example(addr: usize, flags: c_int) -> Result<usize> {
    //     ...
    // }
    //
    // #[allow(unsafe_code)]
    // const _: () = {
    //     fn __do_sys_example(arg0: usize, arg1: c_int) -> ::kernel::ffi::c_long {
    //         ::kernel::syscall::into_reg(example(arg0, arg1))
    //     }
    //
    //     #[cfg(all(CONFIG_X86_64, CONFIG_ARCH_HAS_SYSCALL_WRAPPER))]
    //     const _: () = {
    //         const _: ::kernel::syscall::Entry = Some(__x64_sys_example);
    //
    //         #[no_mangle]
    //         unsafe extern "C" fn __x64_sys_example(
    //             regs: *const ::kernel::bindings::pt_regs,
    //         ) -> ::kernel::ffi::c_long {
    //             let [arg0, arg1, ..] = unsafe { ::kernel::syscall::x64_args(regs) };
    //             __do_sys_example(
    //                 <usize as ::kernel::syscall::Arg>::from_reg(arg0),
    //                 <c_int as ::kernel::syscall::Arg>::from_reg(arg1),
    //             )
    //         }
    //     };
    //
    //     // The same for `__ia32_sys_example`, and for powerpc's `sys_example`, ...
    //
    //     #[cfg(CONFIG_FTRACE_SYSCALLS)]
    //     const _: () = {
    //         static METADATA: ::kernel::syscall::Metadata<2> =
    //             unsafe {
    //                 ::kernel::syscall::Metadata::new(
    //                     &raw const METADATA,
    //                     c"sys_example",
    //                     c"sys_enter_example",
    //                     c"sys_exit_example",
    //                     [
    //                         <usize as ::kernel::syscall::Arg>::C_TYPE,
    //                         <c_int as ::kernel::syscall::Arg>::C_TYPE,
    //                     ],
    //                     [c"addr", c"flags"],
    //                 )
    //             };
    //
    //         #[link_section = "__syscalls_metadata"]
    //         #[used(compiler)]
    //         static CALL: ::kernel::syscall::MetadataPtr = METADATA.call();
    //
    //         #[link_section = "_ftrace_events"]
    //         #[used(compiler)]
    //         static ENTER: ::kernel::syscall::EventPtr = METADATA.enter();
    //
    //         #[link_section = "_ftrace_events"]
    //         #[used(compiler)]
    //         static EXIT: ::kernel::syscall::EventPtr = METADATA.exit();
    //     };
    // };
    // ```
    Ok(quote! {
        #f

        // What is `unsafe` below is justified here, not where the system call is.
        #(#cfg_attrs)*
        #[allow(unsafe_code)]
        const _: () = {
            #body
            #entries
            #metadata
        };
    })
}

/// Checks that the function can be a system call, and returns its arguments.
fn check(f: &ItemFn) -> Result<Vec<Arg>> {
    // Destructure, so that nothing new in a signature is overlooked.
    let Signature {
        constness: _,
        asyncness,
        unsafety,
        abi,
        fn_token: _,
        ident,
        generics,
        paren_token: _,
        inputs,
        variadic,
        output,
    } = &f.sig;

    if let Some(asyncness) = asyncness {
        return Err(Error::new_spanned(
            asyncness,
            "a system call cannot be `async`",
        ));
    }

    if let Some(unsafety) = unsafety {
        return Err(Error::new_spanned(
            unsafety,
            "a system call cannot be `unsafe`: programs do not keep to a safety contract",
        ));
    }

    if let Some(abi) = abi {
        return Err(Error::new_spanned(
            abi,
            "a system call is an ordinary Rust function: `#[syscall]` generates the `extern` one",
        ));
    }

    if !generics.params.is_empty() || generics.where_clause.is_some() {
        return Err(Error::new_spanned(
            if generics.params.is_empty() {
                generics.where_clause.to_token_stream()
            } else {
                generics.params.to_token_stream()
            },
            "a system call cannot be generic",
        ));
    }

    if let Some(variadic) = variadic {
        return Err(Error::new_spanned(
            variadic,
            "a system call cannot be variadic",
        ));
    }

    if matches!(output, ReturnType::Default) {
        return Err(Error::new_spanned(
            ident,
            "a system call should return `Result<T>`, where `T` is an integer or `()`",
        ));
    }

    if let Some(excess) = inputs.iter().nth(MAX_ARGS) {
        return Err(Error::new_spanned(
            excess,
            "a system call cannot have more than 6 arguments",
        ));
    }

    inputs.iter().map(check_arg).collect()
}

/// Checks one argument.
fn check_arg(arg: &FnArg) -> Result<Arg> {
    let arg = match arg {
        FnArg::Receiver(receiver) => {
            return Err(Error::new_spanned(
                receiver,
                "a system call cannot be a method",
            ));
        }
        FnArg::Typed(arg) => arg,
    };

    // These are not evaluated yet, so it is not known whether the argument exists.
    if let Some(attr) = arg
        .attrs
        .iter()
        .find(|a| a.path().is_ident("cfg") || a.path().is_ident("cfg_attr"))
    {
        return Err(Error::new_spanned(
            attr,
            "an argument of a system call cannot be conditional",
        ));
    }

    match &*arg.pat {
        Pat::Ident(pat) if pat.by_ref.is_none() && pat.subpat.is_none() => Ok(Arg {
            name: pat.ident.clone(),
            ty: (*arg.ty).clone(),
        }),
        pat => Err(Error::new_spanned(
            pat,
            "an argument of a system call should have a name, which tracing shows",
        )),
    }
}

/// Generates what all entries call. One function: what it returns fits into a register, which a
/// `Result` does not, and the system call can be inlined there, whatever its size.
fn body(sig: &Signature, args: &[Arg]) -> TokenStream {
    let body = body_name(&sig.ident);
    let name = &sig.ident;
    let vars = vars(args);
    let types = args.iter().map(|Arg { ty, .. }| ty);

    // An error about a type should point at the type.
    let at_output = match &sig.output {
        ReturnType::Default => Span::call_site(),
        ReturnType::Type(_, ty) => at(ty),
    };
    let result = quote_spanned!(at_output=> ::kernel::syscall::into_reg(#name(#(#vars),*)));

    quote! {
        fn #body(#(#vars: #types),*) -> ::kernel::ffi::c_long {
            #result
        }
    }
}

/// Returns the name of what [`body`] generates. It is C's.
fn body_name(name: &Ident) -> Ident {
    format_ident!("__do_sys_{}", name.unraw(), span = Span::mixed_site())
}

/// Generates the functions that the architecture's table of system calls names.
fn entries(sig: &Signature, args: &[Arg]) -> TokenStream {
    let regs_entries = [
        RegsEntry {
            cfg: quote!(all(CONFIG_X86_64, CONFIG_ARCH_HAS_SYSCALL_WRAPPER)),
            prefix: "__x64_sys_",
            args: "x64_args",
            from_reg: "from_reg",
        },
        RegsEntry {
            cfg: quote!(all(CONFIG_IA32_EMULATION, CONFIG_ARCH_HAS_SYSCALL_WRAPPER)),
            prefix: "__ia32_sys_",
            args: "ia32_args",
            from_reg: "from_ia32_reg",
        },
        RegsEntry {
            cfg: quote!(all(CONFIG_PPC64, CONFIG_ARCH_HAS_SYSCALL_WRAPPER)),
            prefix: "sys_",
            args: "ppc64_args",
            from_reg: "from_reg",
        },
    ]
    .map(|entry| regs_entry(&entry, sig, args));
    let plain_entry = plain_entry(sig, args);

    quote! {
        #(#regs_entries)*
        #plain_entry

        #[cfg(not(any(
            all(CONFIG_X86_64, CONFIG_ARCH_HAS_SYSCALL_WRAPPER),
            CONFIG_PPC64,
        )))]
        ::core::compile_error!("`#[syscall]` does not know how this architecture calls");
    }
}

/// Generates an entry that takes the registers of the caller in a `struct pt_regs`.
fn regs_entry(entry: &RegsEntry, sig: &Signature, args: &[Arg]) -> TokenStream {
    let cfg = &entry.cfg;
    let symbol = symbol(entry.prefix, &sig.ident);
    // What the function is called must not be taken for one of the variables.
    let regs = Ident::new("regs", Span::mixed_site());
    let vars = vars(args);
    let call = call(sig, args, &vars, entry.from_reg);

    // Where there are no arguments, there is nothing to read.
    let (param, read) = if args.is_empty() {
        (quote!(_), None)
    } else {
        let args = Ident::new(entry.args, Span::call_site());
        let read = quote! {
            // SAFETY: The entry code passes a valid pointer to the registers of the caller.
            let [#(#vars,)* ..] = unsafe { ::kernel::syscall::#args(#regs) };
        };
        (quote!(#regs), Some(read))
    };

    quote! {
        #[cfg(#cfg)]
        const _: () = {
            // This verifies that the table of system calls can have the function as an entry.
            const _: ::kernel::syscall::Entry = ::core::option::Option::Some(#symbol);

            #[no_mangle]
            unsafe extern "C" fn #symbol(
                #param: *const ::kernel::bindings::pt_regs,
            ) -> ::kernel::ffi::c_long {
                #read
                #call
            }
        };
    }
}

/// Generates the entry that takes the arguments as they are in the registers.
fn plain_entry(sig: &Signature, args: &[Arg]) -> TokenStream {
    let symbol = symbol("sys_", &sig.ident);
    let vars = vars(args);
    let call = call(sig, args, &vars, "from_reg");

    quote! {
        #[cfg(all(CONFIG_PPC64, not(CONFIG_ARCH_HAS_SYSCALL_WRAPPER)))]
        #[no_mangle]
        extern "C" fn #symbol(#(#vars: ::kernel::ffi::c_ulong),*) -> ::kernel::ffi::c_long {
            #call
        }
    }
}

/// Returns the symbol of an entry.
fn symbol(prefix: &str, name: &Ident) -> Ident {
    format_ident!("{prefix}{}", name.unraw(), span = name.span())
}

/// Returns the variables that hold the registers of the arguments.
fn vars(args: &[Arg]) -> Vec<Ident> {
    (0..args.len())
        .map(|i| format_ident!("arg{i}", span = Span::mixed_site()))
        .collect()
}

/// Generates the call of the function with the arguments cut to their types.
fn call(sig: &Signature, args: &[Arg], vars: &[Ident], from_reg: &str) -> TokenStream {
    let body = body_name(&sig.ident);
    let from_reg = Ident::new(from_reg, Span::call_site());
    // An error about a type should point at the type.
    let args = args.iter().zip(vars).map(|(Arg { ty, .. }, var)| {
        quote_spanned!(at(ty)=> <#ty as ::kernel::syscall::Arg>::#from_reg(#var))
    });

    quote!(#body(#(#args),*))
}

/// Returns the span of generated code that belongs to what the user wrote there.
fn at(tokens: &impl Spanned) -> Span {
    Span::call_site().located_at(tokens.span())
}

/// Generates what makes the events of the system call appear in tracefs.
fn metadata(name: &Ident, args: &[Arg]) -> Result<TokenStream> {
    let count = args.len();
    let name_cstr = cstr(name, "sys_")?;
    let enter_cstr = cstr(name, "sys_enter_")?;
    let exit_cstr = cstr(name, "sys_exit_")?;
    let types = args
        .iter()
        .map(|Arg { ty, .. }| quote_spanned!(at(ty)=> <#ty as ::kernel::syscall::Arg>::C_TYPE));
    let names = args
        .iter()
        .map(|arg| cstr(&arg.name, ""))
        .collect::<Result<Vec<_>>>()?;

    Ok(quote! {
        #[cfg(CONFIG_FTRACE_SYSCALLS)]
        const _: () = {
            static METADATA: ::kernel::syscall::Metadata<#count> =
                // SAFETY: `this` is the address of the static that the value is for.
                unsafe {
                    ::kernel::syscall::Metadata::new(
                        &raw const METADATA,
                        #name_cstr,
                        #enter_cstr,
                        #exit_cstr,
                        [#(#types),*],
                        [#(#names),*],
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
    })
}

/// Returns `prefix` and the name as a C string.
fn cstr(name: &Ident, prefix: &str) -> Result<LitCStr> {
    let string = CString::new(format!("{prefix}{}", name.unraw()))
        .map_err(|e| Error::new_spanned(name, e))?;

    Ok(LitCStr::new(&string, name.span()))
}

#[cfg(test)]
#[path = "syscall/tests.rs"]
mod tests;
