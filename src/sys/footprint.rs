//! Memory: what the host has, and what a process that lives long and idles keeps resident.

use std::ffi::c_void;
use std::fs;

/// Bytes below the caller's frame that may still be used, by what it calls and by the kernel.
const MARGIN: usize = 32 << 10;
/// Bytes below that which start-up may have used. Well inside the gap that the kernel leaves free for the first thread's stack.
const STACK: usize = 1 << 20;

/// A line of `/proc/meminfo`, bytes.
pub fn meminfo(key: &str) -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    let kibibytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    kibibytes.checked_mul(1024)
}

/// Lets go of the pages of the program's code and constants, and of those of the first thread's stack that are below the
/// caller's frame: what start-up has touched. What is needed again is mapped again from the page cache; nothing is lost.
///
/// For a process that begins to wait. Costs some ten microseconds, and about one for each 64 KiB that are used again.
pub fn trim() {
    // SAFETY: getauxval has no preconditions.
    let (headers, count) = unsafe {
        (
            libc::getauxval(libc::AT_PHDR) as *const libc::Elf64_Phdr,
            libc::getauxval(libc::AT_PHNUM) as usize,
        )
    };
    if headers.is_null() || count > 64 {
        return;
    }
    // SAFETY: the kernel mapped `count` program headers of this program at `headers`; they are constants.
    let headers = unsafe { std::slice::from_raw_parts(headers, count) };
    let bias = headers
        .iter()
        .find(|header| header.p_type == libc::PT_PHDR)
        .map_or(0, |header| {
            (headers.as_ptr() as usize).wrapping_sub(header.p_vaddr as usize)
        });
    let constant = |header: &&libc::Elf64_Phdr| header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W == 0;
    for header in headers.iter().filter(constant) {
        let start = bias.wrapping_add(header.p_vaddr as usize);
        give_back(start, start + header.p_memsz as usize);
    }
    let here = 0u8;
    let frame = &raw const here as usize;
    // Other threads' stacks are of a fixed size, with something else below them.
    if nix::unistd::gettid() == nix::unistd::getpid() && frame > STACK + MARGIN {
        give_back(frame - STACK - MARGIN, frame - MARGIN);
    }
}

/// The whole pages of `start..end`.
fn give_back(start: usize, end: usize) {
    // SAFETY: sysconf has no preconditions.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
    let (start, end) = (start.next_multiple_of(page), end / page * page);
    if start < end {
        // SAFETY: MADV_DONTNEED drops pages. Those of a segment without PF_W are unchanged copies of the file and come back from
        // it; those of the stack below the frame of a caller, less the margin, hold nothing that lives. Where nothing is mapped
        // it does nothing. A failure changes nothing.
        unsafe { libc::madvise(start as *mut c_void, end - start, libc::MADV_DONTNEED) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resident_file_bytes() -> u64 {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssFile:")).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
    }

    #[test]
    fn less_is_resident_and_all_goes_on() {
        let text = "x".repeat(10_000);
        let before = resident_file_bytes();
        trim();
        let after = resident_file_bytes();
        assert!(after < before, "{before} -> {after}");
        assert_eq!(text, "x".repeat(10_000));
        assert_eq!(format!("{:?}", Some(1.5)), "Some(1.5)");
    }
}
