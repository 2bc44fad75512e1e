//! Images mounted for people to look at: an overlay of the layers, read-only, in the mount namespace of the caller, which
//! must own it: `dunlin unshare` makes one.
//!
//! ```text
//! <run>/mounts/HEX/root     empty; gives the mount the mode of the image's root, as a container's writable folder does
//! <run>/mounts/HEX/merged   where the image is mounted
//! ```
//!
//! An image that is mounted anywhere is not removed (`store::mounted`).

use super::{Engine, EngineError, unshare};
use crate::disk::durable;
use crate::store::{ImageRecord, StoreError};
use crate::sys::{creds, mount, path};
use std::ffi::CString;
use std::fs;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// Read-only, no set-user-id, no devices (mount(2)).
const FLAGS: u64 = 1 | 2 | 4;

impl Engine {
    /// Mounts an image, if it is not mounted already, and returns where.
    pub fn mount_image(&self, typed: &str) -> Result<(ImageRecord, PathBuf), EngineError> {
        may_mount("mount")?;
        let image = self.image(typed)?;
        // What is mounted is looked for under the same lock before anything is removed.
        let _kept = self.store().keep_all()?;
        let gone = StoreError::NotFound { name: typed.to_owned() };
        let image = self.store().image(&image.id)?.ok_or(gone)?;
        let place = self.store().mount_place(&image.id);
        if !self.store().mounted_here()?.contains(&image.id) {
            self.mount_at(&image, &place)?;
        }
        Ok((image, place))
    }

    /// Images that are mounted where the caller sees them, and where.
    pub fn mounted_images(&self) -> Result<Vec<(ImageRecord, PathBuf)>, EngineError> {
        may_mount("mount")?;
        let mounted = self.store().mounted_here()?;
        let images = self.images()?.into_iter().filter(|image| mounted.contains(&image.id));
        Ok(images
            .map(|image| (image.clone(), self.store().mount_place(&image.id)))
            .collect())
    }

    /// Unmounts an image; with `force` even while somebody uses it.
    pub fn unmount_image(&self, image: &ImageRecord, force: bool) -> Result<(), EngineError> {
        may_mount("unmount")?;
        let place = self.store().mount_place(&image.id);
        if !self.store().mounted_here()?.contains(&image.id) {
            return Err(EngineError::NotMounted(image.id.short()));
        }
        let target = CString::new(place.as_os_str().as_bytes()).map_err(std::io::Error::from);
        let done = target.and_then(|target| {
            if force {
                mount::detach(&target)
            } else {
                mount::unmount(&target)
            }
        });
        done.map_err(EngineError::io("unmount", &place))
    }

    fn mount_at(&self, image: &ImageRecord, place: &Path) -> Result<(), EngineError> {
        let folder = place.parent().unwrap_or(place);
        let (root, below) = (folder.join("root"), folder.join("none"));
        for dir in [&root, &below, place] {
            durable::create_dirs(dir)?;
        }
        let io = |action| EngineError::io(action, place);
        let wanted = self.store().root_dir(image)?;
        let open = |dir: &Path| path::open_root(dir).map_err(EngineError::io("open", dir));
        fs::set_permissions(&root, fs::Permissions::from_mode(wanted.mode & 0o7777)).map_err(io("set the mode of"))?;
        self.own(&root)?;
        let mut lowers: Vec<PathBuf> = vec![root];
        lowers.extend(self.store().lowers(image)?);
        if lowers.len() == 1 {
            // Overlay wants two.
            lowers.push(below);
        }
        let lowers: Vec<OwnedFd> = lowers.iter().map(|dir| open(dir)).collect::<Result<_, _>>()?;
        // Options are at most 4,095 bytes: every folder is named by its number.
        let name = |fd: &OwnedFd| format!("/proc/self/fd/{}", fd.as_raw_fd());
        let names: Vec<String> = lowers.iter().map(name).collect();
        let options = format!("lowerdir={},userxattr", names.join(":"));
        // By its source a mount is known wherever it is moved to.
        let source = fs::canonicalize(place).map_err(io("find"))?;
        mount::mount_at(&source.to_string_lossy(), place, "overlay", FLAGS, &options)
            .map_err(io("mount an overlay of the layers at"))
    }
}

/// Only root of the own mount namespace may: in `dunlin unshare`, or on a store of root's.
fn may_mount(verb: &'static str) -> Result<(), EngineError> {
    match unshare::session().is_some() || creds::effective_ids().0 == 0 {
        true => Ok(()),
        false => Err(EngineError::Unshare(verb)),
    }
}
