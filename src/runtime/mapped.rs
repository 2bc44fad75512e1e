//! Bind mounts whose files have other owners inside than outside (mount_setattr(2), `MOUNT_ATTR_IDMAP`).
//!
//! They need the rights of the user namespace that the file system belongs to, which a container with one of its own does
//! not have: so they are made before it is, and it inherits them.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use super::error::RuntimeError;
use super::idmap;
use super::mounts;
use super::rootfs::{Step, Tree, What};
use crate::sys::ns::Namespaces;
use crate::sys::process::{self, CloneArgs, Cloned};
use crate::sys::{errno, mount, path, socket};
use crate::types::idmap::{Extent, IdMap};
use crate::types::oci::runtime::{Linux, LinuxIdMapping, Mount, Spec};

/// How a mount shifts the owners of files: as it says itself, or, where it only has the option, as the container's ids are
/// mapped.
pub fn ids(mount: &Mount, option: bool, linux: Option<&Linux>) -> Result<Option<IdMap>, String> {
    let given = |list: &Option<Vec<LinuxIdMapping>>| list.clone().unwrap_or_default();
    let own = (given(&mount.uid_mappings), given(&mount.gid_mappings));
    let (uids, gids) = match (own.0.is_empty(), own.1.is_empty()) {
        (true, true) if !option => return Ok(None),
        (true, true) => linux.map_or_else(Default::default, |l| (given(&l.uid_mappings), given(&l.gid_mappings))),
        (false, false) => own,
        _ => return Err("uidMappings and gidMappings belong together".to_owned()),
    };
    if uids.is_empty() || gids.is_empty() {
        return Err("`idmap` needs uidMappings and gidMappings, of the mount or of the container".to_owned());
    }
    let extents = |list: Vec<LinuxIdMapping>| list.iter().map(Extent::from).collect();
    Ok(Some(IdMap {
        uids: extents(uids),
        gids: extents(gids),
    }))
}

/// The detached mounts of a bundle that shift owners, in the order of its list.
pub fn make(spec: &Spec, bundle: &Path) -> Result<Vec<OwnedFd>, RuntimeError> {
    let asked = |mount: &Mount| {
        let options = mount.options.iter().flatten();
        mount.uid_mappings.is_some()
            || mount.gid_mappings.is_some()
            || options
                .into_iter()
                .any(|option| matches!(option.as_str(), "idmap" | "ridmap"))
    };
    if !spec.mounts.iter().flatten().any(asked) {
        return Ok(Vec::new());
    }
    let tree = Tree::plan(spec, bundle)?;
    let steps = tree.mounts.iter();
    steps
        .filter_map(|step| step.ids.as_ref().map(|ids| make_one(step, ids)))
        .collect()
}

fn make_one(step: &Step, ids: &IdMap) -> Result<OwnedFd, RuntimeError> {
    let What::Bind { source, recursive } = &step.what else {
        return Err(RuntimeError::spec("mounts", "only a bind mount can be id-mapped"));
    };
    let opened = mounts::open_source(source, &step.target)?;
    let namespace = namespace(ids)?;
    mount::copy_tree(opened.as_fd(), c"", *recursive)
        .and_then(|copy| {
            let below = step.options.mapped == Some(true);
            mount::map_ids(copy.as_fd(), below, namespace.as_fd()).map(|()| copy)
        })
        .map_err(|e| {
            let hint = match e.raw_os_error() {
                Some(errno::EINVAL) => "; its file system cannot shift owners on this kernel",
                Some(errno::EPERM) => "; only root of the host may shift owners",
                _ => "",
            };
            mounts::failed_because(&source.display().to_string(), &step.target, e, hint)
        })
}

/// A user namespace with these ids, in which nobody is.
fn namespace(ids: &IdMap) -> Result<OwnedFd, RuntimeError> {
    let fail = || RuntimeError::process("make a user namespace for an id-mapped mount");
    let (ours, theirs) = socket::pair().map_err(RuntimeError::socket)?;
    let args = CloneArgs {
        namespaces: Namespaces::USER,
        ..CloneArgs::default()
    };
    let child = match process::clone(&args).map_err(fail())? {
        Cloned::Parent(child) => child,
        Cloned::Child => {
            drop(ours);
            // Until the parent closes its end.
            let _ = socket::recv(theirs.as_fd(), &mut [0]);
            process::exit_now(0)
        }
    };
    let file = format!("/proc/{}/ns/user", child.pid);
    let made =
        idmap::write(child.pid, ids).and_then(|()| path::open_host(Path::new(&file), path::O_RDONLY).map_err(fail()));
    drop(ours);
    process::wait(child.pidfd.as_fd()).map_err(fail())?;
    made
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_shifted_as_the_mount_or_the_container_says() {
        let own = r#","uidMappings":[{"containerID":0,"hostID":5,"size":2}],"gidMappings":[{"containerID":0,"hostID":6,"size":2}]"#;
        let mount = |more: &str| -> Mount {
            serde_json::from_str(&format!(r#"{{"destination":"/x","type":"bind","source":"/y"{more}}}"#))
                .expect("a mount")
        };
        let linux: Linux = serde_json::from_str(&format!("{{{}}}", &own[1..].replace('5', "7"))).expect("settings");
        let outside = |found: Result<Option<IdMap>, String>| found.map(|ids| ids.map(|ids| ids.uids[0].outside));
        assert_eq!(outside(ids(&mount(""), false, Some(&linux))), Ok(None));
        assert_eq!(outside(ids(&mount(own), false, Some(&linux))), Ok(Some(5)));
        assert_eq!(outside(ids(&mount(own), true, Some(&linux))), Ok(Some(5)));
        assert_eq!(outside(ids(&mount(""), true, Some(&linux))), Ok(Some(7)));
        assert!(ids(&mount(""), true, None).is_err());
        assert!(
            ids(
                &mount(r#","uidMappings":[{"containerID":0,"hostID":5,"size":2}]"#),
                true,
                None
            )
            .is_err()
        );
    }
}
