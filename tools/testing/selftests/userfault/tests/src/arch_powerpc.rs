// SPDX-License-Identifier: GPL-2.0

//! What the tests need to know of powerpc: 64 bits, little-endian.

#![allow(non_upper_case_globals)]

pub const SYS_pkey_alloc: libc::c_long = 384;
pub const SYS_pkey_mprotect: libc::c_long = 386;
/// mmap has no such flag.
pub const MAP_32BIT: libc::c_int = 0;

// Each access is the first instruction of its function.
std::arch::global_asm!(
    ".globl uft_load, uft_store, uft_copy, uft_fault",
    "uft_load:",
    "    lbz 3, 0(3)",
    "    blr",
    "uft_store:",
    "    stb 4, 0(3)",
    "    li 3, 0",
    "    blr",
    // There is at least one word.
    "uft_copy:",
    "    ld 0, 0(4)",
    "    std 0, 0(3)",
    "    addi 3, 3, 8",
    "    addi 4, 4, 8",
    "    addic. 6, 6, -1",
    "    bne uft_copy",
    "    li 3, 0",
    "    blr",
    "uft_fault:",
    "    li 3, 0x100",
    "    blr",
);

/// The place of the program counter among the registers that a signal saves: C's `PT_NIP`.
const NIP: usize = 32;

/// Where a signal has found the program.
pub fn program_counter(context: &libc::ucontext_t) -> usize {
    context.uc_mcontext.gp_regs[NIP] as usize
}

/// Lets it go on elsewhere.
pub fn set_program_counter(context: &mut libc::ucontext_t, pc: usize) {
    context.uc_mcontext.gp_regs[NIP] = pc as libc::c_ulong;
}
