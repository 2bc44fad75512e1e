//! Keeps what a layer's archive needs beyond its tree while it is unpacked, and makes the archive again from both. Runs in the
//! worker.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::rc::Rc;

use crate::image::tar::shown;
use crate::store::recipe::{RecipeReader, RecipeWriter, Step, archive_bytes};
use crate::sys::fs::{self, Kind};
use crate::types::bounds;

/// A recipe being written, by whoever reads the archive and by whoever writes the tree.
pub type Recipe = Rc<RefCell<RecipeWriter>>;

/// Keeps the content of everything at `name` of `dir`, which is about to be removed; returns the bytes on disk that the
/// removal gives back.
pub fn save(recipe: &Recipe, dir: BorrowedFd, name: &[u8], depth: usize) -> io::Result<u64> {
    if recipe.borrow().is_over() {
        return Ok(0);
    }
    let meta = match fs::stat_at(dir, name) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
        other => other?,
    };
    match meta.kind {
        Kind::File if meta.size > 0 => {
            // The archive's own mode may keep its owner from reading it.
            let file = match fs::open_file_at(dir, name) {
                Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                    fs::chmod_at(dir, name, 0o600)?;
                    let file = fs::open_file_at(dir, name)?;
                    // It may have other names.
                    fs::chmod_at(dir, name, meta.mode)?;
                    file
                }
                other => other?,
            };
            recipe
                .borrow_mut()
                .save(meta.id.1, &mut |at| data_from(&file, at, meta.size));
            Ok(if meta.links == 1 { meta.allocated } else { 0 })
        }
        Kind::Dir if depth < bounds::LAYER_DEPTH => {
            let below = fs::open_dir_at(dir, name)?;
            let mut freed = 0;
            for name in fs::names(&below)? {
                use std::os::fd::AsFd as _;
                freed += save(recipe, below.as_fd(), &name, depth + 1)?;
            }
            Ok(freed)
        }
        _ => Ok(0),
    }
}

/// The next data of a file from `at` on, holes left out.
fn data_from(file: &File, at: u64, size: u64) -> io::Result<Option<(u64, Vec<u8>)>> {
    let Some((start, end)) = fs::next_data(file, at)?.filter(|_| at < size) else {
        return Ok(None);
    };
    let want = (end.min(size) - start).min(bounds::TAR_BUFFER_BYTES as u64);
    let mut bytes = vec![0; usize::try_from(want).unwrap_or_default()];
    file.read_exact_at(&mut bytes, start)?;
    Ok(Some((start, bytes)))
}

/// Writes the archive of the layer with this tree and this recipe to `out`; returns its bytes.
pub fn make(tree: &OwnedFd, recipe: File, mut out: impl Write) -> io::Result<u64> {
    let max = archive_bytes(&recipe)?.unwrap_or(0);
    let mut reader = RecipeReader::new(recipe.try_clone()?)?;
    let malformed = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why);
    let grown = |total: u64, more: u64| match total.checked_add(more) {
        Some(total) if total <= max => Ok(total),
        _ => Err(malformed("it makes more than it says")),
    };
    let mut buffer = vec![0; bounds::TAR_BUFFER_BYTES];
    let mut total = 0;
    let mut current: Option<(Vec<u8>, u64, Option<File>)> = None;
    while let Some(step) = reader.next_step()? {
        match step {
            Step::Raw(bytes) => {
                total = grown(total, bytes.len() as u64)?;
                out.write_all(&bytes)?;
            }
            Step::File { path, inode } => current = Some((path, inode, None)),
            Step::Part(offset, len) => {
                let (path, inode, file) = current.as_mut().ok_or_else(|| malformed("a part belongs to no file"))?;
                total = grown(total, len)?;
                if let Some(saved) = reader.saved(*inode) {
                    from_recipe(&recipe, &saved.pieces, offset, len, &mut buffer, &mut out)?;
                    continue;
                }
                let named = |e: io::Error| io::Error::new(e.kind(), format!("`{}`: {e}", shown(path)));
                let file = match file {
                    Some(file) => file,
                    None => file.insert(fs::open_file_at(tree, path).map_err(named)?),
                };
                from_tree(file, offset, len, &mut buffer, &mut out).map_err(named)?;
            }
        }
    }
    out.flush()?;
    Ok(total)
}

fn from_tree(file: &File, mut offset: u64, len: u64, buffer: &mut [u8], out: &mut dyn Write) -> io::Result<()> {
    let end = offset + len;
    while offset < end {
        let want = buffer.len().min(usize::try_from(end - offset).unwrap_or(usize::MAX));
        file.read_exact_at(&mut buffer[..want], offset)?;
        out.write_all(&buffer[..want])?;
        if len > bounds::WRITE_BEHIND_BYTES {
            fs::drop_cache(file, offset, want as u64);
        }
        offset += want as u64;
    }
    Ok(())
}

/// What no piece has is zeros.
fn from_recipe(
    recipe: &File,
    pieces: &[(u64, u64, u64)],
    mut offset: u64,
    len: u64,
    buffer: &mut [u8],
    out: &mut dyn Write,
) -> io::Result<()> {
    let end = offset + len;
    while offset < end {
        let next = pieces.partition_point(|(start, _, bytes)| start + bytes <= offset);
        let mut want = (end - offset).min(buffer.len() as u64);
        let piece = pieces.get(next);
        match piece {
            Some((start, at, bytes)) if *start <= offset => {
                want = want.min(start + bytes - offset);
                let length = usize::try_from(want).unwrap_or_default();
                recipe.read_exact_at(&mut buffer[..length], at + (offset - start))?;
            }
            _ => {
                want = piece.map_or(want, |(start, ..)| want.min(start - offset));
                buffer[..usize::try_from(want).unwrap_or_default()].fill(0);
            }
        }
        out.write_all(&buffer[..usize::try_from(want).unwrap_or_default()])?;
        offset += want;
    }
    Ok(())
}
