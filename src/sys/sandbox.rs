//! Shuts the calling process in for the rest of its life, before it touches bytes that nobody vouches for.
//!
//! A list of system calls is all that is left; anything else kills the process (SIGSYS), which whoever waits for it sees.
//! Memory may not become executable. Capabilities other than those that write trees are dropped, for good.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use super::creds::{self, CapState, Caps};
use super::landlock::{self, Access};
use super::process;
use super::seccomp::{self, Instruction, verdict};

/// What the process still does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// Reads and writes descriptors that are open.
    Filter,
    /// Also reads and writes trees below open directories.
    Tree,
}

/// Bytes of address space, more than either profile's bounded buffers need: the largest are the names of a directory with as many
/// entries as a layer may have.
pub const MEMORY_BYTES: u64 = 320 << 20;
/// Seconds of processor time: by far more than the largest layer needs on the slowest device.
const CPU_SECONDS: u64 = 8 * 3600;
/// Open files: a way of directories, and what is in hand.
const FILES: u64 = 1024;

/// Shuts the process in: `trees` are the directories that it may still use (landlock, where the kernel has ABI 2).
/// Returns whether landlock holds. The process must have one thread.
#[allow(
    clippy::unnecessary_cast,
    reason = "the C libraries disagree about the type of these numbers"
)]
pub fn enter(profile: Profile, trees: &[(BorrowedFd, Access)]) -> io::Result<bool> {
    process::set_no_new_privileges()?;
    process::set_dumpable(false)?;
    process::set_limit(libc::RLIMIT_CORE as u32, 0, 0)?;
    lower(libc::RLIMIT_AS as u32, MEMORY_BYTES)?;
    lower(libc::RLIMIT_CPU as u32, CPU_SECONDS)?;
    lower(libc::RLIMIT_NOFILE as u32, FILES)?;
    drop_caps(profile)?;
    let locked = landlock::restrict(trees)?;
    seccomp::load(&program(profile), 0)?;
    Ok(locked)
}

/// Makes `dir` the root of this process, where it may: paths then mean nothing outside it.
pub fn enter_root(dir: impl AsFd) -> io::Result<()> {
    let chroot = Caps::by_name("SYS_CHROOT").unwrap_or_default();
    if !creds::caps()?.effective.has(chroot) {
        return Ok(());
    }
    nix::unistd::fchdir(dir)?;
    Ok(nix::unistd::chroot(".")?)
}

fn lower(resource: u32, value: u64) -> io::Result<()> {
    let (soft, hard) = process::limit(resource)?;
    let hard = hard.min(value);
    process::set_limit(resource, soft.min(value).max(hard.min(value)), hard)
}

fn drop_caps(profile: Profile) -> io::Result<()> {
    let names: &[&str] = match profile {
        Profile::Filter => &[],
        Profile::Tree => &[
            "CHOWN",
            "DAC_OVERRIDE",
            "DAC_READ_SEARCH",
            "FOWNER",
            "FSETID",
            "MKNOD",
            "SETFCAP",
        ],
    };
    let keep = Caps::by_names(names);
    let had = creds::caps()?;
    if had.effective.has(Caps::by_name("SETPCAP").unwrap_or_default()) {
        creds::limit_bounding(keep)?;
    }
    let state = CapState {
        effective: had.effective.and(keep),
        permitted: had.permitted.and(keep),
        inheritable: Caps::NONE,
    };
    // The agent's unit has nothing to drop, and forbids the call.
    if had == state {
        return Ok(());
    }
    creds::set_caps(&state)
}

/// Calls of both profiles: buffers, memory, the end.
const FILTER: &[libc::c_long] = &[
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_close,
    libc::SYS_ppoll,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_futex,
    libc::SYS_getrandom,
    libc::SYS_clock_gettime,
    libc::SYS_sched_yield,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_tgkill,
    libc::SYS_tkill,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// Calls of [`Profile::Tree`] alone.
const TREE: &[libc::c_long] = &[
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_mkdirat,
    libc::SYS_mknodat,
    libc::SYS_symlinkat,
    libc::SYS_linkat,
    libc::SYS_unlinkat,
    libc::SYS_renameat2,
    libc::SYS_readlinkat,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_fstatfs,
    libc::SYS_getdents64,
    libc::SYS_lseek,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_copy_file_range,
    libc::SYS_sync_file_range,
    libc::SYS_fadvise64,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_syncfs,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_utimensat,
    libc::SYS_fsetxattr,
    libc::SYS_fgetxattr,
    libc::SYS_flistxattr,
    libc::SYS_fcntl,
];

/// Calls that only the older architecture has.
#[cfg(target_arch = "x86_64")]
const OLD: &[libc::c_long] = &[libc::SYS_poll, libc::SYS_arch_prctl, libc::SYS_renameat];
#[cfg(not(target_arch = "x86_64"))]
const OLD: &[libc::c_long] = &[libc::SYS_renameat];

/// `AUDIT_ARCH_*` of this binary.
#[cfg(target_arch = "x86_64")]
const ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCH: u32 = 0xc000_00b7;

/// Offsets in `struct seccomp_data`; both architectures are little endian.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

/// Calls that are allowed when an argument (from 0), masked, has this value. Memory may be mapped and protected, never
/// executable; builds with debug assertions ask for a descriptor's flags before they close it.
const IF: &[(libc::c_long, u32, u32, u32)] = &[
    (libc::SYS_mmap, 2, libc::PROT_EXEC as u32, 0),
    (libc::SYS_mprotect, 2, libc::PROT_EXEC as u32, 0),
    (libc::SYS_fcntl, 1, u32::MAX, libc::F_GETFD as u32),
];

fn program(profile: Profile) -> Vec<Instruction> {
    let statement = |code, k| Instruction { code, jt: 0, jf: 0, k };
    let end = |k| statement(seccomp::RETURN, k);
    let mut program = vec![
        statement(seccomp::LOAD, ARCHITECTURE),
        Instruction {
            code: seccomp::JUMP_EQ,
            jt: 1,
            jf: 0,
            k: ARCH,
        },
        end(verdict::KILL_PROCESS),
        statement(seccomp::LOAD, NUMBER),
    ];
    let tree: &[libc::c_long] = if profile == Profile::Tree { TREE } else { &[] };
    for call in FILTER.iter().chain(OLD).chain(tree) {
        program.push(Instruction {
            code: seccomp::JUMP_EQ,
            jt: 0,
            jf: 1,
            k: *call as u32,
        });
        program.push(end(verdict::ALLOW));
    }
    for (call, argument, mask, value) in IF {
        program.push(Instruction {
            code: seccomp::JUMP_EQ,
            jt: 0,
            jf: 5,
            k: *call as u32,
        });
        program.push(statement(seccomp::LOAD, ARGUMENTS + 8 * argument));
        program.push(statement(seccomp::AND, *mask));
        program.push(Instruction {
            code: seccomp::JUMP_EQ,
            jt: 0,
            jf: 1,
            k: *value,
        });
        program.push(end(verdict::ALLOW));
        program.push(end(verdict::KILL_PROCESS));
    }
    program.push(end(verdict::KILL_PROCESS));
    program
}
