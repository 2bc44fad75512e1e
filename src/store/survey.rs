//! Looks over records, references between them, and leftovers; sets broken layers aside.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::record::{Format, ImageData, PinData, RefRecord};
use super::{Store, StoreError, list};
use crate::disk::{DiskError, durable, record as records};
use crate::types::digest::Digest;

/// Something wrong in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Where: `layer sha256:…`, `image …`, `name …`, a path.
    pub object: String,
    /// What.
    pub what: String,
    /// What mends it.
    pub remedy: Remedy,
}

/// What mends a fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remedy {
    /// Fetching what is missing of this image.
    Fetch(Digest),
    /// Setting this layer aside, and fetching it again.
    Replace(Digest),
    /// Making the short link of this layer again.
    Link(Digest),
    /// Removing this file, which says nothing.
    Remove(PathBuf),
    /// A collection of what nothing needs.
    Collect,
    /// Removing what dead processes left.
    Sweep,
    /// A person, who is told this.
    Advice(String),
}

/// What there is, as far as it can be read.
#[derive(Debug, Default)]
pub struct Survey {
    /// What is wrong.
    pub faults: Vec<Fault>,
    /// Images with their layers.
    pub images: BTreeMap<Digest, Vec<Digest>>,
    /// Layers whose records are good, with their bytes.
    pub layers: BTreeMap<Digest, u64>,
}

impl Survey {
    fn add(&mut self, object: impl Into<String>, what: impl Into<String>, remedy: Remedy) {
        self.faults.push(Fault {
            object: object.into(),
            what: what.into(),
            remedy,
        });
    }
}

impl Store {
    /// Reads every record and small blob, and follows every reference. Trees are another matter (`image::check`).
    pub fn survey(&self) -> Result<Survey, StoreError> {
        let mut survey = Survey::default();
        {
            // Nobody adds or removes meanwhile, so that what looks unfinished is left over.
            let _lock = self.exclusive()?;
            let format = self.layout().data().join("format");
            if let Err(error) = records::read_optional::<Format>(&format) {
                let remedy = unless_newer(&error, Remedy::Remove(format));
                survey.add("the record of the store's format", error.to_string(), remedy);
            }
            let all_known = self.survey_images(&mut survey)?;
            self.survey_layers(&mut survey)?;
            self.survey_names(&mut survey)?;
            self.survey_pins(&mut survey)?;
            if all_known {
                self.survey_unused(&mut survey)?;
            }
            self.survey_unfinished(&mut survey)?;
        }
        for area in self.abandoned(false)? {
            if !area.trees().is_empty() {
                survey.add(
                    shown(area.dir()),
                    "is left over from a process that died",
                    Remedy::Sweep,
                );
            }
        }
        Ok(survey)
    }

    /// Returns whether every record could be read, so that what images need is known.
    fn survey_images(&self, survey: &mut Survey) -> Result<bool, StoreError> {
        let mut all_known = true;
        for file in list(&self.layout().images())? {
            let path = self.layout().images().join(&file);
            let Ok(id) = Digest::from_hex(&file) else {
                survey.add(shown(&path), "is not dunlin's", by_hand(&path));
                continue;
            };
            let object = format!("image {}", id.short());
            let data = match records::read::<ImageData>(&path) {
                Ok(data) if data.id == id => data,
                Ok(_) => {
                    all_known = false;
                    survey.add(object, "its record is another image's", Remedy::Fetch(id));
                    continue;
                }
                Err(error) => {
                    all_known = false;
                    survey.add(object, error.to_string(), unless_newer(&error, Remedy::Fetch(id)));
                    continue;
                }
            };
            for (kind, digest) in [("configuration", data.id), ("manifest", data.manifest)] {
                if let Err(error) = self.blob(&digest) {
                    survey.add(&object, format!("its {kind}: {error}"), Remedy::Fetch(id));
                }
            }
            for layer in &data.layers {
                if !self.layout().layers().join(layer.key.hex()).exists() {
                    survey.add(
                        &object,
                        format!("its layer {} is missing", layer.key),
                        Remedy::Fetch(id),
                    );
                }
            }
            survey
                .images
                .insert(id, data.layers.iter().map(|layer| layer.key).collect());
        }
        Ok(all_known)
    }

    fn survey_layers(&self, survey: &mut Survey) -> Result<(), StoreError> {
        for name in list(&self.layout().layers())? {
            let path = self.layout().layers().join(&name);
            let Ok(key) = Digest::from_hex(&name) else {
                if name != "l" {
                    survey.add(shown(&path), "is not dunlin's", by_hand(&path));
                }
                continue;
            };
            let object = format!("layer {key}");
            let record = match self.layer(&key) {
                Ok(Some(record)) if record.key == key => record,
                Ok(Some(_)) => {
                    survey.add(object, "its record is another layer's", Remedy::Replace(key));
                    continue;
                }
                Ok(None) => {
                    survey.add(object, "its record is missing", Remedy::Replace(key));
                    continue;
                }
                Err(StoreError::Disk(error)) => {
                    survey.add(object, error.to_string(), unless_newer(&error, Remedy::Replace(key)));
                    continue;
                }
                Err(error) => {
                    survey.add(object, error.to_string(), Remedy::Replace(key));
                    continue;
                }
            };
            if !path.join("diff").is_dir() {
                survey.add(object, "its tree is missing", Remedy::Replace(key));
                continue;
            }
            let target = format!("../{}", super::layer::tree(&key));
            let link = self.aliases().join(&record.alias);
            if !std::fs::read_link(&link).is_ok_and(|there| there == Path::new(&target)) {
                survey.add(object, "its short link is missing or wrong", Remedy::Link(key));
            }
            survey.layers.insert(key, record.size);
        }
        Ok(())
    }

    fn survey_names(&self, survey: &mut Survey) -> Result<(), StoreError> {
        for file in list(&self.layout().refs())? {
            let path = self.layout().refs().join(&file);
            match records::read::<RefRecord>(&path) {
                Ok(record) if self.ref_path(&record.name.to_string()) != path => {
                    survey.add(shown(&path), "is the record of another name", Remedy::Remove(path));
                }
                Ok(record) if !self.image_path(&record.image).exists() => survey.add(
                    format!("name {}", record.name),
                    format!("its image {} is missing", record.image.short()),
                    Remedy::Fetch(record.image),
                ),
                Ok(_) => {}
                Err(error) => {
                    let remedy = unless_newer(&error, Remedy::Remove(path));
                    survey.add("a name of an image", error.to_string(), remedy);
                }
            }
        }
        Ok(())
    }

    fn survey_pins(&self, survey: &mut Survey) -> Result<(), StoreError> {
        for name in list(&self.layout().pins())? {
            let object = format!("pin {name}");
            match records::read::<PinData>(&self.layout().pins().join(&name)) {
                Ok(data) => {
                    for id in data.images.iter().filter(|id| !self.image_path(id).exists()) {
                        let what = format!("the image {} that it keeps is missing", id.short());
                        survey.add(&object, what, Remedy::Fetch(*id));
                    }
                }
                Err(error) => {
                    let advice =
                        "start the agent again, which writes it anew; nothing is removed from the store before";
                    survey.add(object, error.to_string(), Remedy::Advice(advice.to_owned()));
                }
            }
        }
        Ok(())
    }

    /// Layers and blobs that no image has and no pull in flight holds.
    fn survey_unused(&self, survey: &mut Survey) -> Result<(), StoreError> {
        let held = self.held()?;
        let mut layers: BTreeSet<Digest> = held.layers.into_iter().collect();
        layers.extend(survey.images.values().flatten());
        let mut blobs: BTreeSet<Digest> = held.blobs.into_iter().collect();
        for id in survey.images.keys() {
            blobs.insert(*id);
            if let Ok(data) = records::read::<ImageData>(&self.image_path(id)) {
                blobs.insert(data.manifest);
            }
        }
        for (kind, folder, used) in [
            ("layer", self.layout().layers(), &layers),
            ("blob", self.layout().blobs(), &blobs),
        ] {
            for name in list(&folder)? {
                if let Ok(digest) = Digest::from_hex(&name)
                    && !used.contains(&digest)
                {
                    survey.add(format!("{kind} {digest}"), "no image has it", Remedy::Collect);
                }
            }
        }
        for alias in list(&self.aliases())? {
            if !self.aliases().join(&alias).exists() {
                survey.add(format!("short link {alias}"), "leads nowhere", Remedy::Collect);
            }
        }
        Ok(())
    }

    /// Temporary files of writes that were cut off.
    fn survey_unfinished(&self, survey: &mut Survey) -> Result<(), StoreError> {
        for path in self.unfinished()? {
            survey.add(
                shown(&path),
                "is left over from a write that was cut off",
                Remedy::Remove(path),
            );
        }
        Ok(())
    }

    /// Makes the short link of a layer again.
    pub fn relink(&self, key: &Digest) -> Result<(), StoreError> {
        let _lock = self.exclusive()?;
        let Some(record) = self.layer(key)? else { return Ok(()) };
        let link = self.aliases().join(&record.alias);
        durable::remove_file(&link)?;
        let target = format!("../{}", super::layer::tree(key));
        std::os::unix::fs::symlink(target, &link).map_err(DiskError::io("link", &link))?;
        Ok(durable::sync_parent(&link)?)
    }

    /// Sets a layer aside: no new container uses it, what is mounted stays as it is. One that is gone is no error.
    pub fn quarantine(&self, key: &Digest) -> Result<(), StoreError> {
        let _lock = self.exclusive()?;
        let dir = self.layout().quarantine();
        durable::create_dirs(&dir)?;
        let from = self.layout().layers().join(key.hex());
        if !from.exists() {
            return Ok(());
        }
        let place = (0..u32::MAX)
            .map(|n| dir.join(format!("{}-{n}", key.hex())))
            .find(|place| !place.exists());
        Ok(durable::rename(&from, &place.unwrap_or(dir))?)
    }

    /// Layers that were set aside, and where they are.
    pub fn quarantined(&self) -> Result<Vec<(Digest, PathBuf)>, StoreError> {
        let dir = self.layout().quarantine();
        if !dir.exists() {
            return Ok(Vec::new());
        }
        let key = |name: &String| Digest::from_hex(name.split('-').next().unwrap_or("")).ok();
        let names = list(&dir)?.into_iter();
        Ok(names.filter_map(|name| Some((key(&name)?, dir.join(name)))).collect())
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// What a newer dunlin wrote is not damaged.
fn unless_newer(error: &DiskError, remedy: Remedy) -> Remedy {
    match error {
        DiskError::Newer { .. } => {
            Remedy::Advice("nothing is changed that a newer dunlin wrote: use that one".to_owned())
        }
        _ => remedy,
    }
}

fn by_hand(path: &Path) -> Remedy {
    Remedy::Advice(format!("look what it is, and remove `{}` by hand", path.display()))
}
