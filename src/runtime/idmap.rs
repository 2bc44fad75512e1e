//! Writing the id maps of a container's user namespace: by oneself where one may, else by newuidmap(1) and newgidmap(1).

use std::io;
use std::process::{Command, Stdio};

use super::error::RuntimeError;
use crate::sys::creds::{self, Caps};
use crate::sys::errno;
use crate::sys::ns::{self, MapLine};
use crate::types::idmap::{Extent, IdMap};

/// Writes the maps of the process `pid`, which has just made its user namespace.
pub fn write(pid: i32, ids: &IdMap) -> Result<(), RuntimeError> {
    let lines =
        |extents: &[Extent]| -> Vec<MapLine> { extents.iter().map(|e| (e.inside, e.outside, e.count)).collect() };
    let (uids, gids) = (lines(&ids.uids), lines(&ids.gids));
    let own = creds::effective_ids();
    let written = if may_map(own) {
        ns::write_id_maps(pid, &uids, &gids, ids.is_single())
    } else if is_own(&uids, own.0) && is_own(&gids, own.1) {
        // One's own ids need no rights, if groups stay as they are.
        ns::write_id_maps(pid, &uids, &gids, true)
    } else {
        helper("newuidmap", pid, &uids).and_then(|()| helper("newgidmap", pid, &gids))
    };
    written.map_err(|e| RuntimeError::IdMap {
        uids: text(&uids),
        gids: text(&gids),
        errno: e.into(),
    })
}

fn may_map(own: (u32, u32)) -> bool {
    own.0 == 0 || creds::caps().is_ok_and(|caps| caps.effective.has(Caps::SETUID | Caps::SETGID))
}

fn is_own(lines: &[MapLine], own: u32) -> bool {
    matches!(lines, [(_, outside, 1)] if *outside == own)
}

fn helper(program: &str, pid: i32, lines: &[MapLine]) -> io::Result<()> {
    let numbers = lines.iter().flat_map(|(i, o, c)| [i, o, c]).map(u32::to_string);
    let status = Command::new(program)
        .arg(pid.to_string())
        .args(numbers)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()?;
    if status.success() {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(errno::EPERM))
    }
}

fn text(lines: &[MapLine]) -> String {
    let one = |(inside, outside, count): &MapLine| format!("{inside} {outside} {count}");
    lines.iter().map(one).collect::<Vec<_>>().join(", ")
}
