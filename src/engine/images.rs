//! Images as the engine's callers need them: found, listed with who uses them, removed.

use super::index::{self, IndexLock};
use super::{Engine, EngineError};
use crate::config::registries::Registries;
use crate::registry::names::{self, Meaning};
use crate::store::{Collected, ImageRecord, StoreError};
use crate::types::digest::Digest;
use crate::types::reference::{Named, Reference};

/// What a removal did.
#[derive(Debug, Default)]
pub struct RemovedImage {
    /// Names that were taken away.
    pub untagged: Vec<Reference>,
    /// The image, when nothing of it is left.
    pub deleted: Option<Digest>,
}

impl Engine {
    /// The image that is meant: a name with or without its registry, a digest, an id or the beginning of one.
    pub fn image(&self, typed: &str) -> Result<ImageRecord, EngineError> {
        let text = typed.strip_prefix("docker://").unwrap_or(typed);
        match self.store().find(text) {
            // Docker Hub's official images are kept by their whole name.
            Err(StoreError::NotFound { .. }) if text.starts_with("docker.io/") => {
                let whole = match names::meaning(&Registries::default(), text)? {
                    Meaning::One(reference) => reference.to_string(),
                    Meaning::Ambiguous(_) => text.to_owned(),
                };
                Ok(self.store().find(&whole)?)
            }
            other => Ok(other?),
        }
    }

    /// The image with this id.
    pub fn image_by_id(&self, id: &Digest) -> Result<Option<ImageRecord>, EngineError> {
        Ok(self.store().image(id)?)
    }

    /// All images, newest first.
    pub fn images(&self) -> Result<Vec<ImageRecord>, EngineError> {
        Ok(self.store().images()?)
    }

    /// The image's configuration as it came (application/vnd.oci.image.config.v1+json).
    pub fn image_config(&self, image: &ImageRecord) -> Result<Vec<u8>, EngineError> {
        Ok(self.store().blob(&image.id)?)
    }

    /// What an image is called where a container shows it: the name that was typed if the image has it, else its first.
    pub(super) fn image_name(&self, image: &ImageRecord, typed: &str) -> String {
        let typed = typed.strip_prefix("docker://").unwrap_or(typed);
        if let Ok(Named::Full(name)) = typed.parse() {
            return name.to_string();
        }
        let short = |name: &&Reference| name.to_string().ends_with(typed) || name.name().ends_with(typed);
        let found = image.names.iter().find(short).or(image.names.first());
        found.map_or_else(|| image.id.hex(), ToString::to_string)
    }

    /// Gives an image names. One without a registry is below `localhost/`, as podman has it. All are checked before the first
    /// is given.
    pub fn tag(&self, typed: &str, names: &[String]) -> Result<(), EngineError> {
        let image = self.image(typed)?;
        let names = names.iter().map(|name| new_name(name)).collect::<Result<Vec<_>, _>>()?;
        for name in &names {
            self.store().tag(&image, name)?;
            self.tell("image", "tag", &image.id.hex(), &name.to_string(), "");
        }
        Ok(())
    }

    /// Takes names away from an image, all of them where none is given. The image stays.
    pub fn untag(&self, typed: &str, names: &[String]) -> Result<(), EngineError> {
        let image = self.image(typed)?;
        let mut gone = Vec::new();
        for name in names {
            let full = new_name(name)?;
            let exact = image.names.iter().find(|found| **found == full);
            let found = exact.or_else(|| image.names.iter().find(|found| goes_by(found, name)));
            gone.push(found.ok_or_else(|| EngineError::NoTag(full.to_string()))?);
        }
        if names.is_empty() {
            gone.extend(&image.names);
        }
        for name in gone {
            self.store().untag(name)?;
            self.tell("image", "untag", &image.id.hex(), &name.to_string(), "");
        }
        Ok(())
    }

    /// Removes a name of an image, and the image with its last name. By id an image with several names is refused without
    /// `force`; so is one that containers use, which `force` removes first.
    pub fn remove_image(&self, typed: &str, force: bool) -> Result<RemovedImage, EngineError> {
        let image = self.image(typed)?;
        let by_name = image.names.iter().find(|name| goes_by(name, typed)).cloned();
        match &by_name {
            Some(name) if image.names.len() > 1 => {
                self.store().untag(name)?;
                return Ok(RemovedImage {
                    untagged: vec![name.clone()],
                    deleted: None,
                });
            }
            None if image.names.len() > 1 && !force => {
                let names = image
                    .names
                    .iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()
                    .join(" ");
                return Err(EngineError::ImageNames {
                    image: image.id.hex(),
                    names,
                });
            }
            _ => {}
        }
        // Before containers go in vain.
        self.store().refuse_mounted(&image.id)?;
        for record in index::all(self.layout())?
            .into_iter()
            .filter(|record| record.image == image.id)
        {
            if !force {
                return Err(EngineError::ImageInUse {
                    image: typed.to_owned(),
                    container: record.id.hex(),
                });
            }
            self.remove(&record.id.hex(), true, false, None)?;
        }
        // No container appears on the image while it goes.
        let lock = IndexLock::take(self.layout())?;
        if let Some(record) = index::all(self.layout())?
            .into_iter()
            .find(|record| record.image == image.id)
        {
            return Err(EngineError::ImageInUse {
                image: typed.to_owned(),
                container: record.id.hex(),
            });
        }
        let collected = self.store().remove(&image, false)?;
        drop(lock);
        self.tell("image", "remove", &image.id.hex(), typed, "");
        let removed = RemovedImage {
            untagged: collected.untagged.clone(),
            deleted: collected.images.first().copied(),
        };
        self.remove_collected(collected)?;
        Ok(removed)
    }

    /// Removes what a collection took out of sight.
    fn remove_collected(&self, collected: Collected) -> Result<(), EngineError> {
        for tree in &collected.trees {
            self.remove_tree(&collected.staging.dir().join(tree))?;
        }
        Ok(())
    }
}

/// The name that somebody gives to an image.
pub fn new_name(typed: &str) -> Result<Reference, EngineError> {
    let text = typed.strip_prefix("docker://").unwrap_or(typed);
    let name = match text.parse()? {
        Named::Full(_) => names::meaning(&Registries::default(), text)?.sure(text)?,
        Named::Short { .. } => format!("localhost/{text}").parse()?,
    };
    match name.digest() {
        Some(_) => Err(EngineError::TagDigest(typed.to_owned())),
        None => Ok(name),
    }
}

/// Whether what was typed is this name, with or without its registry.
fn goes_by(name: &Reference, typed: &str) -> bool {
    match typed.strip_prefix("docker://").unwrap_or(typed).parse() {
        Ok(Named::Full(wanted)) => name.to_string() == wanted.to_string(),
        Ok(Named::Short {
            repository,
            tag,
            digest,
        }) => {
            let path = name.repository();
            let ends = path
                .strip_suffix(repository.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.ends_with('/'));
            ends && match digest {
                Some(digest) => name.digest() == Some(digest),
                None => name.tag() == Some(tag.as_deref().unwrap_or("latest")),
            }
        }
        Err(_) => false,
    }
}
