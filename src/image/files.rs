//! The files that an image outside a registry consists of: in a folder, or as members of one archive that is read in place.
//!
//! Archives are not unpacked: their members are looked for once, and only what is asked for by name is read. Nothing that a
//! member is called becomes a path.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::tar::{Archive, Kind, TarError, shown};
use crate::disk::DiskError;
use crate::types::bounds;

/// Why a file of an image cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// A file cannot be read.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The archive is none.
    #[error("`{path}`: {source}")]
    Archive {
        /// The archive.
        path: PathBuf,
        /// What is wrong.
        source: TarError,
    },
    /// The archive has too many members.
    #[error("`{path}` has more than {max} members, or too long names")]
    Members {
        /// The archive.
        path: PathBuf,
        /// The bound.
        max: usize,
    },
    /// A file is not there.
    #[error("`{path}` has no file `{name}`")]
    Missing {
        /// The folder or archive.
        path: PathBuf,
        /// The file.
        name: String,
    },
    /// A file is too large for what it is.
    #[error("`{name}` in `{path}` has {size} bytes; at most {max} are accepted")]
    Large {
        /// The folder or archive.
        path: PathBuf,
        /// The file.
        name: String,
        /// Its length.
        size: u64,
        /// The bound.
        max: u64,
    },
}

/// A folder, or an archive.
#[derive(Debug, Clone)]
pub struct Files {
    path: PathBuf,
    archive: Option<Arc<Members>>,
}

#[derive(Debug)]
struct Members {
    file: Arc<File>,
    /// Offset and length by name.
    found: BTreeMap<String, (u64, u64)>,
    /// Symbolic and hard links, which old docker makes of layers that several images have.
    links: BTreeMap<String, String>,
}

/// One file, or one member.
#[derive(Debug, Clone)]
pub struct Part {
    file: Arc<File>,
    at: u64,
    left: u64,
}

impl Part {
    /// Bytes that are still to come.
    pub fn left(&self) -> u64 {
        self.left
    }
}

impl Read for Part {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let want = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let got = self.file.read_at(&mut buffer[..want], self.at)?;
        if got == 0 && want > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at += got as u64;
        self.left -= got as u64;
        Ok(got)
    }
}

impl Files {
    /// A folder.
    pub fn folder(path: &Path) -> Files {
        Files {
            path: path.to_owned(),
            archive: None,
        }
    }

    /// An archive, which can be read at any place; `path` is what it is called.
    pub fn archive(path: &Path, file: File) -> Result<Files, FilesError> {
        let length = file.metadata().map_err(DiskError::io("examine", path))?.len();
        let mut members = Members {
            file: Arc::new(file),
            found: BTreeMap::new(),
            links: BTreeMap::new(),
        };
        let (mut at, mut names) = (0, 0);
        loop {
            let rest = Part {
                file: members.file.clone(),
                at,
                left: length.saturating_sub(at),
            };
            let mut archive = Archive::new(rest, length);
            let entry = archive.next_entry().map_err(|source| FilesError::Archive {
                path: path.to_owned(),
                source,
            })?;
            let Some(entry) = entry else { break };
            at += archive.position();
            let name = plain(&entry.path);
            names += name.len();
            if members.found.len() + members.links.len() >= bounds::ARCHIVE_MEMBERS
                || names > bounds::ARCHIVE_NAMES_BYTES
            {
                return Err(FilesError::Members {
                    path: path.to_owned(),
                    max: bounds::ARCHIVE_MEMBERS,
                });
            }
            match entry.kind {
                Kind::File if entry.size > length.saturating_sub(at) => {
                    let what = format!("`{name}`");
                    return Err(FilesError::Archive {
                        path: path.to_owned(),
                        source: TarError::Truncated { at: length, what },
                    });
                }
                // The first one counts, as everywhere.
                Kind::File if entry.sparse.is_none() => {
                    members.found.entry(name).or_insert((at, entry.size));
                    at = at.saturating_add(entry.size.next_multiple_of(512));
                }
                Kind::Symlink => {
                    let folder = name.rsplit_once('/').map_or("", |(folder, _)| folder);
                    let target = [folder.as_bytes(), b"/", &entry.link].concat();
                    members.links.entry(name).or_insert(plain(&target));
                }
                Kind::Link => drop(members.links.entry(name).or_insert(plain(&entry.link))),
                _ => {}
            }
        }
        Ok(Files {
            path: path.to_owned(),
            archive: Some(Arc::new(members)),
        })
    }

    /// One file that is called `layer`.
    pub(super) fn layer(file: File, length: u64) -> Files {
        let members = Members {
            file: Arc::new(file),
            found: BTreeMap::from([("layer".to_owned(), (0, length))]),
            links: BTreeMap::new(),
        };
        Files {
            path: PathBuf::from("layer"),
            archive: Some(Arc::new(members)),
        }
    }

    /// What the folder or archive is called.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether this is an archive.
    pub fn is_archive(&self) -> bool {
        self.archive.is_some()
    }

    /// Whether there is a file of this name.
    pub fn has(&self, name: &str) -> bool {
        self.open(name).is_ok()
    }

    /// Opens a file; `name` must not come from an image unless this is an archive.
    pub fn open(&self, name: &str) -> Result<Part, FilesError> {
        let missing = || FilesError::Missing {
            path: self.path.clone(),
            name: name.to_owned(),
        };
        if let Some(members) = &self.archive {
            let name = plain(name.as_bytes());
            let name = members.links.get(&name).unwrap_or(&name);
            let (at, left) = members.found.get(name).copied().ok_or_else(missing)?;
            let file = members.file.clone();
            return Ok(Part { file, at, left });
        }
        let path = self.path.join(name);
        let file = match File::open(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(missing()),
            other => other.map_err(DiskError::io("open", &path))?,
        };
        let meta = file.metadata().map_err(DiskError::io("examine", &path))?;
        if !meta.is_file() {
            return Err(DiskError::io("open", &path)(io::ErrorKind::InvalidInput.into()).into());
        }
        Ok(Part {
            file: Arc::new(file),
            at: 0,
            left: meta.len(),
        })
    }

    /// A whole small file.
    pub fn small(&self, name: &str, max: usize) -> Result<Vec<u8>, FilesError> {
        let mut part = self.open(name)?;
        if part.left > max as u64 {
            return Err(FilesError::Large {
                path: self.path.clone(),
                name: name.to_owned(),
                size: part.left,
                max: max as u64,
            });
        }
        let mut bytes = Vec::new();
        let read = part.read_to_end(&mut bytes);
        read.map_err(DiskError::io("read", &self.path.join(name)))?;
        Ok(bytes)
    }
}

/// A member's name as others in the archive call it: without `.`, `..` and empty components.
fn plain(name: &[u8]) -> String {
    let name = String::from_utf8(name.to_vec()).unwrap_or_else(|e| shown(e.as_bytes()));
    let mut parts: Vec<&str> = Vec::new();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}
