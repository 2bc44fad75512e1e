//! Attributes of attached mounts, also on kernels before 5.12, which have no recursive call; and what the list of mounts
//! (proc_pid_mountinfo(5)) tells about a refused mount.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use crate::sys::{errno, mount, path};

/// Sets and clears attribute bits of an attached mount, and of those below it if `recursive`.
pub fn set(mounted: BorrowedFd<'_>, recursive: bool, set: u64, clear: u64) -> io::Result<()> {
    match mount::set_attrs(mounted, recursive, set, clear) {
        Err(e) if e.raw_os_error() == Some(errno::ENOSYS) => set_one_by_one(mounted, recursive, set),
        done => done,
    }
}

/// The way of kernels before 5.12. Bits that are to be cleared stay: they are the host's.
fn set_one_by_one(mounted: BorrowedFd<'_>, recursive: bool, set: u64) -> io::Result<()> {
    mount::remount(mounted, set)?;
    if !recursive {
        return Ok(());
    }
    let top = std::fs::read_link(format!("/proc/self/fd/{}", mounted.as_raw_fd()))?;
    for point in mount_points()? {
        if point != top && point.starts_with(&top) {
            mount::remount(path::open_host(&point, path::O_PATH)?.as_fd(), set)?;
        }
    }
    Ok(())
}

/// What to do about a `proc` or `sysfs` that the kernel refuses to mount anew: it does so where something covers a part of
/// the one that is already there. Begins with `; ` or is empty.
pub fn covered_hint(kind: &str) -> String {
    let (top, fix) = match kind {
        "proc" => (Path::new("/proc"), "start dunlin where /proc is whole"),
        "sysfs" => (
            Path::new("/sys"),
            "a new one needs an own network namespace and a /sys that is whole",
        ),
        _ => return String::new(),
    };
    let covered = mount_points()
        .ok()
        .and_then(|points| points.into_iter().find(|p| p != top && p.starts_with(top)));
    match covered {
        Some(covered) => format!("; `{}` is covered by another mount here: {fix}", covered.display()),
        None => format!("; {fix}"),
    }
}

/// Whether `/` is the first mount of all, which cannot be pivoted away from: an initramfs.
pub fn root_is_the_first_mount() -> io::Result<bool> {
    let text = std::fs::read("/proc/self/mountinfo")?;
    Ok(text
        .split(|&b| b == b'\n')
        .filter_map(parse)
        .any(|line| line.point == Path::new("/") && line.id == line.parent))
}

fn mount_points() -> io::Result<Vec<PathBuf>> {
    let text = std::fs::read("/proc/self/mountinfo")?;
    Ok(text
        .split(|&b| b == b'\n')
        .filter_map(parse)
        .map(|line| line.point)
        .collect())
}

/// What matters of one line of mountinfo.
struct Line<'a> {
    id: &'a [u8],
    parent: &'a [u8],
    point: PathBuf,
}

fn parse(line: &[u8]) -> Option<Line<'_>> {
    let mut fields = line.split(|&b| b == b' ');
    let (id, parent) = (fields.next()?, fields.next()?);
    let point = fields.nth(2)?;
    Some(Line {
        id,
        parent,
        point: PathBuf::from(OsString::from_vec(unescape(point))),
    })
}

/// Undoes the octal escapes of blanks, tabs, newlines and backslashes.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, after)) = rest.split_first() {
        let octal = (first == b'\\').then(|| after.get(..3)).flatten().and_then(|digits| {
            let text = std::str::from_utf8(digits).ok()?;
            u8::from_str_radix(text, 8).ok()
        });
        match octal {
            Some(byte) => {
                plain.push(byte);
                rest = &after[3..];
            }
            None => {
                plain.push(first);
                rest = after;
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_mountinfo_are_read() {
        let line = br"36 35 98:0 /mnt1 /mnt\040two\134x rw,noatime master:1 - ext3 /dev/root rw";
        let read = parse(line).expect("a line");
        assert_eq!((read.id, read.parent), (&b"36"[..], &b"35"[..]));
        assert_eq!(read.point, Path::new(r"/mnt two\x"));
        assert!(parse(b"").is_none() && parse(b"1 2").is_none());
        assert!(mount_points().expect("own").contains(&PathBuf::from("/proc")));
    }
}
