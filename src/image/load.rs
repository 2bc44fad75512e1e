//! Images that come from archives and folders into the store.

use std::fs::File;
use std::io::{self, Read, Write as _};
use std::os::unix::fs::FileExt as _;
use std::process::Stdio;
use std::sync::Arc;

use super::decode::{self, DecodeError, Format};
use super::layout::Layout;
use super::pull::{Progress, PullError, PullOptions, take};
use super::trust;
use super::worker::Workers;
use crate::disk::DiskError;
use crate::store::{ImageRecord, Store, StoreError};
use crate::sys::fs;
use crate::types::bounds;
use crate::types::oci::image::ImageConfiguration;
use crate::types::platform::Platform;
use crate::types::read;
use crate::types::reference::Reference;

/// Why an archive that comes through a pipe, or compressed, cannot be set down.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// Reading it.
    #[error("cannot read the archive: {0}")]
    Read(io::Error),
    /// Writing it.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Decompressing it.
    #[error("the archive: {0}")]
    Decode(#[from] DecodeError),
    /// No room.
    #[error(
        "the archive needs more than the {free} bytes that are free beyond the reserve; free space with `dunlin image prune`"
    )]
    Full {
        /// What was free.
        free: u64,
    },
}

/// An archive that can be read at any place: the file itself, or a copy in the store that goes away with it, where it comes through a pipe
/// or compressed.
pub fn spool(store: &Store, options: &PullOptions, input: File) -> Result<File, SpoolError> {
    let regular = input.metadata().map_err(SpoolError::Read)?.is_file();
    let file = match regular {
        true => input,
        false => copy(store, options, input)?,
    };
    let mut start = [0; Format::MAGIC_BYTES];
    let got = file.read_at(&mut start, 0).map_err(SpoolError::Read)?;
    let format = Format::of(&start[..got]);
    if format == Format::Plain {
        return Ok(file);
    }
    let packed = file.metadata().map_err(SpoolError::Read)?.len();
    let most = packed.saturating_mul(bounds::LAYER_RATIO);
    let free = room(store, options)?;
    let max = free.min(most.max(bounds::LAYER_RATIO_FREE_BYTES));
    io::Seek::rewind(&mut &file).map_err(SpoolError::Read)?;
    let mut command = decode::command(&options.program, format, max);
    let mut decoder = command.stdin(Stdio::from(file)).spawn().map_err(SpoolError::Read)?;
    let output = decoder.stdout.take();
    let copied = output.map(|output| copy(store, options, output)).transpose();
    if copied.is_err() {
        let _ = decoder.kill();
    }
    let ended = decoder.wait().map_err(SpoolError::Read)?;
    match (copied?, DecodeError::of(ended)) {
        (_, Err(DecodeError::TooLong)) if max == free => Err(SpoolError::Full { free }),
        (_, Err(error)) => Err(error.into()),
        (Some(file), Ok(())) => Ok(file),
        (None, Ok(())) => Err(DecodeError::Start.into()),
    }
}

fn room(store: &Store, options: &PullOptions) -> Result<u64, SpoolError> {
    Ok(store.free()?.saturating_sub(options.reserve))
}

/// Into a file without a name.
pub(super) fn copy(store: &Store, options: &PullOptions, mut input: impl Read) -> Result<File, SpoolError> {
    let staging = store.stage(&[], &[])?;
    let path = staging.dir().join("spool");
    let made = File::options().read(true).write(true).create_new(true).open(&path);
    let mut file = made.map_err(DiskError::io("create", &path))?;
    std::fs::remove_file(&path).map_err(DiskError::io("remove", &path))?;
    drop(staging);
    let mut buffer = vec![0; bounds::TAR_BUFFER_BYTES];
    let (mut total, mut flushed) = (0u64, 0u64);
    let window = bounds::WRITE_BEHIND_BYTES;
    let free = room(store, options)?;
    loop {
        let got = match input.read(&mut buffer) {
            Ok(0) => return Ok(file),
            Ok(got) => got,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(SpoolError::Read(e)),
        };
        total += got as u64;
        if total > free || (total >= flushed + window && room(store, options)? == 0) {
            return Err(SpoolError::Full { free });
        }
        file.write_all(&buffer[..got]).map_err(DiskError::io("write", &path))?;
        if total >= flushed + window {
            fs::start_writing(&file, flushed, window);
            if let Some(before) = flushed.checked_sub(window) {
                fs::drop_cache(&file, before, window);
            }
            flushed += window;
        }
    }
}

/// Takes all images of a folder or an archive, whatever they run on, with the names that they have there.
pub async fn load(
    store: &Store,
    workers: &Arc<dyn Workers>,
    layout: &Layout,
    options: &PullOptions,
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<Vec<ImageRecord>, PullError> {
    trust::admit_layout(&options.policy, layout, None)?;
    let mut images: Vec<ImageRecord> = Vec::new();
    for top in &layout.tops {
        let names = layout.names(top);
        let image = one(store, workers, layout, top, &names, options, progress).await?;
        images.retain(|known| known.id != image.id);
        images.push(image);
    }
    Ok(images)
}

/// Takes one image of a folder or an archive: the one with this tag, or the only one.
pub async fn pick(
    store: &Store,
    workers: &Arc<dyn Workers>,
    layout: &Layout,
    tag: Option<&str>,
    options: &PullOptions,
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<ImageRecord, PullError> {
    trust::admit_layout(&options.policy, layout, tag)?;
    let top = layout.top(tag).map_err(|source| PullError::Layout {
        name: layout.path().display().to_string(),
        source,
    })?;
    let names: Vec<Reference> = match tag {
        Some(_) => layout.local_name(tag).into_iter().collect(),
        None if layout.names(top).is_empty() => layout.unnamed().into_iter().collect(),
        None => layout.names(top),
    };
    one(store, workers, layout, top, &names, options, progress).await
}

async fn one(
    store: &Store,
    workers: &Arc<dyn Workers>,
    layout: &Layout,
    top: &super::layout::Top,
    names: &[Reference],
    options: &PullOptions,
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<ImageRecord, PullError> {
    let name = names
        .first()
        .map_or_else(|| layout.path().display().to_string(), ToString::to_string);
    let found = layout
        .image(top, &options.platform)
        .map_err(|source| PullError::Layout {
            name: name.clone(),
            source,
        })?;
    let mut options = options.clone();
    if let Ok(config) = read::json::<ImageConfiguration>(&found.config) {
        options.platform = Platform {
            os: config.os,
            architecture: config.architecture,
            variant: config.variant.unwrap_or_default(),
        };
    }
    let image = take(store, workers, found, &name, names.first(), &options, progress).await?;
    let in_store = |source| PullError::Store {
        name: name.clone(),
        source,
    };
    for more in names.iter().skip(1) {
        store.tag(&image, more).map_err(in_store)?;
    }
    Ok(store.image(&image.id).map_err(in_store)?.unwrap_or(image))
}
