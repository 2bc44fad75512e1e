//! Seccomp: the default profile, and OCI seccomp settings compiled to the kernel's BPF.
//!
//! [`Profile`] is a profile as containers tools write it (`config/seccomp.json` is ours); [`Profile::resolve`] drops the
//! rules that do not concern a container's capabilities and yields the OCI runtime specification's `linux.seccomp`;
//! [`compile`] turns that into a [`Program`], and [`Program::load`] puts it on the calling thread.
//!
//! Calls that the default profile does not name fail with ENOSYS, so that programs fall back as on an older kernel; calls
//! that it refuses fail with EPERM.

mod calls;
mod compile;
mod profile;

pub use compile::compile;
pub use profile::Profile;

use std::io;
use std::os::fd::OwnedFd;

use crate::sys::seccomp::{self, INSTRUCTIONS_MAX, Instruction};

/// A system call interface that the kernel may offer to a container's programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abi {
    /// 64-bit x86. x32 calls count as unknown (ENOSYS).
    X86_64 = 0,
    /// 32-bit x86.
    X86 = 1,
    /// 64-bit arm.
    Aarch64 = 2,
    /// 32-bit arm, EABI.
    Arm = 3,
}

impl Abi {
    /// The interface this binary was built for.
    pub const NATIVE: Abi = if cfg!(target_arch = "aarch64") {
        Abi::Aarch64
    } else {
        Abi::X86_64
    };

    /// The kernel's name of the interface in `seccomp_data.arch` (`AUDIT_ARCH_*`).
    pub const fn audit(self) -> u32 {
        match self {
            Abi::X86_64 => 0xc000_003e,
            Abi::X86 => 0x4000_0003,
            Abi::Aarch64 => 0xc000_00b7,
            Abi::Arm => 0x4000_0028,
        }
    }

    /// True if arguments have 64 bits.
    const fn wide(self) -> bool {
        matches!(self, Abi::X86_64 | Abi::Aarch64)
    }

    /// The number of the call `name`, none if the interface lacks it or nobody knows it.
    pub fn number(self, name: &str) -> Option<u32> {
        let row = calls::CALLS.binary_search_by(|(known, _)| (*known).cmp(name)).ok()?;
        let number = calls::CALLS[row].1[self as usize];
        (number != calls::NONE).then_some(number)
    }
}

/// A compiled filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// The instructions, at most [`seccomp::INSTRUCTIONS_MAX`].
    pub instructions: Vec<Instruction>,
    /// Flags for the load ([`seccomp::flag`]); with `NEW_LISTENER` when a rule notifies.
    pub flags: u32,
}

impl Program {
    /// Puts the filter on the calling thread, for good. Returns the listener if a rule notifies one; the caller sends it
    /// to the specification's `listenerPath`. Errors as of [`seccomp::load`].
    pub fn load(&self) -> io::Result<Option<OwnedFd>> {
        seccomp::load(&self.instructions, self.flags)
    }

    /// The flags, then the instructions, eight bytes each, in little-endian order.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.flags.to_le_bytes().to_vec();
        for Instruction { code, jt, jf, k } in &self.instructions {
            bytes.extend(code.to_le_bytes());
            bytes.extend([*jt, *jf]);
            bytes.extend(k.to_le_bytes());
        }
        bytes
    }

    /// What [`Program::to_bytes`] made; nothing where the length cannot be right. The kernel checks the instructions.
    pub fn from_bytes(bytes: &[u8]) -> Option<Program> {
        let (flags, rest) = bytes.split_first_chunk::<4>()?;
        let (all, []) = rest.as_chunks::<8>() else { return None };
        let instruction = |&[a, b, jt, jf, c, d, e, f]: &[u8; 8]| Instruction {
            code: u16::from_le_bytes([a, b]),
            jt,
            jf,
            k: u32::from_le_bytes([c, d, e, f]),
        };
        (1..=INSTRUCTIONS_MAX).contains(&all.len()).then(|| Program {
            instructions: all.iter().map(instruction).collect(),
            flags: u32::from_le_bytes(*flags),
        })
    }
}

/// What is wrong with seccomp settings.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SeccompError {
    /// Not JSON, or not of a profile's shape.
    #[error("seccomp profile: {reason}; it must be a JSON profile as podman reads it")]
    Profile {
        /// The parser's words.
        reason: String,
    },
    /// More text than any profile has.
    #[error("seccomp profile: {bytes} bytes, at most {max} are allowed")]
    ProfileTooLarge {
        /// Its size.
        bytes: usize,
        /// The bound.
        max: usize,
    },
    /// A call has six arguments.
    #[error("seccomp rule for `{call}`: argument index {index} is not in 0 to 5")]
    Argument {
        /// The rule's first name.
        call: String,
        /// The index.
        index: usize,
    },
    /// Not an error number.
    #[error("seccomp rule for `{call}`: errnoRet {value} is not in 0 to {max}")]
    ErrorNumber {
        /// The rule's first name, or `default`.
        call: String,
        /// The number.
        value: u32,
        /// The largest that the kernel passes on.
        max: u32,
    },
    /// The default action cannot be to notify: nobody could load the filter's listener.
    #[error("seccomp: SCMP_ACT_NOTIFY cannot be the default action")]
    NotifyByDefault,
    /// Notify without anybody to tell.
    #[error("seccomp: SCMP_ACT_NOTIFY needs `listenerPath`")]
    NoListener,
    /// The filter does not fit into the kernel.
    #[error(
        "seccomp: the filter has {instructions} instructions, the kernel takes {max}; use fewer rules on arguments"
    )]
    TooLong {
        /// Its length.
        instructions: usize,
        /// The kernel's bound.
        max: usize,
    },
}
