//! Images into archives and folders, and out of them.

use super::pull::{Reach, runtime};
use super::{Engine, EngineError};
use crate::image::files::Files;
use crate::image::layout::{Layout, LayoutError, Transport};
use crate::image::load;
use crate::image::pull::{Progress, PullError};
use crate::image::push;
use crate::image::save::{SaveError, Saver, Shape};
use crate::image::sink::Sink;
use crate::image::worker::Workers;
use crate::store::ImageRecord;
use crate::types::digest::Digest;
use crate::types::reference::{Named, Reference};
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

/// What is saved: an image, and the names that it goes by there.
#[derive(Debug)]
pub struct Wanted {
    /// The image.
    pub image: ImageRecord,
    /// Its names there; none for an image that was asked for by its id.
    pub names: Vec<String>,
}

impl Engine {
    /// The image that was typed, to be saved under the name that was typed.
    pub fn wanted(&self, typed: &str) -> Result<Wanted, EngineError> {
        let image = self.image(typed)?;
        let name = match typed.strip_prefix("docker://").unwrap_or(typed).parse() {
            Ok(Named::Full(name)) if image.names.contains(&name) => Some(name.to_string()),
            _ => {
                let meant = self.image_name(&image, typed);
                let by_id = image.id.hex().starts_with(typed.trim_start_matches("sha256:"));
                Some(meant).filter(|_| !by_id)
            }
        };
        let names = name.filter(|name| !name.contains('@')).into_iter().collect();
        Ok(Wanted { image, names })
    }

    /// Writes images into one place.
    pub fn save(
        &self,
        wanted: &[Wanted],
        shape: Shape,
        sink: Sink,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(), EngineError> {
        let workers: Arc<dyn Workers> = Arc::new(self.workers()?);
        let mut saver = Saver::new(self.store(), workers, shape, sink);
        for one in wanted {
            saver.add(&one.image, &one.names, progress)?;
        }
        saver.finish().map_err(|source| SaveError::Io {
            image: wanted.first().map_or_else(String::new, |one| one.image.id.short()),
            source,
        })?;
        Ok(())
    }

    /// Sends an image to a registry, as `name`; `repack` compresses layers anew with gzip at this level. Returns the digest of its manifest there.
    pub fn push(
        &self,
        image: &ImageRecord,
        name: &Reference,
        (shape, repack): (Option<Shape>, Option<u32>),
        reach: &Reach,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<Digest, EngineError> {
        let client = self.client(name, reach)?;
        let workers: Arc<dyn Workers> = Arc::new(self.workers()?);
        let sent = push::push(self.store(), &client, &workers, image, name, (shape, repack), progress);
        Ok(runtime()?.block_on(sent)?)
    }

    /// Takes all images of an archive (`input`, which may be compressed or a pipe) or a folder.
    pub fn load(
        &self,
        path: &Path,
        input: Option<File>,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<Vec<ImageRecord>, EngineError> {
        let workers: Arc<dyn Workers> = Arc::new(self.workers()?);
        self.sweep_store(&*workers, false)?;
        let options = self.pull_options(&Reach::default())?;
        let files = match input {
            None => Files::folder(path),
            Some(input) => {
                let file = load::spool(self.store(), &options, input)?;
                Files::archive(path, file).map_err(|source| at(path, source.into()))?
            }
        };
        let layout = Layout::detect(files).map_err(|source| at(path, source))?;
        let loaded = load::load(self.store(), &workers, &layout, &options, progress);
        Ok(runtime()?.block_on(loaded)?)
    }

    /// Takes one image of a folder or an archive (`input`, where it is open already).
    pub fn pull_files(
        &self,
        (transport, path, tag): (Transport, &Path, Option<&str>),
        input: Option<File>,
        reach: &Reach,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<ImageRecord, EngineError> {
        let workers: Arc<dyn Workers> = Arc::new(self.workers()?);
        self.sweep_store(&*workers, false)?;
        let options = self.pull_options(reach)?;
        let layout = match input {
            None => Layout::open(transport, path),
            Some(input) => {
                let file = load::spool(self.store(), &options, input)?;
                Layout::of_file(transport, path, file)
            }
        };
        let layout = layout.map_err(|source| at(path, source))?;
        let picked = load::pick(self.store(), &workers, &layout, tag, &options, progress);
        Ok(runtime()?.block_on(picked)?)
    }
}

fn at(path: &Path, source: LayoutError) -> PullError {
    let name = path.display().to_string();
    PullError::Layout { name, source }
}
