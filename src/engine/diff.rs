//! What an image has changed from the one below it, a container from its image, or one from another.

use super::{Engine, EngineError};
use crate::image::worker::{Job, Reply, Worker, WorkerError};
use crate::store::ImageRecord;
use crate::sys::fs;
use crate::types::bounds;
use crate::types::digest::Digest;
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;

/// Something that is other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// `A` for added, `C` for changed, `D` for deleted.
    pub kind: char,
    /// From the root.
    pub path: String,
}

/// An image's layers and, for a container, its folder.
struct Stack {
    image: ImageRecord,
    /// So many of the layers.
    layers: usize,
    folder: Option<PathBuf>,
}

impl Engine {
    /// Calls `each` with what is other in `typed` than in `than`: by default the image of a container, or what is below the
    /// last layer of an image. `images` are looked for alone, else containers first.
    pub fn diff(
        &self,
        typed: &str,
        than: Option<&str>,
        images: bool,
        each: &mut dyn FnMut(Change),
    ) -> Result<(), EngineError> {
        let to = self.stack(typed, images)?;
        let from = match than {
            Some(than) => self.stack(than, false)?,
            None => Stack {
                image: to.image.clone(),
                layers: match to.folder {
                    Some(_) => to.layers,
                    None => to.layers.saturating_sub(1),
                },
                folder: None,
            },
        };
        let keys = |stack: &Stack| {
            stack
                .image
                .layers
                .iter()
                .map(|layer| layer.key)
                .take(stack.layers)
                .collect()
        };
        let (lower, upper): (Vec<Digest>, Vec<Digest>) = (keys(&from), keys(&to));
        let mut all = upper.clone();
        all.extend(lower.iter().filter(|key| !upper.contains(key)));
        // They stay as long as they are looked at.
        let _hold = self.store().stage(&all, &[])?;
        let mut folders: Vec<OwnedFd> = Vec::new();
        let mut stack = |keys: &[Digest], folder: &Option<PathBuf>| -> Result<Vec<usize>, EngineError> {
            let number = |key: &Digest| all.iter().position(|other| other == key);
            let mut numbers: Vec<usize> = keys.iter().rev().filter_map(number).collect();
            if let Some(folder) = folder {
                numbers.insert(0, all.len() + folders.len());
                folders.push(fs::name_dir(folder).map_err(EngineError::io("open", folder))?);
            }
            Ok(numbers)
        };
        let job = Job::Compare {
            from: stack(&lower, &from.folder)?,
            to: stack(&upper, &to.folder)?,
            layers: all.iter().map(|key| self.store().tree(key)).collect(),
        };
        self.compare_by_worker(job, &folders, each)
    }

    fn compare_by_worker(
        &self,
        job: Job,
        folders: &[OwnedFd],
        each: &mut dyn FnMut(Change),
    ) -> Result<(), EngineError> {
        let layers = self.layout().layers();
        let io = |action| EngineError::io(action, &layers);
        let failed = |source| EngineError::Worker {
            path: layers.clone(),
            source: Box::new(source),
        };
        let workers = self.workers()?;
        let all = fs::name_dir(&layers).map_err(io("open"))?;
        let (pipe, writer) = io::pipe().map_err(io("make a pipe for"))?;
        let mut fds = vec![all.as_fd(), writer.as_fd()];
        fds.extend(folders.iter().map(|folder| folder.as_fd()));
        let mut worker = Worker::start(&workers, job, &fds).map_err(failed)?;
        drop(fds);
        drop(writer);
        let mut pipe = BufReader::new(pipe);
        let mut text = Vec::new();
        loop {
            text.clear();
            let limit = bounds::LAYER_NEEDS_BYTES as u64;
            let read = pipe.by_ref().take(limit).read_until(0, &mut text);
            read.map_err(io("read the differences of"))?;
            // Its end, or that of a worker which says why.
            let [kind, path @ .., 0] = &text[..] else { break };
            each(Change {
                kind: char::from(*kind),
                path: String::from_utf8_lossy(path).into_owned(),
            });
        }
        match worker.reply().map_err(failed)? {
            Reply::Packed { .. } => Ok(()),
            _ => Err(failed(WorkerError::unexpected())),
        }
    }

    fn stack(&self, typed: &str, images: bool) -> Result<Stack, EngineError> {
        let whole = |image: ImageRecord, folder| Stack {
            layers: image.layers.len(),
            image,
            folder,
        };
        if images {
            return Ok(whole(self.image(typed)?, None));
        }
        let view = match self.inspect(typed) {
            Err(error) if error.is_no_container() => return Ok(whole(self.image(typed)?, None)),
            other => other?,
        };
        let (image, folder) = self.upper(&view)?;
        Ok(whole(image, Some(folder)))
    }
}
