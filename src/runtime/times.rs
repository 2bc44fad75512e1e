//! The clocks of a new time namespace (time_namespaces(7)).

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::fd::AsFd;
use std::path::Path;

use super::error::RuntimeError;
use crate::sys::ns::{self, Namespaces};
use crate::sys::path;
use crate::types::oci::runtime::LinuxTimeOffset;

type Offsets = BTreeMap<String, LinuxTimeOffset>;

const FIELD: &str = "linux.timeOffsets";
const SECOND: u32 = 1_000_000_000;

/// Refuses clocks that no time namespace has.
pub fn check(offsets: Option<&Offsets>) -> Result<(), RuntimeError> {
    for (clock, offset) in offsets.into_iter().flatten() {
        if !matches!(clock.as_str(), "monotonic" | "boottime") {
            let problem = format!("`{clock}` is neither `monotonic` nor `boottime`");
            return Err(RuntimeError::spec(FIELD, problem));
        }
        if offset.nanosecs.is_some_and(|nanosecs| nanosecs >= SECOND) {
            let problem = format!("`{clock}`: nanosecs must be less than a second");
            return Err(RuntimeError::spec(FIELD, problem));
        }
    }
    Ok(())
}

/// A line for each clock.
fn text(offsets: &Offsets) -> String {
    offsets
        .iter()
        .map(|(clock, offset)| {
            let (secs, nanosecs) = (offset.secs.unwrap_or(0), offset.nanosecs.unwrap_or(0));
            format!("{clock} {secs} {nanosecs}\n")
        })
        .collect()
}

/// Moves the calling process into a new time namespace. Needs the host's procfs at `/proc`.
pub fn enter(offsets: Option<&Offsets>) -> Result<(), RuntimeError> {
    let fail = || RuntimeError::process("make a time namespace");
    ns::unshare(Namespaces::TIME).map_err(fail())?;
    if let Some(offsets) = offsets.filter(|offsets| !offsets.is_empty()) {
        // They can be set until somebody is in it.
        let set = path::open_proc(Path::new("self/timens_offsets"), path::O_WRONLY)
            .and_then(|file| std::fs::File::from(file).write_all(text(offsets).as_bytes()));
        set.map_err(RuntimeError::process("set `linux.timeOffsets`"))?;
    }
    let made = path::open_host(Path::new("/proc/self/ns/time_for_children"), path::O_RDONLY).map_err(fail())?;
    ns::join(made.as_fd(), Namespaces::TIME).map_err(fail())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_lines_and_checked() {
        let offsets = |json: &str| -> Offsets { serde_json::from_str(json).expect("offsets") };
        let fine = offsets(r#"{"monotonic":{"secs":-5,"nanosecs":7},"boottime":{}}"#);
        check(Some(&fine)).expect("fine");
        assert_eq!(text(&fine), "boottime 0 0\nmonotonic -5 7\n");
        for wrong in [r#"{"realtime":{"secs":1}}"#, r#"{"boottime":{"nanosecs":1000000000}}"#] {
            assert!(check(Some(&offsets(wrong))).is_err(), "{wrong}");
        }
    }
}
