//! Sparse files: where the stored bytes of an entry belong in the file.

use std::io::Read;

use super::header::{BLOCK, Header, number};
use super::pax::{self, decimal};
use super::{Archive, Entry, TarError, shown};
use crate::types::bounds;

/// Stored bytes of a sparse file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Where they start in the file.
    pub offset: u64,
    /// How many there are.
    pub len: u64,
}

/// Completes `entry` when it is sparse in any of the four forms; the map of two of them is read from the archive.
pub(super) fn apply<R: Read>(
    archive: &mut Archive<R>,
    header: &Header,
    pax: &mut pax::Records,
    entry: &mut Entry,
) -> Result<(), TarError> {
    let (segments, size) = if header.flag() == b'S' {
        old_gnu(archive, header, entry)?
    } else {
        let known = match (pax.sparse.major.as_deref(), pax.sparse.minor.as_deref()) {
            (Some(b"1"), Some(b"0")) => true,
            (Some(b"0"), Some(b"0" | b"1")) | (None, None) => pax.sparse.map.is_some(),
            _ => false,
        };
        if !known {
            return Ok(());
        }
        if let Some(name) = pax.sparse.name.take() {
            entry.path = name;
        }
        let size = pax.sparse.size.unwrap_or(entry.size);
        let segments = match pax.sparse.map.take() {
            Some(map) if pax.sparse.major.as_deref() != Some(b"1") => listed(&map, pax.sparse.blocks, entry)?,
            _ => leading(archive, entry)?,
        };
        (segments, size)
    };
    check(&segments, size, archive.left, entry)?;
    entry.size = size;
    entry.sparse = Some(segments);
    Ok(())
}

fn wrong(entry: &Entry, why: &str) -> TarError {
    TarError::Sparse {
        entry: shown(&entry.path),
        why: why.to_owned(),
    }
}

/// Segments in order, apart, inside the file, and as many bytes as are stored.
fn check(segments: &[Segment], size: u64, stored: u64, entry: &Entry) -> Result<(), TarError> {
    if i64::try_from(size).is_err() {
        return Err(wrong(entry, "its sparse size is out of range"));
    }
    let mut end = 0;
    let mut sum = 0;
    for segment in segments {
        let next = segment.offset.checked_add(segment.len).filter(|next| *next <= size);
        let Some(next) = next.filter(|_| segment.offset >= end) else {
            return Err(wrong(entry, "its sparse map overlaps or leaves the file"));
        };
        end = next;
        sum += segment.len;
    }
    if sum != stored {
        return Err(wrong(entry, "its sparse map does not cover the stored bytes"));
    }
    Ok(())
}

fn push(segments: &mut Vec<Segment>, offset: u64, len: u64, entry: &Entry) -> Result<(), TarError> {
    if segments.len() >= bounds::TAR_SEGMENTS {
        return Err(wrong(entry, "its sparse map is too long"));
    }
    segments.push(Segment { offset, len });
    Ok(())
}

/// Old GNU: four pairs in the header, 21 in each block that follows.
fn old_gnu<R: Read>(archive: &mut Archive<R>, header: &Header, entry: &Entry) -> Result<(Vec<Segment>, u64), TarError> {
    if !header.is_gnu() {
        return Err(wrong(entry, "it is sparse in the GNU form without a GNU header"));
    }
    let (pairs, mut more, size) = header.gnu_sparse();
    let size = size
        .and_then(|size| u64::try_from(size).ok())
        .ok_or_else(|| wrong(entry, "its real size is no number"))?;
    let mut segments = Vec::new();
    take_pairs(pairs, &mut segments, entry)?;
    while more {
        // These blocks stand between the header and the data and are not counted in its size.
        let mut block = [0; BLOCK];
        if !archive.block(&mut block, "a sparse map")? {
            return Err(TarError::Truncated {
                at: archive.at,
                what: "a sparse map".to_owned(),
            });
        }
        take_pairs(&block[..504], &mut segments, entry)?;
        more = block[504] != 0;
    }
    Ok((segments, size))
}

fn take_pairs(pairs: &[u8], segments: &mut Vec<Segment>, entry: &Entry) -> Result<(), TarError> {
    for pair in pairs.chunks_exact(24) {
        if pair[0] == 0 {
            return Ok(());
        }
        let field = |field: &[u8]| number(field).and_then(|n| u64::try_from(n).ok());
        let (Some(offset), Some(len)) = (field(&pair[..12]), field(&pair[12..])) else {
            return Err(wrong(entry, "its sparse map has a field that is no number"));
        };
        push(segments, offset, len, entry)?;
    }
    Ok(())
}

/// PAX 0.0 and 0.1: a list in the records.
fn listed(map: &[u8], blocks: Option<u64>, entry: &Entry) -> Result<Vec<Segment>, TarError> {
    let mut segments = Vec::new();
    let mut numbers = map.split(|b| *b == b',').map(decimal);
    while let Some(offset) = numbers.next() {
        let (Some(offset), Some(Some(len))) = (offset, numbers.next()) else {
            return Err(wrong(entry, "its sparse map is no list of pairs of numbers"));
        };
        push(&mut segments, offset, len, entry)?;
    }
    if blocks.is_some_and(|blocks| blocks != segments.len() as u64) {
        return Err(wrong(entry, "its sparse map has another length than it says"));
    }
    Ok(segments)
}

/// PAX 1.0: decimal lines in front of the data, padded to a block.
fn leading<R: Read>(archive: &mut Archive<R>, entry: &Entry) -> Result<Vec<Segment>, TarError> {
    let mut lines = Lines {
        archive,
        block: [0; BLOCK],
        next: BLOCK,
    };
    let mut line = || {
        lines
            .number()
            .map_err(|e| e.unwrap_or_else(|| wrong(entry, "its sparse map is malformed")))
    };
    let count = line()?;
    let mut segments = Vec::new();
    for _ in 0..count {
        let (offset, len) = (line()?, line()?);
        push(&mut segments, offset, len, entry)?;
    }
    Ok(segments)
}

struct Lines<'a, R> {
    archive: &'a mut Archive<R>,
    block: [u8; BLOCK],
    next: usize,
}

impl<R: Read> Lines<'_, R> {
    /// The next line; `Err(None)` when it is no number.
    fn number(&mut self) -> Result<u64, Option<TarError>> {
        let mut value: Option<u64> = None;
        loop {
            if self.next == BLOCK {
                self.archive.left = self.archive.left.checked_sub(BLOCK as u64).ok_or(None)?;
                if !self.archive.block(&mut self.block, "a sparse map").map_err(Some)? {
                    return Err(Some(TarError::Truncated {
                        at: self.archive.at,
                        what: "a sparse map".to_owned(),
                    }));
                }
                self.next = 0;
            }
            let byte = self.block[self.next];
            self.next += 1;
            match byte {
                b'\n' => return value.ok_or(None),
                b'0'..=b'9' => {
                    let digit = u64::from(byte - b'0');
                    value = Some(
                        value
                            .unwrap_or(0)
                            .checked_mul(10)
                            .and_then(|v| v.checked_add(digit))
                            .ok_or(None)?,
                    );
                }
                _ => return Err(None),
            }
        }
    }
}
