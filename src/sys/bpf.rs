//! Programs of extended BPF that decide about the devices of a control group (bpf(2), v2 only).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use super::call::{check, own};

/// One instruction of extended BPF, as the kernel of a little-endian machine reads it (`struct bpf_insn`).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// Operation, source of the operand and its size.
    pub code: u8,
    /// Number of the destination register in the low four bits, of the source register in the high ones.
    pub registers: u8,
    /// Instructions to skip, or bytes from where a register points.
    pub offset: i16,
    /// The operand.
    pub immediate: i32,
}

/// Load a 32-bit word from where the source register points.
pub const LOAD: u8 = (libc::BPF_LDX | libc::BPF_MEM | libc::BPF_W) as u8;
/// Copy a register.
pub const COPY: u8 = ALU64 | MOVE | (libc::BPF_X as u8);
/// Set a register to the operand.
pub const SET: u8 = ALU64 | MOVE | (libc::BPF_K as u8);
/// Bitwise and with the operand, in 32 bits.
pub const AND: u8 = (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u8;
/// Shift right by the operand, in 32 bits.
pub const SHIFT_RIGHT: u8 = (libc::BPF_ALU | libc::BPF_RSH | libc::BPF_K) as u8;
/// Skip where a register's low 32 bits are equal to the operand (Linux 5.1).
pub const JUMP_EQ: u8 = JUMP32 | (libc::BPF_JEQ | libc::BPF_K) as u8;
/// Skip where they are not.
pub const JUMP_NE: u8 = JUMP32 | JUMP_NOT_EQUAL | (libc::BPF_K as u8);
/// End; the verdict is in register 0.
pub const EXIT: u8 = (libc::BPF_JMP) as u8 | 0x90;

const ALU64: u8 = 0x07;
const MOVE: u8 = 0xb0;
const JUMP32: u8 = 0x06;
const JUMP_NOT_EQUAL: u8 = 0x50;

/// `BPF_PROG_TYPE_CGROUP_DEVICE`.
const CGROUP_DEVICE_PROGRAM: u32 = 15;
/// `BPF_CGROUP_DEVICE`.
const CGROUP_DEVICE: u32 = 6;
/// `BPF_F_ALLOW_MULTI`: several programs are asked, and all of them must agree.
const ALLOW_MULTI: u32 = 2;
/// `BPF_F_REPLACE` (Linux 5.6).
const REPLACE: u32 = 4;
/// `BPF_CGROUP_MAX_PROGS`.
const PROGRAMS_MAX: usize = 64;

/// What bpf(2) is asked for.
#[derive(Clone, Copy)]
enum Command {
    Load = 5,
    Attach = 8,
    Detach = 9,
    Open = 13,
    Query = 16,
}

#[repr(C)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
}

#[repr(C)]
struct Attach {
    group: u32,
    program: u32,
    kind: u32,
    flags: u32,
    replaced: u32,
}

#[repr(C)]
struct Query {
    group: u32,
    kind: u32,
    query_flags: u32,
    attach_flags: u32,
    ids: u64,
    count: u32,
    padding: u32,
}

#[repr(C)]
struct Open {
    id: u32,
    next: u32,
    flags: u32,
}

/// Makes the call.
///
/// # Safety
///
/// `attributes` must be the structure that `command` reads and writes, without padding that is not named, and every
/// address in it must be valid for the lengths beside it.
unsafe fn bpf<T>(command: Command, attributes: &mut T) -> libc::c_long {
    let attributes: *mut T = attributes;
    // SAFETY: as the caller promises; the kernel touches `size_of::<T>()` bytes of the structure.
    unsafe { libc::syscall(libc::SYS_bpf, command as libc::c_int, attributes, size_of::<T>()) }
}

/// Has the kernel check and keep a program that decides about devices.
///
/// EPERM without CAP_BPF and CAP_NET_ADMIN of the host, or, before Linux 5.11, over RLIMIT_MEMLOCK. EINVAL: the kernel knows
/// no such programs. EACCES: it finds this one wrong.
pub fn load_device_program(program: &[Instruction]) -> io::Result<OwnedFd> {
    let mut name = [0; 16];
    name[..14].copy_from_slice(b"dunlin_devices");
    let mut attributes = Load {
        kind: CGROUP_DEVICE_PROGRAM,
        count: u32::try_from(program.len()).map_err(|_| super::call::invalid())?,
        instructions: program.as_ptr() as u64,
        license: c"MIT".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
        name,
    };
    // SAFETY: BPF_PROG_LOAD reads this structure, `count` instructions, and the licence up to its NUL.
    own(unsafe { bpf(Command::Load, &mut attributes) })
}

/// The programs that are attached to a group itself, as numbers for [`open_program`].
pub fn device_programs(group: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    let mut ids = [0u32; PROGRAMS_MAX];
    let mut attributes = Query {
        group: number(group),
        kind: CGROUP_DEVICE,
        query_flags: 0,
        attach_flags: 0,
        ids: ids.as_mut_ptr() as u64,
        count: PROGRAMS_MAX as u32,
        padding: 0,
    };
    // SAFETY: BPF_PROG_QUERY reads and writes this structure and writes at most `count` numbers, for which `ids` has room.
    check(unsafe { bpf(Command::Query, &mut attributes) })?;
    let count = (attributes.count as usize).min(PROGRAMS_MAX);
    Ok(ids[..count].to_vec())
}

/// A program that the kernel has, by its number. ENOENT: it is gone.
pub fn open_program(id: u32) -> io::Result<OwnedFd> {
    let mut attributes = Open { id, next: 0, flags: 0 };
    // SAFETY: BPF_PROG_GET_FD_BY_ID reads this structure.
    own(unsafe { bpf(Command::Open, &mut attributes) })
}

/// Lets a program decide about the devices of a group, together with those that do so already, or, at once, instead of
/// `replaced`. EINVAL: the kernel cannot replace.
pub fn attach_device_program(
    group: BorrowedFd<'_>,
    program: BorrowedFd<'_>,
    replaced: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let mut attributes = Attach {
        group: number(group),
        program: number(program),
        kind: CGROUP_DEVICE,
        flags: ALLOW_MULTI | if replaced.is_some() { REPLACE } else { 0 },
        replaced: replaced.map_or(0, number),
    };
    // SAFETY: BPF_PROG_ATTACH reads this structure.
    check(unsafe { bpf(Command::Attach, &mut attributes) }).map(drop)
}

/// Takes a program from a group.
pub fn detach_device_program(group: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attributes = Attach {
        group: number(group),
        program: number(program),
        kind: CGROUP_DEVICE,
        flags: 0,
        replaced: 0,
    };
    // SAFETY: BPF_PROG_DETACH reads this structure.
    check(unsafe { bpf(Command::Detach, &mut attributes) }).map(drop)
}

/// Descriptors are never negative.
fn number(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().unsigned_abs()
}
