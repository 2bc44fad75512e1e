//! Why a layer is not unpacked. Travels from the worker to whoever pulls, so every variant is plain data.

use std::io;

use serde::{Deserialize, Serialize};

use crate::image::tar::{TarError, shown};

/// Why a layer is not unpacked; every variant about an entry names it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum UnpackError {
    /// The archive itself is broken.
    #[error(transparent)]
    Tar(#[from] TarError),
    /// `..` leads above the root.
    #[error("entry `{entry}`: its path leads outside the layer")]
    Escapes {
        /// The entry.
        entry: String,
    },
    /// The target of a hard link leads above the root.
    #[error("entry `{entry}`: its hard link target `{target}` leads outside the layer")]
    LinkEscapes {
        /// The entry.
        entry: String,
        /// The target.
        target: String,
    },
    /// A symbolic link of the layer leads out of it, or nowhere.
    #[error(
        "entry `{entry}`: its path goes through the symbolic link `{through}`, which leads outside the layer or nowhere"
    )]
    Through {
        /// The entry.
        entry: String,
        /// Path of the link.
        through: String,
    },
    /// A file stands where a directory is needed.
    #[error("entry `{entry}`: `{file}` is in the way and not a directory")]
    Blocked {
        /// The entry.
        entry: String,
        /// Path of the file.
        file: String,
    },
    /// A hard link to something that cannot be linked.
    #[error("entry `{entry}`: its hard link target `{target}` {why}")]
    LinkTarget {
        /// The entry.
        entry: String,
        /// The target.
        target: String,
        /// What is wrong with the target.
        why: String,
    },
    /// A name that means something to overlay file systems, in the wrong place.
    #[error("entry `{entry}`: `{name}` is no usable whiteout name")]
    Whiteout {
        /// The entry.
        entry: String,
        /// The component.
        name: String,
    },
    /// The root of the layer as something else than a directory.
    #[error("entry `{entry}`: the root of a layer can only be a directory")]
    Root {
        /// The entry.
        entry: String,
    },
    /// Path, name or depth beyond their bounds, or an empty link target.
    #[error("entry `{entry}`: {what} (at most {max} are allowed)")]
    Path {
        /// The entry.
        entry: String,
        /// What is too long.
        what: String,
        /// The bound.
        max: u64,
    },
    /// An extended attribute that would change how the layer is mounted.
    #[error("entry `{entry}`: extended attribute `{name}` is refused in an image")]
    Xattr {
        /// The entry.
        entry: String,
        /// The attribute.
        name: String,
    },
    /// An owner that the store's user namespace does not have.
    #[error(
        "entry `{entry}`: {kind} {id} is not among the mapped ids {range}; give the store's owner a larger range in `{file}`"
    )]
    Owner {
        /// The entry.
        entry: String,
        /// `user` or `group`.
        kind: String,
        /// The id inside the container.
        id: u32,
        /// The mapped ids.
        range: String,
        /// The file to edit.
        file: String,
    },
    /// Too many entries.
    #[error("entry `{entry}`: the layer has more than the {max} entries allowed")]
    Entries {
        /// The entry.
        entry: String,
        /// The bound.
        max: u64,
    },
    /// Too many bytes.
    #[error(
        "entry `{entry}`: the layer unpacks to more than the {max} bytes allowed for it (free space and ratio to its compressed size)"
    )]
    Bytes {
        /// The entry.
        entry: String,
        /// The bound, bytes.
        max: u64,
    },
    /// Too much that must be looked up in lower layers.
    #[error("entry `{entry}`: the layer leans on lower layers in more than {max} places")]
    Needs {
        /// The entry.
        entry: String,
        /// The bound.
        max: u64,
    },
    /// Something that is no directory would replace one.
    #[error("entry `{entry}`: a directory is in its place, which is not overwritten")]
    Directory {
        /// The entry.
        entry: String,
    },
    /// The file system said no.
    #[error("entry `{entry}`: cannot {action}: {cause}")]
    Os {
        /// The entry.
        entry: String,
        /// What was tried.
        action: String,
        /// The error number, 0 when there is none.
        errno: i32,
        /// The system's text.
        cause: String,
    },
}

impl UnpackError {
    /// An error of the file system at `path`.
    pub(crate) fn os(path: &[u8], action: &str, error: &io::Error) -> UnpackError {
        UnpackError::Os {
            entry: shown(path),
            action: action.to_owned(),
            errno: error.raw_os_error().unwrap_or(0),
            cause: error.to_string(),
        }
    }

    /// Whether the disk (or the quota) is full.
    pub fn is_full(&self) -> bool {
        matches!(self, UnpackError::Os { errno, .. } if crate::sys::fs::is_full(*errno))
    }
}
