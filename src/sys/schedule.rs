//! What the scheduler is told about the calling thread: policy, priority of its input and output, processors, memory
//! nodes; and its execution domain.

use std::io;

use super::call::check;

/// sched_setattr(2).
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Scheduling {
    /// `SCHED_…`.
    pub policy: u32,
    /// `SCHED_FLAG_…`.
    pub flags: u64,
    /// -20 to 19.
    pub nice: i32,
    /// 1 to 99 of the real-time policies, else 0.
    pub priority: u32,
    /// Nanoseconds; so are the next two.
    pub runtime: u64,
    /// Of `SCHED_DEADLINE`.
    pub deadline: u64,
    /// Of `SCHED_DEADLINE`.
    pub period: u64,
}

/// `struct sched_attr` as of Linux 3.14.
#[repr(C)]
struct SchedAttr {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

/// Sets policy and priority; they are inherited and survive exec.
pub fn set_scheduling(to: &Scheduling) -> io::Result<()> {
    let attr = SchedAttr {
        size: size_of::<SchedAttr>() as u32,
        policy: to.policy,
        flags: to.flags,
        nice: to.nice,
        priority: to.priority,
        runtime: to.runtime,
        deadline: to.deadline,
        period: to.period,
    };
    // SAFETY: `attr` is a sched_attr of the size that it says; 0 is the calling thread.
    check(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attr, 0) })?;
    Ok(())
}

/// Sets class and priority (0 to 7) of input and output (ioprio_set(2)).
pub fn set_io_priority(class: u16, priority: u16) -> io::Result<()> {
    const PROCESS: libc::c_int = 1;
    let value = libc::c_int::from(class) << 13 | libc::c_int::from(priority);
    // SAFETY: plain arguments; 0 is the calling thread.
    check(unsafe { libc::syscall(libc::SYS_ioprio_set, PROCESS, 0, value) })?;
    Ok(())
}

/// The processors that it may run on, a bit each (sched_setaffinity(2)).
pub fn set_processors(set: &[u64]) -> io::Result<()> {
    // SAFETY: pointer and length are those of `set`; 0 is the calling thread.
    check(unsafe { libc::syscall(libc::SYS_sched_setaffinity, 0, size_of_val(set), set.as_ptr()) })?;
    Ok(())
}

/// Where its memory comes from: `MPOL_…` with its flags, and nodes, a bit each (set_mempolicy(2)).
pub fn set_memory_policy(mode: i32, nodes: &[u64]) -> io::Result<()> {
    // The kernel reads one bit less than it is told.
    let bits = if nodes.is_empty() { 0 } else { nodes.len() * 64 + 1 };
    let mask = if nodes.is_empty() {
        std::ptr::null()
    } else {
        nodes.as_ptr()
    };
    // SAFETY: `mask` is null with no bits, or has the bits that are read.
    check(unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, mask, bits) })?;
    Ok(())
}

/// Sets the execution domain (personality(2)).
pub fn set_personality(domain: u32) -> io::Result<()> {
    // SAFETY: plain arguments.
    check(unsafe { libc::personality(domain.into()) }.into())?;
    Ok(())
}
