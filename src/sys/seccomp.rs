//! Loading a seccomp filter into the calling thread (seccomp(2)).

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

/// One instruction of classic BPF, as the kernel reads it (`struct sock_filter`).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// Operation, addressing mode and operand size.
    pub code: u16,
    /// Instructions to skip when a comparison holds.
    pub jt: u8,
    /// Instructions to skip when a comparison fails.
    pub jf: u8,
    /// The operand.
    pub k: u32,
}

/// Load the 32-bit word at offset `k` of `struct seccomp_data`.
pub const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
/// Bitwise and with `k`.
pub const AND: u16 = (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16;
/// Skip `k` instructions.
pub const JUMP: u16 = (libc::BPF_JMP | libc::BPF_JA) as u16;
/// Compare: equal to `k`.
pub const JUMP_EQ: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
/// Compare: greater than `k`, unsigned.
pub const JUMP_GT: u16 = (libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K) as u16;
/// Compare: at least `k`, unsigned.
pub const JUMP_GE: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
/// End with the verdict `k`.
pub const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

/// The kernel's limit on a filter's length, in instructions (`BPF_MAXINSNS`).
pub const INSTRUCTIONS_MAX: usize = 4096;

/// Verdicts of a filter (`SECCOMP_RET_*`); the low 16 bits of some carry data.
pub mod verdict {
    /// Kill the process.
    pub const KILL_PROCESS: u32 = libc::SECCOMP_RET_KILL_PROCESS;
    /// Kill the thread.
    pub const KILL_THREAD: u32 = libc::SECCOMP_RET_KILL_THREAD;
    /// Send SIGSYS.
    pub const TRAP: u32 = libc::SECCOMP_RET_TRAP;
    /// Fail with the error number in the low 16 bits.
    pub const ERRNO: u32 = libc::SECCOMP_RET_ERRNO;
    /// Ask the listener.
    pub const NOTIFY: u32 = libc::SECCOMP_RET_USER_NOTIF;
    /// Ask the tracer, with the data in the low 16 bits.
    pub const TRACE: u32 = libc::SECCOMP_RET_TRACE;
    /// Allow and log.
    pub const LOG: u32 = libc::SECCOMP_RET_LOG;
    /// Allow.
    pub const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
}

/// Flags of [`load`] (`SECCOMP_FILTER_FLAG_*`).
pub mod flag {
    /// Apply to all threads of the process.
    pub const TSYNC: u32 = libc::SECCOMP_FILTER_FLAG_TSYNC as u32;
    /// Log every verdict but `ALLOW`.
    pub const LOG: u32 = libc::SECCOMP_FILTER_FLAG_LOG as u32;
    /// Leave speculative store bypass alone.
    pub const SPEC_ALLOW: u32 = libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW as u32;
    /// Make a file descriptor on which `NOTIFY` verdicts are asked.
    pub const NEW_LISTENER: u32 = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER as u32;
    /// A call that waits for its listener can be killed (Linux 5.19).
    pub const WAIT_KILLABLE_RECV: u32 = 1 << 5;
}

/// Puts `filter` on the calling thread for good and returns the listener if [`flag::NEW_LISTENER`] was given.
///
/// Needs no-new-privileges or CAP_SYS_ADMIN in the own user namespace (EACCES otherwise). EINVAL: the program is empty,
/// longer than [`INSTRUCTIONS_MAX`], malformed, or a flag is unknown to this kernel.
pub fn load(filter: &[Instruction], flags: u32) -> io::Result<Option<OwnedFd>> {
    if filter.is_empty() || filter.len() > INSTRUCTIONS_MAX {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let program = libc::sock_fprog {
        len: filter.len() as libc::c_ushort,
        filter: filter.as_ptr().cast_mut().cast(),
    };
    // SAFETY: `program` points at `len` instructions that have the layout of `struct sock_filter`; the kernel copies
    // them and writes nothing.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::c_ulong::from(flags),
            &raw const program,
        )
    };
    match result {
        -1 => Err(io::Error::last_os_error()),
        fd if flags & flag::NEW_LISTENER != 0 => {
            // SAFETY: with NEW_LISTENER a non-negative result is a new descriptor that nobody else owns.
            Ok(Some(unsafe { OwnedFd::from_raw_fd(fd as i32) }))
        }
        0 => Ok(None),
        thread => Err(io::Error::other(format!(
            "thread {thread} already has a filter of its own"
        ))),
    }
}
