//! Finds images by what people type.

use std::collections::BTreeMap;

use super::record::{ImageData, ImageRecord, RefRecord};
use super::{Store, StoreError, list};
use crate::disk::record as records;
use crate::types::digest::Digest;
use crate::types::reference::{Named, Reference};

/// Fewer digits of an id are not taken for one.
const ID_DIGITS: usize = 3;

impl Store {
    /// All images, newest first.
    pub fn images(&self) -> Result<Vec<ImageRecord>, StoreError> {
        let mut names: BTreeMap<Digest, Vec<Reference>> = BTreeMap::new();
        for record in self.references()? {
            names.entry(record.image).or_default().push(record.name);
        }
        let mut images = Vec::new();
        for file in list(&self.layout().images())? {
            // Another process may have removed it since the folder was read.
            if let Some(data) = records::read_optional::<ImageData>(&self.layout().images().join(file))? {
                let names = names.remove(&data.id).unwrap_or_default();
                images.push(image(data, names));
            }
        }
        images.sort_by(|a, b| b.created.cmp(&a.created).then(a.id.cmp(&b.id)));
        Ok(images)
    }

    /// The image with this id.
    pub fn image(&self, id: &Digest) -> Result<Option<ImageRecord>, StoreError> {
        let Some(data) = records::read_optional::<ImageData>(&self.image_path(id))? else {
            return Ok(None);
        };
        let names = self
            .references()?
            .into_iter()
            .filter(|r| r.image == *id)
            .map(|r| r.name)
            .collect();
        Ok(Some(image(data, names)))
    }

    /// All names, sorted.
    pub fn references(&self) -> Result<Vec<RefRecord>, StoreError> {
        let mut refs = Vec::new();
        for file in list(&self.layout().refs())? {
            if let Some(record) = records::read_optional::<RefRecord>(&self.layout().refs().join(file))? {
                refs.push(record);
            }
        }
        refs.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(refs)
    }

    /// The image that a person means: a name (with or without its registry), a digest, an id or the beginning of one.
    pub fn find(&self, text: &str) -> Result<ImageRecord, StoreError> {
        let images = self.images()?;
        let named = text.parse::<Named>().ok();
        let by_name = |image: &&ImageRecord| named.as_ref().is_some_and(|named| goes_by(image, named));
        if let Some(found) = only(text, images.iter().filter(by_name))? {
            return Ok(found);
        }
        let digits = text.strip_prefix("sha256:").unwrap_or(text);
        let is_id = digits.len() >= ID_DIGITS && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let by_id = |image: &&ImageRecord| is_id && image.id.hex().starts_with(digits);
        only(text, images.iter().filter(by_id))?.ok_or_else(|| StoreError::NotFound { name: text.to_owned() })
    }
}

fn image(data: ImageData, names: Vec<Reference>) -> ImageRecord {
    ImageRecord {
        id: data.id,
        manifest: data.manifest,
        names,
        layers: data.layers,
        platform: data.platform,
        size: data.size,
        created: data.created,
    }
}

fn only<'a>(text: &str, found: impl Iterator<Item = &'a ImageRecord>) -> Result<Option<ImageRecord>, StoreError> {
    let found: Vec<&ImageRecord> = found.collect();
    match found[..] {
        [] => Ok(None),
        [image] => Ok(Some(image.clone())),
        _ => Err(StoreError::Ambiguous {
            name: text.to_owned(),
            images: found
                .iter()
                .map(|image| image.id.short())
                .collect::<Vec<_>>()
                .join(", "),
        }),
    }
}

fn goes_by(image: &ImageRecord, named: &Named) -> bool {
    image.names.iter().any(|name| match named {
        Named::Full(wanted) => match wanted.digest() {
            Some(digest) => name.name() == wanted.name() && (name.digest() == Some(digest) || image.manifest == digest),
            None => name.name() == wanted.name() && name.tag() == wanted.tag() && name.digest().is_none(),
        },
        Named::Short {
            repository,
            tag,
            digest,
        } => {
            let path = name.repository();
            let ends = path
                .strip_suffix(repository.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.ends_with('/'));
            ends && match digest {
                Some(digest) => name.digest() == Some(*digest) || image.manifest == *digest,
                None => name.tag() == Some(tag.as_deref().unwrap_or("latest")),
            }
        }
    })
}
