//! Images that are mounted for people to look at, and where. Nothing is written down: the kernel's lists of mounts are asked,
//! of every process, for each may have mounts of its own.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::{Store, StoreError};
use crate::disk::DiskError;
use crate::types::digest::Digest;

/// Below the folder of an image, where it is seen.
const PLACE: &str = "merged";

impl Store {
    /// Where the image is mounted when it is; the folder above it is for what the mount needs.
    pub fn mount_place(&self, id: &Digest) -> PathBuf {
        self.layout().mounts().join(id.hex()).join(PLACE)
    }

    /// Images that are mounted at their place, where this process sees it.
    pub fn mounted_here(&self) -> Result<BTreeSet<Digest>, StoreError> {
        let list = Path::new("/proc/self/mountinfo");
        let text = std::fs::read(list).map_err(DiskError::io("read", list))?;
        let mut found = BTreeSet::new();
        collect(&text, &self.mounts_as_shown(), true, &mut found);
        Ok(found)
    }

    /// Images that are mounted for any process, at their place or any other. To be asked under the store's lock.
    pub fn mounted(&self) -> Result<BTreeSet<Digest>, StoreError> {
        let mut found = BTreeSet::new();
        // Nothing was ever mounted since the machine started.
        if !self.layout().mounts().exists() {
            return Ok(found);
        }
        let mounts = self.mounts_as_shown();
        let proc = Path::new("/proc");
        for entry in std::fs::read_dir(proc).map_err(DiskError::io("list", proc))?.flatten() {
            if entry.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit)
                // It may just have ended.
                && let Ok(text) = std::fs::read(entry.path().join("mountinfo"))
            {
                collect(&text, &mounts, false, &mut found);
            }
        }
        Ok(found)
    }

    /// An error where the image is mounted for any process.
    pub fn refuse_mounted(&self, id: &Digest) -> Result<(), StoreError> {
        match self.mounted()?.contains(id) {
            false => Ok(()),
            true => Err(StoreError::Mounted {
                image: id.short(),
                place: self.mount_place(id),
            }),
        }
    }

    /// The folder of all mounts, as the kernel's lists name it.
    fn mounts_as_shown(&self) -> Vec<u8> {
        let mounts = self.layout().mounts();
        let mounts = std::fs::canonicalize(&mounts).unwrap_or(mounts);
        let mut shown = Vec::new();
        for byte in mounts.as_os_str().as_encoded_bytes() {
            match byte {
                b' ' | b'\t' | b'\n' | b'\\' => shown.extend_from_slice(format!("\\{byte:03o}").as_bytes()),
                _ => shown.push(*byte),
            }
        }
        shown
    }
}

/// Adds the images of a list of mounts (proc_pid_mountinfo(5)). The fifth field of a line is where it is mounted; the place of an
/// image is also the mount's source, which stays the same wherever the mount is moved or copied to.
fn collect(list: &[u8], mounts: &[u8], here: bool, found: &mut BTreeSet<Digest>) {
    for line in list.split(|byte| *byte == b'\n') {
        for (number, field) in line.split(|byte| *byte == b' ').enumerate() {
            let below = field.strip_prefix(mounts).and_then(|rest| rest.strip_prefix(b"/"));
            let name = below.and_then(|below| std::str::from_utf8(below).ok()?.strip_suffix(PLACE)?.strip_suffix('/'));
            if let Some(Ok(id)) = name.map(Digest::from_hex)
                && (number == 4 || !here)
            {
                found.insert(id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_of_images_are_found_among_mounts() {
        let [a, b, c, d] = ["a", "b", "c", "d"].map(|digit| digit.repeat(64));
        let mounts = "/run/my\\040store/mounts";
        let list = format!(
            "22 1 0:2 / /proc rw - proc proc rw\n\
             30 22 0:9 / {mounts}/{a}/merged ro,nosuid - overlay {mounts}/{a}/merged ro,lowerdir=x\n\
             31 22 0:9 / {mounts}/{b}/other ro - overlay overlay ro\n\
             32 22 0:9 / /run/mounts/{c}/merged ro - overlay overlay ro\n\
             33 22 0:9 / /mnt ro - overlay {mounts}/{d}/merged ro\n"
        );
        for (here, want) in [(true, vec![a.clone()]), (false, vec![a, d])] {
            let mut found = BTreeSet::new();
            collect(list.as_bytes(), mounts.as_bytes(), here, &mut found);
            assert_eq!(found.into_iter().map(|id| id.hex()).collect::<Vec<_>>(), want);
        }
    }
}
